"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.checkpoint import Region
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
    for attention in attentions:
        for part in attention.parts:
            if not part.weight.no_values:
                wanted.setdefault(part.weight.name, StreamRequest(part.weight, part.orientation))
            if part.bias is not None and not part.bias.no_values:
                wanted.setdefault(part.bias.name, StreamRequest(part.bias, "out_in"))
    requests = sorted(wanted.values(), key=lambda request: _place(request.weight))
    announce(region for request in requests for region in request.weight.regions)
    advance = counter(sum(request.weight.nbytes for request in requests), progress)
    streamed = zip(requests, stream(requests, advance), strict=True)
    found = {request.weight.name: stats for request, stats in streamed if stats is not None}

    merged: dict[int, tuple[range, ...]] = {}  # rows of parts by their heads, which the layers of a stack share

    def with_norms(part: Part) -> Part:
        stats = found.get(part.weight.name)
        of_bias = found.get(part.bias.name) if part.bias is not None else None
        rows = merged.get(id(part.heads))
        if rows is None:
            rows = merged[id(part.heads)] = part.rows
        return Part(
            part.name,
            part.weight,
            part.orientation,
            part.in_features,
            part.heads,
            part.bias,
            part.bias_heads,
            measured=None if stats is None else Measure(*stats.measure(rows)),
            bias_measured=None if of_bias is None else Measure(*of_bias.measure(part.bias_heads)),
            head_measures=() if stats is None else tuple([Measure(*stats.measure((rows,))) for rows in part.heads]),
            head_ranks=part.head_ranks,
        )

    return [replace(a, parts=tuple(map(with_norms, a.parts))) for a in attentions]


def _place(weight: Weight) -> tuple[str, int, int]:
    info = weight.stored[0]
    region = info.region
    if type(region) is Region:  # nearly always, and asked of every weight
        return region.source.name, region.start, info.offset
    first = next(iter(region.extents), None)
    return (first.source.name, first.start, info.offset) if first else ("", 0, 0)
