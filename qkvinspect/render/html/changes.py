"""How two checkpoints differ, as a map: a row a layer, a cell a part, those that changed first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log10

from qkvinspect.diff.difference import SAME, Comparison, Difference, LayerDifference
from qkvinspect.render import labels, text
from qkvinspect.render.html.markup import Markup, joined, tag

_ORDER = ("q", "k", "v", "out", "q_bias", "k_bias", "v_bias", "out_bias")
_MOST = 200
"""Rows of layers: more of them are no map."""

_FAINT, _DECADES = 0.12, 6
"""The lightest colour, and how many powers of ten below 1 it stands for."""


def map_of(difference: Difference) -> Markup:
    """The layers that changed; the others are folded away."""
    layers = difference.layers
    columns = _columns(layers)
    changed = [layer for layer in layers if layer.status not in SAME]
    same = [layer for layer in layers if layer.status in SAME]
    shown: list[Markup] = []
    if changed:
        shown.append(_table(changed[:_MOST], columns, "What changed, by relative L2 of B - A"))
    if len(changed) > _MOST:
        shown.append(tag("p", f"... and {len(changed) - _MOST} more changed layers."))
    if same:
        title = f"{text.count(len(same), 'layer')} {'is' if len(same) == 1 else 'are'} the same"
        folded = _table(same[:_MOST], columns, title)
        shown.append(tag("details", tag("summary", title), folded) if changed else folded)
    return joined(shown)


def _columns(layers: Sequence[LayerDifference]) -> tuple[str, ...]:
    held = dict.fromkeys(part.name for layer in layers for part in layer.parts)
    known = [name for name in _ORDER if name in held]
    return (*known, *([""] if any(name not in _ORDER for name in held) else ()))


def _table(layers: Sequence[LayerDifference], columns: Sequence[str], caption: str) -> Markup:
    place, names = labels.shared([layer.a for layer in layers])
    figures = (tag("th", _title(column), scope="col", class_="number") for column in columns)
    head = joined((tag("th", place or "layer", scope="col"), *figures, tag("th", "status", scope="col")))
    rows = [tag("tr", *_cells(layer, name, columns)) for layer, name in zip(layers, names, strict=True)]
    whole = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", *rows), class_="qi-changes"
    )
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def _title(column: str) -> str:
    name, _, bias = column.partition("_")
    return f"{text.part(name)}{' bias' if bias else ''}" if name else "stored"


def _cells(layer: LayerDifference, name: str, columns: Sequence[str]) -> Iterator[Markup]:
    parts = {part.name: part.whole for part in layer.parts}
    yield tag("th", name, scope="row", title=text.layer(layer.a))
    other = next((whole for key, whole in parts.items() if key not in _ORDER), None)
    for column in columns:
        found = parts.get(column) if column else other
        yield tag("td") if found is None else _cell(found, _title(column))
    yield tag("td", layer.status, data_title="status")


def _cell(found: Comparison, column: str) -> Markup:
    if found.status == "identical":
        return tag("td", "=", class_="number", title="identical, bit for bit", data_title=column)
    changed = f"{found.status}: {found.changed} of {found.count} values" if found.count else found.status
    if found.nonfinite or found.relative_l2 is None:
        shown, style = "nan" if found.nonfinite else found.status, _colour(1.0)
    else:
        shown = "rounding" if found.status == "rounding" else f"{found.relative_l2:.2g}"
        style = _colour(_share(found.relative_l2))
    return tag("td", shown, class_="number", title=changed, style=style, data_title=column)


def _share(value: float) -> float:
    """1 for a change as large as what was changed, less for each power of ten below."""
    return min(max(1 + log10(value) / _DECADES, 0.0), 1.0) if value > 0 else 0.0


def _colour(share: float) -> str:
    return f"background:rgba(213,94,0,{_FAINT + (0.85 - _FAINT) * share:.2f})"
