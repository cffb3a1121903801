"""Rows of several tensors put into the order of a packing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor, RowRun, contents, spans
from qkvinspect.fast_dataclass import replace
from qkvinspect.layouts.packing import Geometry, Packing, split_rows
from qkvinspect.weights.weight import Weight

BOTH = {"kv": ("k", "v"), "qk": ("q", "k")}
"""Parts that stand for two at once."""


def count(runs: Sequence[RowRun]) -> int:
    return sum(len(run.rows) for run in runs)


def arrange(packing: Packing, geometry: Geometry, parts: Mapping[str, tuple[RowRun, ...]]) -> tuple[RowRun, ...]:
    """The rows of the parts in the order of a packing."""
    total = sum(map(count, parts.values()))
    places = split_rows(packing, geometry, total)
    placed: list[tuple[int, RowRun]] = []
    for part, runs in parts.items():
        targets = places[BOTH.get(part, (part,))[0]]
        waiting = list(reversed(runs))
        for place in targets:
            done = 0
            while done < len(place):
                run = waiting.pop()
                take = min(len(run.rows), len(place) - done) if place.step == 1 else 1
                if take < len(run.rows):
                    waiting.append(replace(run, rows=run.rows[take:]))
                placed.append((place[done], replace(run, rows=run.rows[:take])))
                done += take
    placed.sort(key=lambda item: item[0])
    return merged(run for _, run in placed)


def merged(runs: Iterable[RowRun]) -> tuple[RowRun, ...]:
    """Join neighbouring rows of the same tensor."""
    found: list[RowRun] = []
    for run in runs:
        last = found[-1] if found else None
        if last is not None and last.weight is run.weight and last.orientation == run.orientation:
            a, b = last.rows, run.rows
            step = b.start - a[-1] if len(a) and len(b) else 0
            if step > 0 and all(len(r) == 1 or r.step == step for r in (a, b)):
                found[-1] = RowRun(range(a.start, b[-1] + 1, step), run.weight, run.orientation)
                continue
        found.append(run)
    return tuple(found)


def joined(name: str, runs: tuple[RowRun, ...]) -> OutputTensor:
    weight = weight_of(runs)
    return OutputTensor(name, (count(runs), weight.as_shape(runs[0].orientation)[1]), weight.dtype, runs)


def weight_of(runs: Sequence[RowRun]) -> Weight:
    """The first that rows are of."""
    return next(run.weight for run in runs if run.weight is not None)


def is_zero(piece: OutputTensor) -> bool:
    return not any(any(data) for data in contents(spans(piece)))


def same_bytes(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether two streams are the same bytes, however they are cut."""
    left, right = memoryview(b""), memoryview(b"")
    while True:
        left = left or memoryview(next((data for data in one if data), b""))
        right = right or memoryview(next((data for data in other if data), b""))
        count = min(len(left), len(right))
        if not count:
            return len(left) == len(right)
        if left[:count] != right[:count]:
            return False
        left, right = left[count:], right[count:]


def one_dtype(source: StoredPart, weights: Sequence[Weight]) -> DType:
    dtypes = {weight.dtype.name: weight.dtype for weight in weights}
    if len(dtypes) > 1:
        raise LayoutError(
            f"Q, K and V of layer {source.layer!r} do not fit into one tensor",
            expected="one dtype",
            found=" and ".join(dtypes),
            hint="a dtype is never changed here: convert it first",
        )
    return next(iter(dtypes.values()))
