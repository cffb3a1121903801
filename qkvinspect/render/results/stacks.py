"""Layers that are stored alike, shown as one: what is stored, said once, and a row of norms for each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.norms_of_layers import NormsOfLayers, norms_of
from qkvinspect.inspection.repeated import in_written_runs
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.render import alike_names, folding, text
from qkvinspect.render.document import Block, Chapter, DataTable, FactList, TextLine
from qkvinspect.render.spark import spark
from qkvinspect.weights.weight import Weight

_AROUND, _ALONE = 7, 9
"""Lines of a stack besides its rows, and of a layer that is alike to no other."""

_WIDE = 8
"""Characters of a curve: about as wide as a number."""


@dataclass(frozen=True, slots=True)
class AlikeLayers:
    """Layers whose names differ only in numbers and that are stored alike.

    Attributes:
        name: what the names have in common; ``*`` is a number that differs.
        labels: those numbers of each layer, ``3`` or ``0.3``.
        unlike: in what it differs from the largest stack of the same name, and how many layers that has.
        shares: whether another stack has the same name.
    """

    layers: tuple[Attention, ...]
    name: str
    labels: tuple[str, ...]
    unlike: str = ""
    shares: bool = False


def stacks(attentions: Sequence[Attention]) -> list[AlikeLayers]:
    """All layers in stacks, in the order in which they are first met."""
    named: dict[str, dict[Hashable, list[Attention]]] = {}
    known: dict[int, list[Attention]] = {}
    place: dict[int, int] = {}
    for first, some in in_written_runs(attentions):
        group = known.get(id(first))
        if group is None:
            groups = named.setdefault(alike_names.stem(first.layer), {})
            group = known[id(first)] = groups.setdefault(_stored(first), [])
            place.setdefault(id(group), len(place))
        group += some
    found = [stack for groups in named.values() for stack in _of_one_name(list(groups.values()))]
    return [stack for _, stack in sorted(found, key=lambda one: place[one[0]])]


def chapter(stack: AlikeLayers, rows: int | None) -> Chapter:
    """A stack of several layers.

    Args:
        rows: how many there is room for; neighbours then share a row, with the range of their norms.
    """
    first = stack.layers[0]
    which = f" ({alike_names.numbers(stack.labels)})" if stack.shares else ""
    layers = text.count(len(stack.layers), "layer") + which
    note = "  ".join(("", layers, first.layout.id if first.layout else text.layout(first), text.heads(first)))
    return Chapter(text.clean(stack.name), tuple(_blocks(stack, rows)), note)


def least(found: Sequence[AlikeLayers]) -> int:
    """Lines that stacks take if each has no more rows than it needs in any case."""
    sizes = [len(stack.layers) for stack in found]
    return sum(_ALONE if size == 1 else _AROUND + min(size, folding.FEWEST) for size in sizes)


def rows_for(found: Sequence[AlikeLayers], lines: int) -> int:
    """Rows of layers that each stack may have, so that all of it fits into so many lines."""
    sizes = [len(stack.layers) for stack in found]
    around = sum(_ALONE if size == 1 else _AROUND for size in sizes)
    return folding.rooms([size for size in sizes if size > 1], lines - around)


def _of_one_name(groups: Sequence[list[Attention]]) -> Iterator[tuple[int, AlikeLayers]]:
    """The stacks of layers whose names differ in numbers only, each with the id of the group that it is."""
    numbers = [alike_names.columns([one.layer for one in group]) for group in groups]
    differs = [alike_names.are_different(chain(*same)) for same in zip(*numbers, strict=True)]
    main = max(groups, key=len)
    for group, own in zip(groups, numbers, strict=True):
        first = group[0].layer
        name = alike_names.name(first, differs) if len(group) > 1 else first
        labels = tuple(alike_names.labels(own, differs, len(group)))
        yield id(group), AlikeLayers(tuple(group), name, labels, _difference(group, main), len(groups) > 1)


_KINDS = ("layout", "heads", "source of the heads", "stored tensors", "biases")


def _stored(attention: Attention) -> tuple[Hashable, ...]:
    """What must be equal for layers to be alike, under _KINDS."""
    return (
        (attention.layout, attention.candidates),
        attention.heads,
        alike_names.stem(attention.heads_from),
        tuple(map(_tensor, attention.weights)),
        tuple(map(_tensor, attention.biases)),
    )


def _tensor(weight: Weight) -> Hashable:
    encoding = weight.encoding.label if weight.encoding else None
    return alike_names.stem(weight.name), weight.shape, weight.dtype, encoding


def _difference(group: Sequence[Attention], main: Sequence[Attention]) -> str:
    """Where a few layers differ from many of the same name."""
    if 2 * len(group) >= len(main):
        return ""
    pairs = zip(_KINDS, _stored(group[0]), _stored(main[0]), strict=True)
    different = [kind for kind, one, other in pairs if one != other]
    return f"unlike the {len(main)} other layers of this name: {', '.join(different)}"


def _blocks(stack: AlikeLayers, rows: int | None) -> Iterator[Block]:
    first = stack.layers[0]
    yield FactList((f"{text.stored(first)}{': ' * bool(first.parts)}{_cut(first)}",))
    if stack.unlike:
        yield TextLine(stack.unlike, "yellow")
    names = [part.name for part in first.parts]
    found = norms_of(stack.layers, names)
    columns = [*_columns(names, found)]
    if columns:
        yield _table(stack, columns, found.nonfinite, rows)


def _cut(attention: Attention) -> str:
    """Which rows of what is stored are Q, K and V, and where each head begins."""
    if not attention.parts:
        return ""
    if all(map(is_whole, attention.parts)):
        return "each whole" + _starts(attention)
    shown: list[str] = []
    last = ""
    for part in attention.parts:
        axis = f"{part.axis_name} " if part.axis_name != last else ""
        shown.append(f"{part.name.upper()} {axis}{text.rows(part.rows)}")
        last = part.axis_name
    return ", ".join(shown) + _starts(attention)


def is_whole(part: Part) -> bool:
    """Whether it is all of one stored tensor; a single number (``[]``) has no axis to be cut along."""
    shape = part.weight.shape
    return part.axis < len(shape) and part.rows == (range(shape[part.axis]),)


def _starts(attention: Attention) -> str:
    """``; head h at 64*h in each``: where the heads of each part start at equal distances."""
    if attention.heads is None or attention.heads.num_heads == 1:
        return ""
    if any(run.step != 1 for part in attention.parts for run in part.heads):
        return "; --per-head has the rows of each head"
    steps = {step for part in attention.parts if len(part.heads) > 1 for step in _distances(part)}
    is_run = all(step >= len(part.heads[0]) for part in attention.parts for step in _distances(part))
    return (
        f"; head h at {steps.pop()}*h in each"
        if len(steps) == 1 and is_run
        else "; --per-head has the rows of each head"
    )


def _distances(part: Part) -> Iterator[int]:
    """Between one head of a part and the next."""
    for one, other in zip(part.heads, part.heads[1:], strict=False):
        yield other.start - one.start


@dataclass(frozen=True, slots=True)
class NormColumn:
    """A figure of each layer, in their order; None where there is none."""

    title: str
    norms: Sequence[float | None]


def _columns(names: Sequence[str], found: NormsOfLayers) -> Iterator[NormColumn]:
    titles = [*(f"{name.upper()} norm" for name in names), *(f"{name.upper()} bias" for name in names)]
    for title, norms in zip(titles, found.columns, strict=True):
        if any(norm is not None for norm in norms):
            yield NormColumn(title, norms)


def _table(
    stack: AlikeLayers, columns: Sequence[NormColumn], nonfinite: Sequence[int | None], rows: int | None
) -> DataTable:
    titles = ("layer", *(column.title for column in columns), "non-finite")
    size = math.ceil(len(stack.layers) / rows) if rows else 1
    every = [_in_rows(stack.labels, size, list, folding.label)]
    every += [_in_rows(column.norms, size, text.figures, _range) for column in columns]
    every += [_in_rows(nonfinite, size, _counts, _total)]
    lines = [*zip(*every, strict=True)]
    curves = ("", *(spark(_numbers(column.norms), _WIDE) for column in columns), "")
    spare = tuple(number for number, title in enumerate(titles) if title.endswith("bias"))
    right = (False, *(True for _ in titles[1:]))
    return DataTable(titles, [*lines, curves], right, _stands_out, ruled=False, spare=spare)


def _stands_out(cells: Sequence[str]) -> bool:
    """Whether values are counted that are not finite."""
    return cells[-1] not in ("0", "-", "")


Of = TypeVar("Of")


def _in_rows(
    values: Sequence[Of], size: int, each: Callable[[Sequence[Of]], list[str]], joined: Callable[[Sequence[Of]], str]
) -> list[str]:
    """The cells of a column of which so many neighbours share a row."""
    if size == 1:
        return each(values)
    return [joined(values[start : start + size]) for start in range(0, len(values), size)]


def _range(norms: Sequence[float | None]) -> str:
    return folding.span([norm for norm in norms if norm is not None])


def _count(nonfinite: int | None) -> str:
    return "-" if nonfinite is None else str(nonfinite)


def _counts(nonfinite: Sequence[int | None]) -> list[str]:
    return list(map(_count, nonfinite))


def _total(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return _count(sum(known) if known else None)


def _numbers(norms: Sequence[float | None]) -> list[float]:
    return [math.nan if norm is None else norm for norm in norms]
