"""``lineage``: what checkpoints are to each other, a tree of them, and a map of how far each head moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from qkvinspect.lineage import Lineage
from qkvinspect.lineage.fates import FATES, HeadFate
from qkvinspect.lineage.kinship import VERDICTS, Kinship, Verdict, label
from qkvinspect.render import text
from qkvinspect.render.document import (
    Block,
    Cell,
    Chapter,
    CodeBlock,
    Conclusion,
    DataTable,
    Document,
    Items,
    Remark,
    Style,
    TextLine,
)
from qkvinspect.render.labels import apart
from qkvinspect.render.lineage_picture import MARKS, legend, shown

COLUMNS = ("a", "b", "verdict", "p_value", "in_a", "in_b", "layer", "head_a", "head_b", "fate", "like", "like_layer",
    "cosine", "moved_qk", "moved_ov")  # fmt: skip
PAIRS = ("", "", "verdict", "p-value", "in place", "distance")

_STYLES: dict[Verdict, Style] = {
    "identical": "bold green",
    "derived": "bold green",
    "common ancestor": "bold green",
    "kin": "bold green",
    "unrelated": "bold red",
    "undetermined": "yellow",
}
_UNITS = {"residual": "units of the residual stream", "inner": "rows of V in their heads"}


def document(lineage: Lineage) -> Document:
    """A lineage; CSV has a row for each head of each pair."""
    return Document(
        "lineage",
        blocks=lambda: _blocks(lineage),
        records=lambda: _records(lineage),
        data=lineage.to_dict,
    )


def _blocks(lineage: Lineage) -> Iterator[Block]:
    yield Items(tuple(TextLine(line, "bold") for line in _named(lineage)), lead=True)
    yield TextLine("")
    if len(lineage.reports) > 2:
        yield _pairs(lineage.kinships)
        if lineage.joins:
            title = "nearest kin, with the squared distance of their circuits:"
            yield CodeBlock(tuple(_tree(lineage)), title, indent=2)
    for one in shown(lineage):
        yield Chapter(f"{label(one.a)} and {label(one.b)}", tuple(_pair(one)), compact=len(lineage.reports) == 2)
    yield Items(tuple(_remarks(lineage)))
    if len(lineage.reports) == 2:
        (one,) = lineage.kinships
        yield Conclusion(_verdict(one), _STYLES[one.verdict])
    else:
        yield Conclusion(_counted(lineage.kinships))


def _named(lineage: Lineage) -> Iterator[str]:
    for place, report in enumerate(lineage.reports):
        left = len(lineage.left_out[place])
        compared = text.count(len(report.attentions) - left, "layer")
        path = text.clean(report.checkpoint.path)
        yield f"{label(place)}  {path}: {compared}" + (f", {left} not compared" if left else "")


def _pairs(kinships: Sequence[Kinship]) -> DataTable:
    rows = [
        (label(one.a), label(one.b), one.verdict, _p_value(one), _in_place(one), _number(one.distance))
        for one in kinships
    ]
    return DataTable(PAIRS, rows, (False, False, False, True, True, True), spare=(4, 5))


def _pair(one: Kinship) -> Iterator[Block]:
    yield TextLine(f"{one.verdict}: {one.why}")
    if one.test is not None:
        yield TextLine(f"{_in_place(one)} {_UNITS[one.tested]} are in place, p = {_p_value(one)}")
    if one.kin:
        yield TextLine("")
        yield from _map(one)
        marks = "; ".join(filter(None, ("0 not moved ... 9 moved by its own size", legend(one))))
        yield TextLine(f"heads: {marks}", "dim")
        yield Items(tuple(TextLine(line) for line in _happened(one)))


def _map(one: Kinship) -> Iterator[Block]:
    """Layers down, heads across; what the names of all layers have in common is said once a side."""
    columns: list[list[str]] = []
    likes: list[str] = []
    for side, place in (("a", one.a), ("b", one.b)):
        named = [str(name) for layer in one.layers if (name := getattr(layer, side)) is not None]
        common, short = apart(named)
        if common:
            yield TextLine(f"layers of {label(place)}: {common}", "dim")
        names = dict(zip(named, short, strict=True))
        columns.append([names.get(getattr(layer, side) or "", "-") for layer in one.layers])
        likes = likes or [f" of {names[layer.like]}" if layer.like in names else "" for layer in one.layers]
    rows = [
        (a, b, layer.fate + like, _number(layer.moved), "".join(map(_mark, layer.heads)))
        for a, b, like, layer in zip(*columns, likes, one.layers, strict=True)
    ]
    titles = (f"in {label(one.a)}", f"in {label(one.b)}", "fate", "moved", "heads")
    yield DataTable(titles, rows, (False, False, False, True, False), spare=(2,))


def _mark(head: HeadFate) -> str:
    moved = head.moved
    return MARKS.get(head.fate) or ("?" if moved is None else str(min(int(moved * 10), 9)))


def _happened(one: Kinship) -> Iterator[str]:
    """What happened to layers and heads, in words."""
    for fate in FATES:
        if fate == "kept":
            continue
        layers, heads = one.count(fate)
        counts = [text.count(number, noun) for number, noun in ((layers, "layer"), (heads, "head")) if number]
        if counts:
            yield f"{fate}: {', '.join(counts)}"
    elsewhere = sum(head.fate == "kept" and head.a != head.b for head in one.heads)
    if elsewhere:
        yield f"in another place of their layer: {text.count(elsewhere, 'head')}"
    shared = next((layer.kv_heads for layer in one.layers if layer.kv_heads), None)
    if shared:
        yield f"heads of K and V: {shared[0]} in {label(one.a)}, {shared[1]} in {label(one.b)}"


def _tree(lineage: Lineage) -> Iterator[str]:
    """Each family from the first of its members that was named."""
    joined: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for join in lineage.joins:
        joined[join.a].append((join.b, join.distance))
        joined[join.b].append((join.a, join.distance))
    seen: set[int] = set()
    for place in range(len(lineage.reports)):
        if place not in seen:
            seen.add(place)
            yield label(place)
            yield from _below(place, joined, seen, "")


def _below(place: int, joined: dict[int, list[tuple[int, float]]], seen: set[int], indent: str) -> Iterator[str]:
    after = [(other, distance) for other, distance in sorted(joined[place]) if other not in seen]
    for other, distance in after:
        seen.add(other)
        last = (other, distance) == after[-1]
        yield f"{indent}{'└─' if last else '├─'} {label(other)}  {text.number(distance)}"
        yield from _below(other, joined, seen, indent + ("   " if last else "│  "))


def _remarks(lineage: Lineage) -> Iterator[Remark]:
    for place, left in enumerate(lineage.left_out):
        if left:
            layer, why = left[0]
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            yield Remark("info", f"{label(place)}: not compared: {text.layer(layer)}{more}: {text.clean(why)}")
    for place, finding in lineage.findings():
        yield Remark(finding.severity, f"{label(place)}: {text.clean(finding.message)}", finding.code)


def _verdict(one: Kinship) -> str:
    undecided = "derived or of a common ancestor, which is not told" if one.verdict == "kin" else ""
    made = {"a": "A was made from B", "b": "B was made from A", None: undecided}[one.descendant]
    return "; ".join(filter(None, (one.verdict, made, f"p = {_p_value(one)}" if one.test else "")))


def _counted(kinships: Sequence[Kinship]) -> str:
    counts = [(sum(one.verdict == verdict for one in kinships), verdict) for verdict in VERDICTS]
    return ", ".join(f"{number} {verdict}" for number, verdict in counts if number)


def _p_value(one: Kinship) -> str:
    return "-" if one.test is None else f"{one.test.p_value:.2g}"


def _in_place(one: Kinship) -> str:
    return "-" if one.test is None else f"{one.test.in_place} of {one.test.units}"


def _number(value: float | None) -> str:
    return "-" if value is None else text.number(value)


def _records(lineage: Lineage) -> Iterator[Sequence[Cell]]:
    """One a head of each pair that is kin, one a pair that is not."""
    yield COLUMNS
    for one in lineage.kinships:
        p_value = one.test.p_value if one.test else None
        start = (label(one.a), label(one.b), one.verdict, p_value)
        if not one.layers:
            yield (*start, *[None] * (len(COLUMNS) - len(start)))
        for layer in one.layers:
            place = (*start, layer.a, layer.b, layer.fate)
            for head in layer.heads or (None,):
                yield (*place, *_head(head))


def _head(head: HeadFate | None) -> tuple[Cell, ...]:
    if head is None:
        return (None,) * 8
    return (head.a, head.b, head.fate, head.like, head.like_layer, head.cosine, head.moved_qk, head.moved_ov)
