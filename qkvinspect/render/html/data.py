"""The numbers of a page, as the JSON that its scripts read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.analysis.columns import COLUMNS, Column
from qkvinspect.analysis.figures import LayerFigures
from qkvinspect.analysis.grid import NORMS
from qkvinspect.diff.difference import Difference
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry
from qkvinspect.render import labels, text
from qkvinspect.render.html.between import Values, between, grouped, held, short
from qkvinspect.render.html.side import PageSide, shown_stacks

Pair = tuple[str | None, ...]
"""The name of one layer on each side."""

_OVERVIEW = (*NORMS, "qk_spectral_norm", "ov_spectral_norm", "logit_bound", "similar_qk", "similar_ov")
_GROUPS = {"q": "Q", "k": "K", "v": "V", "qk": "QK circuit", "ov": "OV circuit"}
_SPECIAL = str.maketrans({one: f"\\u{ord(one):04x}" for one in "<>&"})


def dumped(value: object) -> str:
    """JSON that no HTML parser sees anything else in."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_SPECIAL)


def data(sides: Sequence[PageSide], difference: Difference | None) -> dict[str, object]:
    """Everything that the scripts draw and list."""
    rows = list(pairs(sides, difference))
    names = [next(text.layer(name) for name in row if name is not None) for row in rows]
    place, short = labels.shared(names)
    shown = columns(sides)
    compared = between(difference, sides)
    titles = held(compared)
    return {
        "place": place,
        "sides": [side.label for side in sides],
        "columns": {one.key: {"title": one.title, "unit": one.unit, "scale": one.scale} for one in shown}
        | {key: {"title": title, "unit": "", "scale": "values", "between": True} for key, title in titles.items()},
        "groups": groups(shown, list(titles)),
        "rows": [
            {
                "name": name,
                "label": label,
                "sides": [
                    _layer(side, own, shown, compared.get(row[0] or "", {}) if number else {})
                    for number, (side, own) in enumerate(zip(sides, row, strict=True))
                ],
            }
            for name, label, row in zip(names, short, rows, strict=True)
        ],
        "profiles": [
            {"width": stack.width, "ties": stack.evidence.profile}
            for side in sides
            for stack in shown_stacks(side)[0]
            if stack.evidence.profile
        ],
    }


def columns(sides: Sequence[PageSide]) -> list[Column]:
    """Those that there are numbers for."""
    return [one for one in COLUMNS if one.key in NORMS or any(side.figures for side in sides)]


def groups(shown: Sequence[Column], compared: Sequence[str]) -> dict[str, list[str]]:
    """Columns that are looked at together; those that need both sides are looked at first.

    Args:
        compared: those.
    """
    found: dict[str, list[str]] = {"Overview": [one.key for one in shown if one.key in _OVERVIEW], **grouped(compared)}
    for one in shown:
        found.setdefault(_GROUPS.get(one.key.partition("_")[0], "Other figures"), []).append(one.key)
    return {**found, "All": [*(one.key for one in shown), *compared]}


def pairs(sides: Sequence[PageSide], difference: Difference | None) -> Iterator[Pair]:
    """Layers that stand in one row."""
    if difference is None:
        yield from ((one.layer,) for one in sides[0].report.attentions)
        return
    yield from ((layer.a, layer.b) for layer in difference.layers)
    yield from ((name, None) for name in difference.removed)
    yield from ((None, name) for name in difference.added)


def _layer(
    side: PageSide, name: str | None, shown: Sequence[Column], compared: Mapping[str, Values]
) -> dict[str, object] | None:
    if name is None:
        return None
    attention, figures = side.attentions[name], side.by_layer.get(name)
    geometry = attention.heads
    if geometry is None:
        return {"name": text.layer(name), "kv": [], "values": {}}
    analyzed = {one.key: [short(one.of(head)) for head in figures.heads] for one in shown} if figures else {}
    norms = {key: _norms(attention, key[0], geometry) for key in NORMS if not _says_anything(analyzed.get(key, []))}
    if figures is None or not figures.heads:
        return {"name": text.layer(name), "kv": _kv_heads(geometry), "values": {**norms, **compared}}
    return {
        "name": text.layer(name),
        "kv": [head.kv_head for head in figures.heads],
        "values": {**analyzed, **norms, **compared},
        "partners": _partners(figures),
    }


def _says_anything(values: Values) -> bool:
    return any(value is not None for value in values)


def _partners(figures: LayerFigures) -> Mapping[str, list[int | None]]:
    """For each head the one that its circuits are most like."""
    qk, ov = ([one.similar_qk for one in figures.heads], [one.similar_ov for one in figures.heads])
    return {
        name: [similar.head if similar else None for similar in found]
        for name, found in (("similar_qk", qk), ("similar_ov", ov))
    }


def _kv_heads(geometry: Geometry) -> list[int]:
    """That of each head of Q."""
    return [geometry.kv_head(geometry.whole_head(head)) for head in range(geometry.heads("q"))]


def _norms(attention: Attention, name: str, geometry: Geometry) -> Values:
    """Of a part, for each head of Q the one that it uses."""
    part = attention.part(name)
    if part is None or not part.head_measures:
        return [None] * geometry.heads("q")
    norms = [short(measure.norm) for measure in part.head_measures]
    return [norms[geometry.partner(name, head)] for head in range(geometry.heads("q"))]
