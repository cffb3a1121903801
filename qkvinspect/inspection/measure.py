"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce
from qkvinspect.weights.weight import Weight


def measured(attentions: Sequence[Attention], progress: Progress | None) -> list[Attention]:
    """Read every weight and bias once, in the order of the files, and attach the norms.

    Weights that cannot be decoded are not measured: the norm of codes is not the norm of the weight.
    """
    from qkvinspect.weights.norms import StreamRequest, stream

    wanted: dict[str, StreamRequest] = {}
    groups: dict[str, set[tuple[range, ...]]] = {}
    for attention in attentions:
        for part in attention.parts:
            for weight, rows in _groups(part):
                if not weight.no_values:
                    orientation = part.orientation if weight is part.weight else "out_in"
                    wanted.setdefault(weight.name, StreamRequest(weight, orientation))
                    groups.setdefault(weight.name, set()).add(rows)
    requests = sorted(wanted.values(), key=lambda request: _place(request.weight))
    announce(region for request in requests for region in request.weight.regions)
    advance = counter(sum(request.weight.nbytes for request in requests), progress)
    found: dict[tuple[str, tuple[range, ...]], Measure] = {}
    for request, stats in zip(requests, stream(requests, advance), strict=True):
        name = request.weight.name
        if stats is not None:
            found.update(((name, rows), Measure(*stats.measure(rows))) for rows in groups[name])

    def with_norms(part: Part) -> Part:
        whole, *rest = (found.get((weight.name, rows)) for weight, rows in _groups(part))
        heads = tuple(filter(None, rest[: len(part.heads)]))
        return replace(part, measured=whole, bias_measured=rest[-1] if part.bias else None, head_measures=heads)

    return [replace(a, parts=tuple(map(with_norms, a.parts))) for a in attentions]


def _groups(part: Part) -> Iterator[tuple[Weight, tuple[range, ...]]]:
    """The rows to measure: the whole weight, each of its heads, the bias."""
    yield part.weight, part.rows
    for rows in part.heads:
        yield part.weight, (rows,)
    if part.bias is not None:
        yield part.bias, part.bias_heads


def _place(weight: Weight) -> tuple[str, int, int]:
    info = weight.stored[0]
    first = next(iter(info.region.extents), None)
    return (first.source.name, first.start, info.offset) if first else ("", 0, 0)
