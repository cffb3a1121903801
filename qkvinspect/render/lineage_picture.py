"""A lineage as a picture: the tree of all checkpoints, and for each pair of kin a map of layers and heads.

SVG by hand, so that nothing has to be installed: each head is a square, the redder the farther it moved; what was
removed, merged, added or copied has its letter, too, so that no colour has to be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from qkvinspect.errors import UsageError
from qkvinspect.lineage import Lineage
from qkvinspect.lineage.fates import Fate, HeadFate, LayerFate
from qkvinspect.lineage.kinship import Kinship, label
from qkvinspect.render import text

KINDS = (".svg", ".html")
MARKS: dict[Fate, str] = {
    "removed": "x", "added": "+", "replaced": "r", "merged": "m", "copied": "c", "elsewhere": "e", "zeroed": "z",
    "filled": "f", "half kept": "h", "unclear": "?",
}  # fmt: skip
"""The letter of what became of a head, in the map of the terminal, too."""

_MEANINGS: dict[Fate, str] = {
    "merged": "merged into another", "copied": "copied from another", "elsewhere": "in another layer",
    "zeroed": "set to zero", "filled": "zero before", "half kept": "QK or OV kept",
}  # fmt: skip


def legend(kinship: Kinship) -> str:
    """What the letters of its map mean, but for those that it has not."""
    seen = {head.fate for head in kinship.heads}
    return ", ".join(f"{mark} {_MEANINGS.get(fate, fate)}" for fate, mark in MARKS.items() if fate in seen)


_CELL = 16
_LEFT = 16
_LINE = 20
_NAMES = 300
"""Pixels left of a map for the names of layers."""

_COLOURS = (
    "#f7f7f7",
    "#fde0d2",
    "#fcc4ad",
    "#fca78a",
    "#fb8a6a",
    "#f66c4c",
    "#e84d36",
    "#d02d27",
    "#ac1219",
    "#67000d",
)
_GONE = "#d9d9d9"


def require_drawable(path: Path | None) -> None:
    """Refuse what cannot be drawn before any work.

    Raises:
        UsageError: the name says no kind of picture.
    """
    if path is not None and path.suffix not in KINDS:
        raise UsageError("a lineage is drawn as .svg or .html", file=str(path))


def picture(lineage: Lineage, kind: str) -> str:
    """The whole picture, as SVG or as a page that holds it."""
    lines: list[str] = []
    down = _LINE
    for part in (_tree(lineage), *(_map(one) for one in shown(lineage) if one.kin)):
        height, drawn = part
        lines.append(f'<g transform="translate(0 {down})">')
        lines += drawn
        lines.append("</g>")
        down += height + _LINE
    width = max(640, *(_width(one) for one in lineage.kinships))
    svg = "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{down}" viewBox="0 0 {width} {down}"',
            ' font-family="monospace" font-size="12" role="img">',
            "<title>Lineage: the tree of checkpoints, and how far each head moved</title>",
            f'<rect width="{width}" height="{down}" fill="#ffffff"/>',
            *lines,
            "</svg>\n",
        )
    )
    if kind == ".svg":
        return svg
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Lineage</title></head><body>\n'
    return f"{head}{svg}</body></html>\n"


def shown(lineage: Lineage) -> Sequence[Kinship]:
    """Both of two; of several those that are next to each other in the tree."""
    joined = {(join.a, join.b) for join in lineage.joins}
    return [one for one in lineage.kinships if len(lineage.reports) == 2 or (one.a, one.b) in joined]


def family(lineage: Lineage) -> Iterator[tuple[int, int | None, float, int]]:
    """Each checkpoint, that which it hangs on with the distance, and how deep; first of each family the first named."""
    near: dict[int, list[tuple[int, float]]] = {place: [] for place in range(len(lineage.reports))}
    for join in lineage.joins:
        near[join.a].append((join.b, join.distance))
        near[join.b].append((join.a, join.distance))
    seen: set[int] = set()
    for first in near:
        waiting: list[tuple[int, int | None, float, int]] = [(first, None, 0.0, 0)]
        while waiting:
            place, above, distance, depth = waiting.pop()
            if place not in seen:
                seen.add(place)
                yield place, above, distance, depth
                waiting += [(other, place, far, depth + 1) for other, far in sorted(near[place], reverse=True)]


def _tree(lineage: Lineage) -> tuple[int, list[str]]:
    rows = list(family(lineage))
    at = {place: (_LEFT + 24 * depth, _LINE * row) for row, (place, _, _, depth) in enumerate(rows)}
    drawn: list[str] = []
    for place, above, distance, _ in rows:
        x, y = at[place]
        path = escape(text.clean(lineage.reports[place].checkpoint.path))
        far = ""
        if above is not None:
            before, top = at[above]
            drawn.append(f'<path d="M{before + 4} {top + 4}V{y}H{x - 4}" fill="none" stroke="#555555"/>')
            far = f"  {text.number(distance)} from {label(above)}"
        drawn.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#1f77b4"/>')
        drawn.append(f'<text x="{x + 10}" y="{y + 4}">{label(place)}  {path}{far}</text>')
    return _LINE * len(rows), drawn


def _width(one: Kinship) -> int:
    return _LEFT + _NAMES + _CELL * max((len(layer.heads) for layer in one.layers), default=0)


def _map(one: Kinship) -> tuple[int, list[str]]:
    said = f"{label(one.a)} and {label(one.b)}: {one.verdict}"
    if one.test is not None:
        said += f", p = {one.test.p_value:.2g}"
    drawn = [f'<text x="{_LEFT}" y="12" font-weight="bold">{escape(said)}</text>']
    for row, layer in enumerate(one.layers):
        y = _LINE + row * _CELL
        name = escape(text.clean(_name(layer))[-(_NAMES // 8) :])
        drawn.append(f'<text x="{_LEFT}" y="{y + 12}">{name}</text>')
        for column, head in enumerate(layer.heads):
            drawn += _head(head, _LEFT + _NAMES + column * _CELL, y)
    foot = "; ".join(filter(None, ("white: not moved, dark red: moved by its own size", legend(one))))
    end = _LINE + len(one.layers) * _CELL
    drawn.append(f'<text x="{_LEFT}" y="{end + 14}" fill="#555555">{foot}</text>')
    return end + _LINE, drawn


def _name(layer: LayerFate) -> str:
    name = layer.a or layer.b or ""
    return name if layer.fate == "kept" and layer.a == layer.b else f"{name} {_fate(layer)}"


def _fate(layer: LayerFate) -> str:
    if layer.fate == "kept":
        return f"-> {layer.b}"
    return layer.fate + (f" of {layer.like}" if layer.like else "")


def _head(head: HeadFate, x: int, y: int) -> Iterator[str]:
    moved = head.moved
    mark = MARKS.get(head.fate, "")
    colour = _GONE if mark or moved is None else _COLOURS[min(int(moved * 10), 9)]
    numbers = f"{'-' if head.a is None else head.a} -> {'-' if head.b is None else head.b}"
    like = "" if head.like is None else f" of {head.like}" + (f" in {head.like_layer}" if head.like_layer else "")
    said = f"head {numbers}: {head.fate}{text.clean(like)}" + ("" if moved is None else f", moved {text.number(moved)}")
    yield f'<rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{colour}" stroke="#bbbbbb">'
    yield f"<title>{escape(said)}</title></rect>"
    if mark:
        yield f'<text x="{x + 4}" y="{y + 12}">{mark}</text>'
