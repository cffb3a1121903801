"""From a checkpoint to a report: find the modules, infer the heads, measure the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.inspection import disguises, geometry, heads, match
from qkvinspect.inspection.findings import about_heads, about_numbers, once
from qkvinspect.inspection.measure import measured
from qkvinspect.inspection.names import Names
from qkvinspect.layouts import LAYOUTS, Layout, Stored
from qkvinspect.matrix import shape_as_matrix
from qkvinspect.model import Checkpoint, Finding, TensorInfo
from qkvinspect.packing import split_rows
from qkvinspect.progress import Progress
from qkvinspect.report import Attention, Part, Report


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at and what to take as given.

    Attributes:
        heads: values of --heads, the last that fits a layer counting.
        layouts: values of --layout, as (layer glob, layout id).
        layers: globs; only layers that match one are reported. None or empty: all.
        norms: whether to read the weights at all.
    """

    heads: tuple[str, ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    layers: tuple[str, ...] = ()
    norms: bool = True


def inspect(
    checkpoint: Checkpoint,
    options: Options = Options(),
    progress: Progress | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Report:
    """Find every attention module of a checkpoint and say which rows are Q, K and V of which head.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: an option contradicts the file.
        UsageError: an option has no meaning, or names no layer.
    """
    flags = [heads.parse_flag(text) for text in options.heads]
    lost = disguises.without_values(checkpoint.tensors)
    names = Names({name: info for name, info in checkpoint.tensors.items() if name not in lost})
    matches, stale = match.find_attentions(names, layouts, checkpoint.configs, options.layouts)
    if "safetensors" in checkpoint.format:  # sorted as text by its writer: layer 10 before layer 2
        matches.sort(key=lambda found: _natural(found.candidates[0].layer))
    lora = disguises.lora(checkpoint.tensors)
    attentions: list[Attention] = []
    findings = [*checkpoint.findings, *stale, *disguises.findings(checkpoint)]
    for found in matches:
        if options.layers and not any(fnmatchcase(found.candidates[0].layer, g) for g in options.layers):
            continue
        attention, about = _attention(found, names, flags, checkpoint)
        findings += about
        if attention is not None:
            attentions += [attention, *disguises.adapters(attention, lora)]
    if options.layers and not attentions:
        known = ", ".join(found.candidates[0].layer for found in matches[:6])
        raise UsageError(
            f"no attention module is called {' or '.join(options.layers)}",
            file=checkpoint.path,
            found=f"{known}{', ...' if len(matches) > 6 else ''}" if matches else "none at all",
            hint="give a name or a glob such as 'encoder.*'",
        )
    if options.norms:
        attentions = measured(attentions, checkpoint.tensors, progress)
        findings += [finding for attention in attentions for finding in about_numbers(attention)]
    return Report(checkpoint, tuple(attentions), tuple(once(findings)), bool(options.layers))


def _natural(name: str) -> list[str | int]:
    """Sorts the numbers in a name as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d{1,9})", name)]


def _attention(
    found: match.Match, names: Names, flags: Sequence[heads.HeadFlag], checkpoint: Checkpoint
) -> tuple[Attention | None, list[Finding]]:
    candidate = found.candidates[0]
    layer = candidate.layer
    base = Attention(
        layer=layer,
        layout=None,
        layout_from=found.decided_by,
        candidates=tuple(dict.fromkeys(c.layout.id for c in found.candidates)),
        tensors={"weight": candidate.weights[0].name},
        dtype=candidate.weights[0].dtype.name,
        embed_dim=None,
        weights=candidate.weights,
    )
    if found.chosen is None:
        text = f"it may be {' or '.join(base.candidates)}; --layout '{layer}=ID' or --config FILE settles it"
        return base, [Finding("ambiguous-layout", "warning", text, layer)]
    try:
        return _split(base, candidate, names, flags, checkpoint)
    except LayoutError as error:
        text = f"{error.message}{f' ({error.found})' if error.found else ''}; it is left out"
        return None, [Finding("unexpected-shape", "warning", text, layer)]


def _split(
    base: Attention,
    candidate: match.Candidate,
    names: Names,
    flags: Sequence[heads.HeadFlag],
    checkpoint: Checkpoint,
) -> tuple[Attention, list[Finding]]:
    """Cut the module's tensors into Q, K and V, and those into heads where their number is known."""
    layout = candidate.layout
    shapes = candidate.shapes
    candidate.require_square()
    out = next(filter(None, (names.find(key, candidate.path) for key in layout.out)), None)
    out_features = None
    if out is not None and len(out.shape) > 1:
        out_features = shape_as_matrix(out, layout.out_orientation)[1]
    facts = list(heads.facts(candidate, names, flags, checkpoint.configs, checkpoint.modules))
    solution = geometry.solve(candidate, out_features, facts)
    findings = list(about_heads(candidate.layer, solution))
    biases = [(stored, names.find(stored.key, candidate.path)) for stored in layout.biases]
    extras = tuple(
        (info, meaning) for key, meaning in layout.extras if (info := names.find(key, candidate.path)) is not None
    )
    sizes = solution.geometry
    parts: tuple[Part, ...] = ()
    if sizes is not None:
        bias_rows = {
            part: (info, rows)
            for stored, info in biases
            if info is not None
            for part, rows in split_rows(stored.packing, sizes, info.numel).items()
        }
        parts = tuple(
            Part(name, info, stored.orientation, shape[1], rows[name], *bias_rows.get(name, (None, ())))
            for info, stored, shape, rows in zip(
                candidate.weights,
                layout.weights,
                shapes,
                geometry.rows_of(layout, sizes, [total for total, _ in shapes]),
                strict=True,
            )
            for name in ("q", "k", "v")
            if name in rows
        )
    for info, meaning in extras:
        findings.append(Finding("extra-position", "info", f"{info.name} is {meaning}", candidate.layer))
    attention = replace(
        base,
        layout=layout,
        tensors=_tensor_names(layout, candidate.weights, biases, out, names),
        embed_dim=shapes[0][1],
        geometry=sizes,
        heads_from=solution.origin if sizes else "unknown",
        possible_heads=solution.possible,
        parts=tuple(sorted(parts, key=lambda part: "qkv".index(part.name))),
        out=out,
        extras=extras,
    )
    return attention, findings


def _tensor_names(
    layout: Layout,
    weights: Sequence[TensorInfo],
    biases: Sequence[tuple[Stored, TensorInfo | None]],
    out: TensorInfo | None,
    names: Names,
) -> dict[str, str]:
    """The stored tensors by role: ``weight`` and ``bias`` where one holds all parts, else ``q``, ``q_bias``..."""
    found: dict[str, str] = {}
    for stored, info in zip(layout.weights, weights, strict=True):
        found[_role(stored, "weight")] = info.name
    for stored, info in biases:
        if info is not None:
            role = _role(stored, "bias")
            found[role if role == "bias" else f"{role}_bias"] = info.name
    if out is not None:
        found["out"] = out.name
        out_bias = names.find_sibling(out.name, "bias")
        if out_bias is not None:
            found["out_bias"] = out_bias
    return found


def _role(stored: Stored, whole: str) -> str:
    parts = stored.packing.parts & {"q", "k", "v"}
    return whole if len(parts) == 3 else "".join(sorted(parts, key="qkv".index))
