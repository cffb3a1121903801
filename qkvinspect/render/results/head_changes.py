"""What ``convert`` did to heads, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkvinspect.render import text
from qkvinspect.render.document import Block, DataTable, TextLine
from qkvinspect.render.labels import apart

if TYPE_CHECKING:
    from qkvinspect.lineage.anew import HeadChanges
    from qkvinspect.lineage.merging import MergedLayer

_MERGED = ("layer", "heads of K and V", "mean QK", "mean OV", "aligned QK", "aligned OV")


def blocks(changes: HeadChanges) -> Iterator[Block]:
    """Of aligned layers what was undone, of merged ones the relative error of the circuits of each group."""
    for line in aligned_lines(changes):
        yield TextLine(line)
    if changes.merged:
        place, names = apart([layer.layer for layer in changes.merged])
        rows = [row for name, layer in zip(names, changes.merged, strict=True) for row in _rows(name, layer)]
        yield TextLine("relative error of the circuits: heads averaged as they are, and aligned first", "bold")
        if place:
            yield TextLine(f"layers {place}", "dim")
        yield DataTable(_MERGED, rows, (False, False, True, True, True, True), names=(0,))
        yield TextLine("neighbours: each layer as a whole, if neighbours were averaged as they are", "dim")
    yield TextLine("")


def aligned_lines(changes: HeadChanges) -> Iterator[str]:
    for one in changes.aligned:
        said = "; ".join(one.undone) or "as it was"
        yield f"{text.layer(one.b.layer)} to {text.layer(one.a.layer)}: {said}"
    for layer in changes.added:
        yield f"{text.layer(layer)}: left as it is, the other has no such layer"


def _rows(name: str, layer: MergedLayer) -> Iterator[tuple[str, ...]]:
    for group in layer.groups:
        errors = (group.plain_qk, group.plain_ov, group.qk, group.ov)
        yield name, " ".join(map(str, group.members)), *map(text.number, errors)
    yield name, "all; neighbours", *map(text.number, (*layer.plain, *layer.aligned))
