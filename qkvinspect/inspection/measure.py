"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from qkvinspect.checkpoint import Orientation, Region
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce
from qkvinspect.sources.briefly import is_filling
from qkvinspect.tensor_table import LoneRegion
from qkvinspect.weights.table_weight import table_of
from qkvinspect.weights.weight import Weight


def measured(attentions: deque[Attention], progress: Progress | None) -> Iterator[Attention]:
    """Read every weight and bias once, in the order of the files, and attach the norms; takes all out of the queue.

    Weights that cannot be decoded are not measured: the norm of codes is not the norm of the weight. Of a hundred
    thousand layers neither what was not measured yet nor the sums of all rows need be held beside the result: where
    layers lie in the file in their order, each is done when its weights are read.
    """
    from qkvinspect.weights.norms import RowStats, StreamRequest, stream

    wanted: dict[str, StreamRequest] = {}
    shared: Counter[str] = Counter()  # what several modules have, by how many more will ask for it
    for attention in attentions:
        own = {one[0].name: one for part in attention.parts for one in _read(part)}
        for name, (weight, orientation) in own.items():
            if name in wanted:
                shared[name] += 1
            else:
                wanted[name] = StreamRequest(weight, orientation)
    requests = sorted(wanted.values(), key=lambda request: _place(request.weight))
    del wanted
    announce(region for request in requests if not _is_at_hand(request.weight) for region in request.weight.regions)
    advance = counter(sum(request.weight.nbytes for request in requests), progress)
    streamed = zip(requests, stream(requests, advance), strict=True)
    found: dict[str, RowStats | None] = {}
    asked: set[str] = set()  # of one module
    merged: dict[int, tuple[object, tuple[range, ...]]] = {}  # heads, which the layers of a stack share, and their rows

    def stats_of(weight: Weight | None) -> RowStats | None:
        """What was found of a weight."""
        if weight is None or weight.no_values:
            return None
        name = weight.name
        while name not in found:
            request, stats = next(streamed)
            found[request.weight.name] = stats
        asked.add(name)
        return found[name]

    def give_up() -> None:
        """What was found of the last module's weights that no other module will ask for."""
        for name in asked:
            if shared.get(name):
                shared[name] -= 1
            else:
                del found[name]
        asked.clear()

    def with_norms(part: Part) -> Part:
        stats, of_bias = stats_of(part.weight), stats_of(part.bias)
        _, rows = merged.get(id(part.heads)) or merged.setdefault(id(part.heads), (part.heads, part.rows))
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
            head_measures=() if stats is None else tuple([Measure(*one) for one in stats.each(part.heads)]),
            head_ranks=part.head_ranks,
        )

    while attentions:
        one = attentions.popleft()
        yield replace(one, parts=tuple(map(with_norms, one.parts)))
        give_up()
    deque(streamed, maxlen=0)  # nothing is left of it but its end


def _read(part: Part) -> Iterator[tuple[Weight, Orientation]]:
    """What is read for a part."""
    if not part.weight.no_values:
        yield part.weight, part.orientation
    if part.bias is not None and not part.bias.no_values:
        yield part.bias, "out_in"


def _is_at_hand(weight: Weight) -> bool:
    """Whether it is in a file of this machine, to which nothing need be announced; asked of a hundred thousand."""
    table = table_of(weight)
    return table is not None and is_filling(table.source)


def _place(weight: Weight) -> tuple[str, int, int]:
    table = table_of(weight)
    if table is not None:
        return table.source.name, table.place(weight.name)[0], 0
    info = weight.stored[0]
    region = info.region
    if type(region) is LoneRegion or type(region) is Region:  # nearly always, and asked of every weight
        return region.source.name, region.start, info.offset
    first = next(iter(region.extents), None)
    return (first.source.name, first.start, info.offset) if first else ("", 0, 0)
