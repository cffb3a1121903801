"""The other ways in which the same tensors could be packed: what the declared packing is weighed against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qkvinspect.checkpoint import Orientation
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import Packing


def packings(layout: Layout) -> dict[str, Layout]:
    """The layout as it is and with every other packing of the formula, by what they are called.

    The order of Q and K is left as it is: the weights cannot tell these two from each other.
    """
    found = {describe(layout): layout}
    for weights in _others(layout):
        other = replace(layout, weights=weights, subheads=())
        found.setdefault(describe(other), other)
    return found


def describe(layout: Layout) -> str:
    """A layout's packing in words: ``q, k, v in blocks``; ``q, k and v apart`` where each has its own tensor."""
    if len(layout.weights) == 1:
        return _words(layout.weights[0].packing)
    return "; ".join(f"{stored.key} is {_words(stored.packing)}" for stored in layout.weights)


def _words(packing: Packing) -> str:
    parts = ", ".join(packing.order)
    if len(packing.order) == 1:
        return parts
    if packing.slot_innermost:
        return f"{parts} row by row"
    match packing.groups:
        case "one":
            return f"{parts} in blocks"
        case "heads":
            return f"{parts} per head"
        case "kv_heads":
            return f"{parts} per kv head"
        case int(groups):
            return f"{parts} in {groups} groups"


def _others(layout: Layout) -> Iterator[tuple[StoredWeight, ...]]:
    held = [stored.packing for stored in layout.weights]
    if len(held) == 1 and sorted(held[0].order) == ["k", "q", "v"]:
        first, second = (part for part in held[0].order if part != "v")
        for order in ((first, second, "v"), (first, "v", second), ("v", first, second)):
            for packing in (
                Packing(order),
                Packing(order, groups="heads" if layout.kv_heads == "equal" else "kv_heads"),
                Packing(order, groups="heads", slot_innermost=True),
                Packing(order, groups=4),
            ):
                yield (replace(layout.weights[0], packing=packing),)
    elif [packing.order for packing in held] in [[("q",), ("k",), ("v",)], [("k",), ("v",), ("q",)]]:
        for one, other in (("k", "v"), ("q", "v")):
            yield tuple(replace(stored, packing=_swapped(stored.packing, one, other)) for stored in layout.weights)


def _swapped(packing: Packing, one: str, other: str) -> Packing:
    names = {one: other, other: one}
    return replace(packing, order=tuple(names.get(part, part) for part in packing.order))


def turned(layout: Layout) -> Layout | None:
    """The layout if its weights lay the other way round; None where there is no such form."""
    flip: dict[Orientation, Orientation] = {"out_in": "in_out", "in_out": "out_in"}
    if not {layout.out_orientation, *(stored.orientation for stored in layout.weights)} <= flip.keys():
        return None
    weights = tuple(replace(stored, orientation=flip[stored.orientation]) for stored in layout.weights)
    return replace(layout, weights=weights, out_orientation=flip[layout.out_orientation])
