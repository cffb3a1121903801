"""What became of layers and heads that have no partner, seen from all layers together.

A head may be one of another layer; and where as many are gone as are new, these stand in the place of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from qkvinspect.lineage.compared_layers import LayerPairs
from qkvinspect.lineage.fates import HeadFate, LayerFate, in_place

Names = tuple[Sequence[str], Sequence[str]]
Places = Sequence[Mapping[str, int]]
Found = dict[tuple[int, int], HeadFate]


def settled(pairs: LayerPairs, layers: Sequence[LayerFate], names: Names) -> list[LayerFate]:
    """The layers, in B's order, with what the others tell of each."""
    places = tuple({name: place for place, name in enumerate(side)} for side in names)
    layers = [replace(layer, heads=tuple(_unless_elsewhere(pairs, layer, places))) for layer in layers]
    gone = _alone(layers, "a", places[0])
    new = _alone(layers, "b", places[1])
    gone_to = {key: _nearest(pairs, key, 0) for key in gone}
    new_from = {key: _nearest(pairs, key, 1) for key in new}
    ours = {key: _found_elsewhere(one, gone_to[key], new_from, key, names[1]) for key, one in gone.items()}
    theirs = {key: _found_elsewhere(one, new_from[key], gone_to, key, names[0]) for key, one in new.items()}
    return _layers_replaced(pairs, [_of_layer(layer, places, ours, theirs) for layer in layers], places)


def _unless_elsewhere(pairs: LayerPairs, layer: LayerFate, places: Places) -> Iterator[HeadFate]:
    """Heads of which nothing is said are none of each other's where one is surely that of another layer."""
    a, b = places[0].get(layer.a or ""), places[1].get(layer.b or "")
    for head in layer.heads:
        if head.fate != "unclear" or a is None or b is None or head.a is None or head.b is None:
            yield head
            continue
        known = _nearest(pairs, (a, head.a), 0), _nearest(pairs, (b, head.b), 1)
        yield from (head,) if known == (None, None) else (
            HeadFate("removed", head.a, None), HeadFate("added", None, head.b))  # fmt: skip


def _alone(layers: Sequence[LayerFate], side: str, places: Mapping[str, int]) -> Found:
    """The heads of one side that have no partner and are like none of their layer."""
    fate = "removed" if side == "a" else "added"
    return {
        (places[getattr(layer, side)], getattr(head, side)): head
        for layer in layers
        for head in layer.heads
        if head.fate == fate
    }


def _nearest(pairs: LayerPairs, key: tuple[int, int], side: int) -> tuple[int, int] | None:
    """The head of any layer of the other side that this one surely is, if there is one."""
    layer, head = key
    others = range(len(pairs.alike[0] if side == 0 else pairs.alike))
    best, found = pairs.least("copied"), None
    for other in others:
        circuits = pairs.every[layer][other][:, head] if side == 0 else pairs.every[other][layer][:, :, head]
        alike = circuits.mean(axis=0)
        like = int(alike.argmax())
        if alike[like] > best and (circuits[:, like] > pairs.known_circuit).all():
            best, found = float(alike[like]), (other, like)
    return found


def _found_elsewhere(
    one: HeadFate,
    other: tuple[int, int] | None,
    back: Mapping[tuple[int, int], tuple[int, int] | None],
    key: tuple[int, int],
    names: Sequence[str],
) -> HeadFate:
    if other is None:
        return one
    layer, head = other
    if back.get(other) == key:
        return replace(one, fate="elsewhere", like=head, like_layer=names[layer])
    return replace(one, fate="merged" if one.fate == "removed" else "copied", like=head, like_layer=names[layer])


def _of_layer(layer: LayerFate, places: Places, ours: Found, theirs: Found) -> LayerFate:
    heads: list[HeadFate] = []
    for head in layer.heads:
        if head.fate == "removed" and layer.a is not None and head.a is not None:
            heads.append(ours[places[0][layer.a], head.a])
        elif head.fate == "added" and layer.b is not None and head.b is not None:
            heads.append(theirs[places[1][layer.b], head.b])
        else:
            heads.append(head)
    return replace(layer, heads=in_place(list(_heads_replaced(heads))))


def _heads_replaced(heads: Sequence[HeadFate]) -> Iterator[HeadFate]:
    """Where as many are gone as are new, and no others are: those in the same place, then in their order."""
    gone = [head for head in heads if head.fate == "removed"]
    new = [head for head in heads if head.fate == "added"]
    one_sided = [head for head in heads if head.a is None or head.b is None]
    if not gone or len(gone) != len(new) or sum(head.a is None for head in one_sided) * 2 != len(one_sided):
        yield from heads
        return
    yield from (head for head in heads if head not in gone and head not in new)
    same = {head.a for head in gone} & {head.b for head in new}
    yield from (HeadFate("replaced", head, head) for head in same)
    left = [head.a for head in gone if head.a not in same], [head.b for head in new if head.b not in same]
    yield from (HeadFate("replaced", i, j) for i, j in zip(*left, strict=True))


def _layers_replaced(pairs: LayerPairs, layers: Sequence[LayerFate], places: Places) -> list[LayerFate]:
    """Where as many are gone as are new between two that are paired."""
    found: list[LayerFate] = []
    run: list[LayerFate] = []
    for layer in (*layers, None):
        if layer is not None and layer.fate in ("removed", "added"):
            run.append(layer)
            continue
        gone, new = ([one for one in run if one.fate == fate] for fate in ("removed", "added"))
        if gone and len(gone) == len(new):
            found += (_in_the_place_of(pairs, one.a, other.b, places) for one, other in zip(gone, new, strict=True))
        else:
            found += run
        run = []
        if layer is not None:
            found.append(layer)
    return found


def _in_the_place_of(pairs: LayerPairs, a: str | None, b: str | None, places: Places) -> LayerFate:
    ours, theirs = places[0][a or ""], places[1][b or ""]
    zeros = pairs.empty[0][ours], pairs.empty[1][theirs]
    if zeros[0] != zeros[1]:
        return LayerFate("zeroed" if zeros[1] else "filled", a, b)
    return LayerFate("unclear" if pairs.alike[ours, theirs] > pairs.least("stranger") else "replaced", a, b)
