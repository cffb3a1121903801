"""Cut a module's tensors into Q, K and V, and those into heads where their number is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from qkvinspect.checkpoint import Finding, TensorInfo
from qkvinspect.inspection import solve as geometry
from qkvinspect.inspection.facts.heads import HeadFact
from qkvinspect.inspection.match import Candidate, Match
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_heads
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import split_rows
from qkvinspect.weights.strided import shape_as_matrix


def unsplit(found: Match) -> Attention:
    """A module of which no more is known than its tensors."""
    candidate = found.candidates[0]
    return Attention(
        layer=candidate.layer,
        layout=None,
        layout_from=found.decided_by,
        candidates=tuple(dict.fromkeys(c.layout.id for c in found.candidates)),
        tensors={"weight": candidate.weights[0].name},
        dtype=candidate.weights[0].dtype.name,
        embed_dim=None,
        weights=candidate.weights,
        found_by=candidate.layout.found_by,
    )


def split(
    base: Attention, candidate: Candidate, names: Names, facts: Iterable[HeadFact]
) -> tuple[Attention, list[Finding]]:
    """Cut a module's tensors.

    Args:
        facts: what is known of its heads, the most trusted first.

    Raises:
        LayoutError: the shapes are not those of the candidate's layout.
    """
    layout = candidate.layout
    shapes = candidate.shapes
    candidate.require_square()
    out = next(filter(None, (names.find(key, candidate.path) for key in layout.out)), None)
    out_features = None
    if out is not None and len(out.shape) > 1:
        out_features = shape_as_matrix(out, layout.out_orientation)[1]
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
    biases: Sequence[tuple[StoredWeight, TensorInfo | None]],
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


def _role(stored: StoredWeight, whole: str) -> str:
    parts = stored.packing.parts & {"q", "k", "v"}
    return whole if len(parts) == 3 else "".join(sorted(parts, key="qkv".index))
