"""``diff``: two checkpoints layer by layer, what happened to which, and the details of what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qkvinspect.diff.difference import SAME, Comparison, Difference, LayerDifference
from qkvinspect.render import differences as words
from qkvinspect.render import text
from qkvinspect.render.document import (
    Block,
    Cell,
    Chapter,
    Conclusion,
    DataTable,
    Document,
    FactList,
    Items,
    Remark,
    TextLine,
)

COLUMNS = ("layer", "in_b", "part", "head", "status", "relative_l2", "max_difference", "cosine", "changed", "nonfinite")


def document(difference: Difference, *, per_head: bool = False, folded: bool = False) -> Document:
    """A difference.

    Args:
        per_head: with a row for each head; the JSON always has them.
        folded: with a row for neighbouring layers of which all the same is said, and fewer layers in detail.
    """
    return Document(
        "diff",
        blocks=lambda: _blocks(difference, per_head, folded),
        records=lambda: _records(difference, per_head),
        data=difference.to_dict,
    )


def _blocks(difference: Difference, per_head: bool, folded: bool) -> Iterator[Block]:
    yield Items(tuple(TextLine(line, "bold") for line in words.sides(difference)), lead=True)
    if difference.layers or difference.added or difference.removed:
        yield TextLine("")
        yield _table(words.layer_columns(difference), words.layer_rows(difference, folded=folded))
    else:
        yield TextLine("No attention was found in either.")
    yield Items(tuple(TextLine(line, "bold red") for line in words.happened(difference)), lead=True)
    for layer in words.detailed(difference, per_head=per_head, folded=folded):
        yield Chapter(text.layer(layer.a), tuple(_details(layer, per_head)), folded=True)
    if difference.losses:
        yield TextLine("")
        yield TextLine(words.loss_title(difference), "bold")
        numeric = tuple(column in words.LOSS_NUMERIC for column in words.LOSS_COLUMNS)
        yield DataTable(
            words.LOSS_COLUMNS, list(words.loss_rows(difference)), numeric, lambda row: row[-1] != "0", names=(0,)
        )
    yield TextLine("")
    yield Items(
        (
            *map(TextLine, words.left_out(difference, per_head=per_head, folded=folded)),
            *(TextLine(line, "red") for line in words.others(difference)),
            *(Remark(severity, line) for severity, line in words.remarks(difference)),
        )
    )
    yield Conclusion(words.verdict(difference))


def _details(layer: LayerDifference, per_head: bool) -> Iterator[Block]:
    yield FactList((words.stored(layer),))
    yield _table(words.PART_COLUMNS, words.part_rows(layer))
    yield Items(tuple(map(TextLine, words.spots(layer))))
    if per_head:
        yield _table(words.HEAD_COLUMNS, words.head_rows(layer))


def _table(columns: tuple[str, ...], lines: Iterable[Sequence[str]]) -> DataTable:
    """A row that says that something differs stands out."""
    names = tuple(i for i, title in enumerate(columns) if title in ("layer", "in B"))
    right = tuple(column in words.NUMERIC for column in columns)
    return DataTable(columns, list(lines), right, SAME.isdisjoint, names=names)


def _records(difference: Difference, per_head: bool) -> Iterator[Sequence[Cell]]:
    """One a part, with per_head one a head too; then the layers of one side only, and the tensors outside attention."""
    yield COLUMNS
    for layer in difference.layers:
        for part in layer.parts:
            yield layer.a, layer.b, part.name, None, *_figures(part.whole)
            for head, found in enumerate(part.heads if per_head else ()):
                yield layer.a, layer.b, part.name, head, *_figures(found)
    nothing = (None,) * (len(COLUMNS) - 5)
    yield from ((name, None, None, None, "removed", *nothing) for name in difference.removed)
    yield from ((None, name, None, None, "added", *nothing) for name in difference.added)
    for other in difference.others or ():
        yield other.a, other.b, None, None, *_figures(other.whole)


def _figures(found: Comparison) -> Sequence[Cell]:
    return found.status, found.relative_l2, found.max_difference, found.cosine, found.changed, found.nonfinite
