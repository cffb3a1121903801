"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qkvinspect.inspection.disguises import scale_of
from qkvinspect.model import TensorInfo
from qkvinspect.progress import Progress, counter
from qkvinspect.report import Attention, Measure, Part


def measured(
    attentions: Sequence[Attention], tensors: Mapping[str, TensorInfo], progress: Progress | None
) -> list[Attention]:
    """Read every weight and bias once, in the order of the files, and attach the norms.

    Float8 weights are multiplied by the scales beside them. Integers are not measured: without the scale that
    belongs to them their norm would be no norm of the weight.
    """
    from qkvinspect.stats import RowStats, row_stats

    wanted: dict[str, tuple[TensorInfo, Part]] = {}
    for attention in attentions:
        for part in attention.parts:
            for info in filter(None, (part.weight, part.bias)):
                if info.dtype.kind in ("float", "complex"):
                    wanted.setdefault(info.name, (info, part))
    advance = counter(sum(info.nbytes for info, _ in wanted.values()), progress)
    stats: dict[str, RowStats | None] = {}
    for name, (info, part) in sorted(wanted.items(), key=lambda item: _place(item[1][0])):
        orientation = part.orientation if info is part.weight else "out_in"
        stats[name] = row_stats(info, orientation, advance, scale=scale_of(info, tensors))

    def measure(info: TensorInfo | None, rows: Sequence[range]) -> Measure | None:
        found = stats.get(info.name) if info is not None else None
        return Measure(*found.measure(rows)) if found is not None else None

    def with_norms(part: Part) -> Part:
        each = tuple(filter(None, (measure(part.weight, [rows]) for rows in part.heads)))
        return replace(
            part,
            measured=measure(part.weight, part.rows),
            bias_measured=measure(part.bias, part.bias_heads),
            head_measures=each,
        )

    return [replace(a, parts=tuple(map(with_norms, a.parts))) for a in attentions]


def _place(info: TensorInfo) -> tuple[str, int]:
    return info.region.source.name, info.region.start + info.offset * info.dtype.bits // 8
