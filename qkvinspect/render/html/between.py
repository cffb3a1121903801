"""Figures of a head that need both sides: how far B is from A, and what quantisation did to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite

from qkvinspect.diff.difference import Difference, LayerDifference, PartDifference
from qkvinspect.layouts.packing import Geometry
from qkvinspect.render.html.side import PageSide

Values = list[float | str | None]
"""One a query head."""

_PARTS = {"q": "Q", "k": "K", "v": "V", "out": "the output projection"}
_CIRCUITS = {"qk": "the QK circuit", "ov": "the OV circuit"}

TITLES = {
    "changed_most": "greatest relative change",
    **{f"changed_{key}": f"relative change of {title}" for key, title in _PARTS.items()},
    **{f"lost_{key}": f"relative error of {title}" for key, title in (*_PARTS.items(), *_CIRCUITS.items())},
}
"""Of every such figure."""

_GROUPS = {"changed": "What changed", "lost": "What quantisation did"}


def between(difference: Difference | None, sides: Sequence[PageSide]) -> Mapping[str, Mapping[str, Values]]:
    """By A's name of a layer and by figure, a value for each of its heads; nothing where the sides are the same."""
    if difference is None:
        return {}
    if difference.losses:
        return _losses(difference)
    return {} if difference.same else dict(_changes(difference, sides[0]))


def held(found: Mapping[str, Mapping[str, Values]]) -> dict[str, str]:
    """The figures that there are, with their titles."""
    keys = {key for own in found.values() for key in own}
    return {key: title for key, title in TITLES.items() if key in keys}


def grouped(keys: Iterable[str]) -> dict[str, list[str]]:
    """Figures that are looked at together."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(_GROUPS[key.partition("_")[0]], []).append(key)
    return groups


def short(value: float | None) -> float | str | None:
    """Six digits: what a reader can use, in half the bytes."""
    if value is None:
        return None
    rounded = float(f"{value:.6g}")
    return rounded if isfinite(rounded) else str(rounded)


def _losses(difference: Difference) -> Mapping[str, Mapping[str, Values]]:
    found: dict[str, dict[str, Values]] = {}
    for loss in sorted(difference.losses, key=lambda loss: loss.head):
        own = found.setdefault(loss.layer, {})
        for key, error in loss.errors.items():
            own.setdefault(f"lost_{key}", []).append(short(error))
    return found


def _changes(difference: Difference, a: PageSide) -> Iterator[tuple[str, Mapping[str, Values]]]:
    for layer in difference.layers:
        geometry = a.attentions[layer.a].heads
        if geometry is not None and layer.num_heads is not None:
            yield layer.a, dict(_of_layer(layer, geometry))


def _of_layer(layer: LayerDifference, geometry: Geometry) -> Iterator[tuple[str, Values]]:
    heads = range(geometry.heads("q"))
    held = {
        part.name: [_of_head(part, geometry, head) for head in heads] for part in layer.parts if part.name in _PARTS
    }
    yield "changed_most", [_greatest([values[head] for values in held.values()]) for head in heads]
    yield from ((f"changed_{name}", values) for name, values in held.items())


def _greatest(values: Values) -> float | str | None:
    """What is not a number is more than any."""
    known = [value for value in values if isinstance(value, float)]
    return next((value for value in values if isinstance(value, str)), max(known, default=None))


def _of_head(part: PartDifference, geometry: Geometry, head: int) -> float | str | None:
    """That of a part which a query head uses."""
    if part.whole.status == "identical":
        return 0.0
    own = head if part.name in ("q", "out") else geometry.partner(part.name, head)
    if own >= len(part.heads):
        return None
    found = part.heads[own]
    return "nan" if found.nonfinite else short(found.relative_l2)
