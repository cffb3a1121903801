"""The other ways in which the same tensors could be packed: what the declared packing is weighed against."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import Packing, split_rows

STRIPES = (2, 4, 8)
"""Numbers of tensor-parallel ranks that are tried: a fused tensor may be as many stripes of [q; k; v]."""


def packings(layout: Layout) -> dict[str, Layout]:
    """The layout as it is, and with every other packing of the formula, by the packing in words.

    The order of Q and K is left as it is where they have as many rows, or are beside each other in every group: the
    weights hardly tell these two from each other.
    """
    found = {describe(layout): layout}
    for weights in _others(layout):
        other = replace(layout, weights=weights, subheads=())
        found.setdefault(describe(other), other)
    return found


def of_any_order(layout: Layout) -> dict[str, Layout]:
    """The layout of one tensor in blocks and in groups of kv heads, with Q, K and V in every order, by the packing."""
    found: dict[str, Layout] = {}
    for order in permutations(("q", "k", "v")):
        for groups in ("one", "kv_heads"):
            other = replace(layout, weights=(replace(layout.weights[0], packing=Packing(order, groups=groups)),))
            found[describe(other)] = other
    return found


def in_runs(layout: Layout) -> bool:
    """Whether the rows of a head lie together: of others, one row in several is in no head's place."""
    packings = [stored.packing for stored in layout.weights]
    return not any(one.slot_innermost or one.heads_innermost or one.groups == "rows" for one in packings)


def describe(layout: Layout) -> str:
    """A layout's packing in words: ``q, k, v in blocks``; ``q, k and v apart`` where each has its own tensor."""
    if len(layout.weights) == 1:
        return _words(layout.weights[0].packing)
    return "; ".join(f"{stored.key} is {_words(stored.packing)}" for stored in layout.weights)


def _words(packing: Packing) -> str:
    parts = ", ".join(packing.order)
    if len(packing.order) == 1:
        return f"{parts}, its heads row by row" if packing.heads_innermost else parts
    if packing.slot_innermost:
        return f"{parts} row by row, heads in turn" if packing.groups == "rows" else f"{parts} row by row"
    if packing.heads_innermost:
        return f"{parts} in blocks of alternating heads"
    match packing.groups:
        case "rows":
            return f"{parts} a row of each head in turn"
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
        grouped = "heads" if layout.kv_heads == "equal" else "kv_heads"
        first, second = (part for part in held[0].order if part != "v")
        for order in _orders(first, second):
            for packing in (
                Packing(order),
                Packing(order, groups=grouped),
                Packing(order, groups="heads", slot_innermost=True),
                Packing(order, groups="rows"),
                Packing(order, groups="rows", slot_innermost=True),
                Packing(order, heads_innermost=True),
                *(Packing(order, groups=stripes) for stripes in STRIPES),
            ):
                yield (replace(layout.weights[0], packing=packing),)
        for order in _orders(second, first) if layout.kv_heads != "equal" else ():
            yield (replace(layout.weights[0], packing=Packing(order)),)
            if layout.found_by == "pattern":  # a name is no order
                yield (replace(layout.weights[0], packing=Packing(order, groups=grouped)),)
    elif sorted(sorted(packing.order) for packing in held) in ([["k", "v"], ["q"]], [["k", "q"], ["v"]]):
        yield from _of_pairs(layout)
    elif [packing.order for packing in held] in [[("q",), ("k",), ("v",)], [("k",), ("v",), ("q",)]]:
        for one, other in (("k", "v"), ("q", "v")):
            yield tuple(replace(stored, packing=_swapped(stored.packing, one, other)) for stored in layout.weights)


def _orders(first: str, second: str) -> Iterator[tuple[str, str, str]]:
    """Those in which V may stand beside Q and K."""
    yield first, second, "v"
    yield first, "v", second
    yield "v", first, second


def _of_pairs(layout: Layout) -> Iterator[tuple[StoredWeight, ...]]:
    """Every packing of the tensor that holds two parts, beside one that holds the third."""
    pair = next(stored.packing.order for stored in layout.weights if len(stored.packing.order) == 2)
    for order in (pair, pair[::-1]) if "v" in pair else (pair,):
        for packing in (
            Packing(order),
            Packing(order, groups="heads" if layout.kv_heads == "equal" else "kv_heads"),
            Packing(order, groups="heads", slot_innermost=True),
            Packing(order, groups="rows"),
            Packing(order, heads_innermost=True),
        ):
            yield tuple(
                replace(stored, packing=packing) if stored.packing.order == pair else stored
                for stored in layout.weights
            )


def cuts(layout: Layout) -> dict[str, Packing]:
    """The packings of one tensor that Q, K and V may have been cut from as if it held them in blocks.

    What comes of that has the shapes of Q, K and V and holds rows of all three: so are exports of Megatron's
    ``linear_qkv`` by those who take it for [q; k; v].
    """
    held = [stored.packing.order for stored in layout.weights]
    if held != [("q",), ("k",), ("v",)] or any(stored.orientation != "out_in" for stored in layout.weights):
        return {}
    order = ("q", "k", "v")
    packings = (Packing(order, groups="kv_heads"), *(Packing(order, groups=stripes) for stripes in STRIPES))
    return {f"cut from a tensor that is packed {_words(packing)}": packing for packing in packings}


def cut_from(attention: Attention, packing: Packing) -> Attention:
    """The parts of a module whose stored Q, K and V, one after the other, are one tensor of another packing.

    Rows are counted through all three tensors, from the first row of the first.

    Raises:
        LayoutError: the sizes do not fit.
    """
    sizes = attention.geometry
    if sizes is None or len({part.in_features for part in attention.parts}) > 1 or sizes.width("v") != sizes.head_dim:
        raise LayoutError("there is no one tensor that these could be cut from")
    rows = split_rows(packing, sizes, sum(part.shape[0] for part in attention.parts))
    parts = (replace(part, weight=attention.weights[0], heads=rows[part.name]) for part in attention.parts)
    return replace(attention, parts=tuple(parts))


def _swapped(packing: Packing, one: str, other: str) -> Packing:
    names = {one: other, other: one}
    return replace(packing, order=tuple(names.get(part, part) for part in packing.order))


def turned(layout: Layout) -> Layout | None:
    """The layout with its weights transposed; None where there is no such form."""
    flip: dict[Orientation, Orientation] = {"out_in": "in_out", "in_out": "out_in"}
    if not {layout.out_orientation, *(stored.orientation for stored in layout.weights)} <= flip.keys():
        return None
    weights = tuple(replace(stored, orientation=flip[stored.orientation]) for stored in layout.weights)
    return replace(layout, weights=weights, out_orientation=flip[layout.out_orientation])
