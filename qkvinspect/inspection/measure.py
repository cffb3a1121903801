"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.inspection.adapters_and_wrappers import scale_of
from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce


def measured(
    attentions: Sequence[Attention], tensors: Mapping[str, TensorInfo], progress: Progress | None
) -> list[Attention]:
    """Read every weight and bias once, in the order of the files, and attach the norms.

    Float8 weights are multiplied by the scales beside them. Integers are not measured: without the scale that
    belongs to them their norm would be no norm of the weight.
    """
    from qkvinspect.weights.norms import StreamRequest, stream

    wanted: dict[str, StreamRequest] = {}
    groups: dict[str, set[tuple[range, ...]]] = {}
    for attention in attentions:
        for part in attention.parts:
            for info, rows in _groups(part):
                if info.dtype.kind in ("float", "complex"):
                    orientation = part.orientation if info is part.weight else "out_in"
                    wanted.setdefault(info.name, StreamRequest(info, orientation, scale_of(info, tensors)))
                    groups.setdefault(info.name, set()).add(rows)
    requests = sorted(wanted.values(), key=lambda request: _place(request.info))
    announce(info.region for request in requests for info in (request.scale, request.info) if info is not None)
    advance = counter(sum(request.info.nbytes for request in requests), progress)
    found: dict[tuple[str, tuple[range, ...]], Measure] = {}
    for request, stats in zip(requests, stream(requests, advance), strict=True):
        name = request.info.name
        if stats is not None:
            found.update(((name, rows), Measure(*stats.measure(rows))) for rows in groups[name])

    def with_norms(part: Part) -> Part:
        whole, *rest = (found.get((info.name, rows)) for info, rows in _groups(part))
        heads = tuple(filter(None, rest[: len(part.heads)]))
        return replace(part, measured=whole, bias_measured=rest[-1] if part.bias else None, head_measures=heads)

    return [replace(a, parts=tuple(map(with_norms, a.parts))) for a in attentions]


def _groups(part: Part) -> Iterator[tuple[TensorInfo, tuple[range, ...]]]:
    """Whose norms are asked for: all of the weight, each of its heads, the bias."""
    yield part.weight, part.rows
    for rows in part.heads:
        yield part.weight, (rows,)
    if part.bias is not None:
        yield part.bias, part.bias_heads


def _place(info: TensorInfo) -> tuple[str, int, int]:
    first = next(iter(info.region.extents), None)
    return (first.source.name, first.start, info.offset) if first else ("", 0, 0)
