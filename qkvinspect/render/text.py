"""Format text for people: escape names from a file, shorten numbers and sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

from qkvinspect.errors import clean
from qkvinspect.findings import Finding
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.report import Attention, Measure, Report
from qkvinspect.layouts.packing import describe, span
from qkvinspect.render.alike_names import name, stem, together, varied
from qkvinspect.render.model import in_short
from qkvinspect.weights.weight import Weight

_LEAST, _MOST = 0.1, 1e7
"""Of numbers whose first three decimals say enough."""


def number(value: float) -> str:
    """Three decimals, or three digits where that says more."""
    if not math.isfinite(value) or value == 0:
        return str(value) if value else "0"
    return f"{value:.3f}" if _LEAST <= abs(value) < _MOST else f"{value:.3g}"


def figures(norms: Sequence[float | None]) -> list[str]:
    """``number`` of each of many norms; ``-`` for None."""
    return [
        "-" if norm is None else f"{norm:.3f}" if _LEAST <= norm < _MOST else number(norm) if norm else "0"
        for norm in norms  # of which there may be a million
    ]


def norm(measure: Measure | None) -> str:
    return "-" if measure is None else number(measure.norm)


def size(nbytes: int) -> str:
    """Bytes in the unit that fits, decimal as disks and hubs count."""
    value, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"


def rows(runs: Sequence[range]) -> str:
    """Half-open row ranges as slices: ``0:64, 192:256``; many are summed up."""
    shown = [span(run) for run in runs[:4]]
    if len(runs) > 4:
        shown = [*shown[:2], f"... {len(runs)} runs"]
    return ", ".join(shown)


def ranges(runs: Sequence[range], axis: int) -> str:
    """As ``rows``; ``columns 0:64`` where they are ranges of the stored tensor's second axis."""
    return f"columns {rows(runs)}" if axis else rows(runs)


def shape(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary(report: Report) -> list[str]:
    """The file in one line, and what else was found in it in a second."""
    checkpoint = report.checkpoint
    facts = [
        checkpoint.path,
        checkpoint.format,
        *([count(checkpoint.num_files, "file")] if checkpoint.num_files > 1 else []),
        *([f"in {checkpoint.container!r}"] if checkpoint.container else []),
        count(len(checkpoint.tensors), "tensor"),
        size(checkpoint.num_bytes),
        *in_short(report),
        count(len(report.attentions), "attention module") + (" selected" if report.selected else ""),
    ]
    lines = ["  ".join(map(clean, facts))]
    others = [c for c in checkpoint.containers if c.path != checkpoint.container]
    if others:
        named = ", ".join(f"{c.path!r} ({c.role}, {count(c.num_tensors, 'tensor')})" for c in others)
        lines.append(clean(f"also holds {named}: --container NAME shows it"))
    return lines


def headline(report: Report) -> str:
    """The file in one line, under its own name without the folders above it."""
    path = clean(report.checkpoint.path)
    return f"{PurePath(path).name}{summary(report)[0].removeprefix(path)}"


def part(name: str) -> str:
    """What a part is called: ``Q``; ``gate``."""
    return name.upper() if name in ("q", "k", "v") else name


def findings(found: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Each finding in a line; what holds for several layers is said once, with the names of all."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.code, _of_any_layer(finding)), []).append(finding)
    lines: list[tuple[Finding, str]] = []
    for group in groups.values():
        first, message = group[0], group[0].message
        if len(group) > 1:
            layers = [each.layer or "" for each in group]
            names = list(map(layer, together(layers)))
            if message != group[1].message:
                message = message.replace(first.layer or message, name(layers[0], varied(layers)))
            message += f" ({count(len(group), 'layer')}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        elif first.layer:
            message = f"{first.layer}: {message}"
        lines.append((first, clean(message)))
    return lines


def _of_any_layer(finding: Finding) -> str:
    """What is said, without the numbers of the layer's own name."""
    layer = finding.layer
    return finding.message.replace(layer, stem(layer)) if layer and layer in finding.message else finding.message


def heads(attention: Attention) -> str:
    """The number of heads, and its source."""
    if attention.heads is None:
        return "heads unknown"
    origin = {"flag": "--heads"}.get(attention.heads_from, attention.heads_from.removeprefix("config:"))
    if attention.heads_said_by is SaidBy.WEIGHTS and attention.evidence and attention.evidence.heads:
        origin = f"the weights, {confidence(attention.evidence.heads.confidence)} sure"
    return clean(f"{describe(attention.heads)} ({origin})")


def confidence(share: float) -> str:
    """A probability as a percentage that never says certain."""
    return f"{min(int(share * 10_000) / 100, 99.99):g} %"


def stored(attention: Attention) -> str:
    """The stored weights, by the end of their names, with shape and dtype."""
    infos = attention.weights
    layer = attention.layer + "."
    names = [info.name.removeprefix(layer) for info in infos]
    alike = len(set(map(_kind, infos))) == 1
    if alike:
        return clean(f"{', '.join(names)} {_kind(infos[0])}")
    return clean(", ".join(f"{name} {_kind(info)}" for name, info in zip(names, infos, strict=True)))


def layer(name: str) -> str:
    """A module's name; a state_dict of one module alone gives it none."""
    return clean(name) or "(the module itself)"


def layout(attention: Attention) -> str:
    if attention.layout is None:
        return f"layout {attention.may_be}" if attention.candidates else attention.may_be
    memory = ", from memory only" if attention.layout.proof == "memory" else ""
    return f"{attention.layout.id} ({attention.layout.kind}{memory})"


def _kind(info: Weight) -> str:
    """Shape and dtype; how it is encoded, and in how many bits for each number, where it is."""
    if info.encoding is None:
        return f"{shape(info.shape)} {info.dtype.name}"
    return f"{shape(info.shape)} {info.encoding.label} ({8 * info.nbytes / max(info.numel, 1):.3g} bits a weight)"
