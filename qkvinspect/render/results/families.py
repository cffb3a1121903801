"""Stacks of one name that differ in nothing but their sizes, as the levels of a UNet do: one table with the sizes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.layouts.packing import describe
from qkvinspect.render import alike_names, folding, text
from qkvinspect.render.document import Block, Chapter, DataTable, FactList, TextLine
from qkvinspect.render.results.stacks import AlikeLayers, is_whole

_AROUND, _ALONE = 7, 9
"""Lines of a table besides its rows, and of a layer that is alike to no other."""


def families(found: Sequence[AlikeLayers]) -> list[list[AlikeLayers]]:
    """All stacks, those that differ only in sizes together, in the order in which they are first met."""
    groups: dict[Hashable, list[AlikeLayers]] = {}
    for number, stack in enumerate(found):
        first = stack.layers[0]
        parts = first.parts
        whole = bool(parts) and all(map(is_whole, parts))
        groups.setdefault(_form(first) if whole else number, []).append(stack)
    return list(groups.values())


def _form(one: Attention) -> Hashable:
    """What layers have in common that differ only in sizes."""
    weights = tuple(
        (alike_names.stem(weight.name), weight.dtype, weight.encoding.label if weight.encoding else None)
        for weight in (*one.weights, *one.biases)
    )
    return alike_names.stem(one.layer), one.layout, one.candidates, alike_names.stem(one.heads_from), weights


def chapter(family: Sequence[AlikeLayers], rows: int) -> Chapter:
    """Several stacks in one table: a row a layer if there is room for so many rows, else a row a stack."""
    layers = [layer for stack in family for layer in stack.layers]
    differs = alike_names.varied([layer.layer for layer in layers])
    sizes = len({_size(layer) for layer in layers})
    first = layers[0]
    origin = text.heads(first).partition(" (")[2].rstrip(")")
    facts = ("", f"{len(layers)} layers of {text.count(sizes, 'size')}", first.layout.id if first.layout else "")
    note = "  ".join((*facts, f"heads from {origin}" if origin else "heads unknown"))
    runs = [[one] for one in layers] if len(layers) <= rows else [list(stack.layers) for stack in family]
    return Chapter(text.clean(alike_names.name(first.layer, differs)), tuple(_blocks(runs, differs)), note)


def rows_for(groups: Sequence[Sequence[AlikeLayers]], lines: int) -> int:
    """Rows that each of them may have, so that all of it fits into so many lines."""
    sizes = [sum(len(stack.layers) for stack in group) for group in groups]
    around = sum(_ALONE if size == 1 else _AROUND for size in sizes)
    return folding.rooms([size for size in sizes if size > 1], lines - around)


def _blocks(runs: Sequence[Sequence[Attention]], differs: Sequence[bool]) -> Iterator[Block]:
    first = runs[0][0]
    names = ", ".join(weight.name.removeprefix(f"{first.layer}.") for weight in first.weights)
    encoding = first.weights[0].encoding
    kind = encoding.label if encoding else first.weights[0].dtype.name
    yield FactList((f"{names} {kind}, sizes below: each whole; of n x d heads, head h begins at d*h",))
    shapes = _groups(runs)
    titles = ["layer", "heads", *(", ".join(group) for group in shapes), *(f"{name} norm" for name in _names(first))]
    biased = any(part.bias for run in runs for part in run[0].parts)
    titles += [*(f"{name} bias" for name in _names(first) if biased), "non-finite"]
    rows = [_row(run, shapes, differs, biased) for run in runs]
    spare = tuple(number for number, title in enumerate(titles) if title.endswith("bias"))
    right = tuple(title.endswith(("norm", "bias", "finite")) for title in titles)
    yield DataTable(tuple(titles), rows, right, _stands_out, ruled=False, spare=spare, names=(0,))
    if any(len(run) > 1 for run in runs):
        yield TextLine("a row has the range of all layers of a size: --full shows each, --format csv all", "dim")


def _stands_out(cells: Sequence[str]) -> bool:
    return cells[-1] not in ("0", "-")


def _row(
    run: Sequence[Attention], shapes: Sequence[Sequence[str]], differs: Sequence[bool], biased: bool
) -> tuple[str, ...]:
    first = run[0]
    labels = [alike_names.label(one.layer, differs) for one in run]
    parts = dict(zip(_names(first), first.parts, strict=True))
    sizes = ["x".join(map(str, parts[group[0]].shape)) for group in shapes]
    heads = describe(first.heads).replace(" heads", "") if first.heads else "-"
    cells = [_span(run, place, bias=False) for place in range(len(parts))]
    cells += [_span(run, place, bias=True) for place in range(len(parts)) if biased]
    counted = [measure.nonfinite for one in run for measure in _measures(one)]
    return alike_names.numbers(labels), heads, *sizes, *cells, str(sum(counted)) if counted else "-"


def _span(run: Sequence[Attention], place: int, *, bias: bool) -> str:
    found = [one.parts[place].bias_measured if bias else one.parts[place].measured for one in run]
    return folding.span([measure.norm for measure in found if measure])


def _measures(one: Attention) -> Iterator[Measure]:
    for part in one.parts:
        yield from (measure for measure in (part.measured, part.bias_measured) if measure)


def _names(one: Attention) -> list[str]:
    return [part.name.upper() for part in one.parts]


def _groups(runs: Sequence[Sequence[Attention]]) -> list[list[str]]:
    """Parts that have one shape in every layer share a column."""
    groups: dict[Hashable, list[str]] = {}
    for place, name in enumerate(_names(runs[0][0])):
        groups.setdefault(tuple(run[0].parts[place].shape for run in runs), []).append(name)
    return list(groups.values())


def _size(one: Attention) -> Hashable:
    return one.heads, tuple(map(_shape, one.parts))


def _shape(part: Part) -> Hashable:
    return tuple(part.shape)
