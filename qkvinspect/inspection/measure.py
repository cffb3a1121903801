"""Read every weight once and attach the norms."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Region
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.inspection.small_modules import SmallModules, measured_together, read_for
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce
from qkvinspect.sources.briefly import is_filling
from qkvinspect.tensor_table import LoneRegion
from qkvinspect.weights.table_weight import table_of
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.weights.norms import RowStats, StreamRequest

_TOGETHER, _ENOUGH = 512, 4 << 20
"""Small modules that are measured at once, and bytes of them."""


def measured(attentions: deque[Attention], progress: Progress | None) -> Iterator[Attention]:
    """Read every weight and bias once, and attach the norms; takes all modules out of the queue.

    Weights that cannot be decoded are not measured: the norm of codes is not the norm of the weight. Of a hundred
    thousand layers neither what was not measured yet nor the sums of all rows need be held beside the result: where
    layers lie in the file in their order, each is done when its weights are read.
    """
    small = SmallModules()
    large: deque[Attention] = deque()
    total = 0
    alike: list[int] = []  # how many are read in the same way, one behind another
    last = None
    for one in attentions:
        reading = small.reading(one)
        if alike and reading is last:
            alike[-1] += 1
        else:
            alike.append(1)
            last = reading
        if reading is None:
            large.append(one)
        else:
            total += reading.nbytes
    requests, shared = _requests(large)
    advance = counter(total + sum(request.weight.nbytes for request in requests), progress)
    streamed = _streamed(large, requests, shared, advance)
    for count in alike:
        reading = small.reading(attentions[0])
        most = 1 if reading is None else min(_TOGETHER, _ENOUGH // reading.nbytes)
        for done in range(0, count, most):
            some = [attentions.popleft() for _ in range(min(most, count - done))]
            if reading is None:
                yield next(streamed)
                continue
            for one, found in zip(some, measured_together(some, reading), strict=True):
                yield found or next(_streamed(deque([one]), *_requests([one]), lambda _: None))
            advance(len(some) * reading.nbytes)
    deque(streamed, maxlen=0)  # nothing is left of it but its end


def _requests(attentions: Iterable[Attention]) -> tuple[list[StreamRequest], Counter[str]]:
    """What is read of modules, in the order of the files; what several have, by how many more will ask for it."""
    from qkvinspect.weights.norms import StreamRequest

    wanted: dict[str, StreamRequest] = {}
    shared: Counter[str] = Counter()
    for attention in attentions:
        own = {one[0].name: one for part in attention.parts for one in read_for(part)}
        for name, (weight, orientation) in own.items():
            if name in wanted:
                shared[name] += 1
            else:
                wanted[name] = StreamRequest(weight, orientation)
    return sorted(wanted.values(), key=lambda request: _place(request.weight)), shared


def _streamed(
    attentions: deque[Attention],
    requests: list[StreamRequest],
    shared: Counter[str],
    advance: Callable[[int], None],
) -> Iterator[Attention]:
    """Modules of any size with their norms; takes them out of the queue."""
    from qkvinspect.weights.norms import stream

    announce(region for request in requests if not _is_at_hand(request.weight) for region in request.weight.regions)
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
