"""From two checkpoints to a verdict: layers paired, heads paired, the order of units tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qkvinspect.lineage.compared_layers import LayerPairs, pair_layers
from qkvinspect.lineage.fates import Fate, LayerFate, of_pair, without_partner
from qkvinspect.lineage.inner_units import inner_similarities
from qkvinspect.lineage.kinship import KIN, STRANGERS, Kinship, Tested, label
from qkvinspect.lineage.making import making
from qkvinspect.lineage.order_test import OrderTest, order_test
from qkvinspect.lineage.relatives import Relative, nbytes
from qkvinspect.lineage.settled_fates import settled
from qkvinspect.lineage.spectra_alike import spectra_alike
from qkvinspect.lineage.unit_profiles import UnitProfiles
from qkvinspect.weights.reading import Array

Places = tuple[int, int]


def kinship(places: Places, a: Relative, b: Relative, advance: Callable[[int], None]) -> Kinship:
    """Compare two checkpoints.

    Args:
        places: theirs among those that were named.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: scipy is not installed.
    """
    why = _incomparable(places, a, b)
    if a.units is None or b.units is None or why:
        return Kinship(*places, "undetermined", why)
    pairs = pair_layers(a.signatures, b.signatures, len(a.units.basis))
    profiles = UnitProfiles(len(a.units.basis), len(a.units.tested))
    inner: list[Array] = []
    layers: list[LayerFate] = []
    names = [one.layer for one in a.layers], [one.layer for one in b.layers]
    for pair in pairs.paired:
        ours, theirs = a.read(pair.a), b.read(pair.b)
        profiles.add(pair, ours, theirs)
        inner += inner_similarities(pair, ours, theirs)
        layers.append(of_pair(pair, pairs, (names[0][pair.a], names[1][pair.b]), ours, theirs))
        advance(nbytes(a.layers[pair.a]) + nbytes(b.layers[pair.b]))
    residual = order_test([profiles.similarity()])
    layers = settled(pairs, _in_order(pairs, layers, list(without_partner(pairs, *names)), names), names)
    if a.numbered or b.numbered:
        return _weighed(places, (a, b), order_test(inner), "inner", residual, layers)
    return _weighed(places, (a, b), residual, "residual", residual, layers)


def _incomparable(places: Places, a: Relative, b: Relative) -> str:
    for place, one in zip(places, (a, b), strict=True):
        if one.units is None:
            reason = one.left_out[0][1] if one.left_out else "it has no attention"
            return f"no layer of {label(place)} can be compared: {reason}"
    if a.units is not None and b.units is not None and a.units.width != b.units.width:
        widths = f"{a.units.width} and {b.units.width}"
        return f"their streams are {widths} units wide, so that no unit of one is known to be a unit of the other"
    return ""


def _weighed(
    places: Places,
    sides: tuple[Relative, Relative],
    test: OrderTest,
    tested: Tested,
    residual: OrderTest,
    layers: Sequence[LayerFate],
) -> Kinship:
    """The verdict that the p-value allows."""
    heads = {head.fate for layer in layers for head in layer.heads}
    if test.p_value < KIN and tested == "residual" and heads and heads <= _NOTHING:
        why = "units stand in the same order, and no head of one is a head of the other: both may read the same inputs"
        return Kinship(*places, "undetermined", why, None, test, tested, tuple(layers))
    if test.p_value < KIN:
        made = making(places, *sides, layers)
        return Kinship(*places, made.verdict, made.why, made.descendant, test, tested, tuple(layers))
    if test.least > KIN:
        why = f"{test.units} units are too few to tell kin from strangers"
    elif residual.p_value < KIN:
        why = "residual units stand in the same order, which something that both were given may number: fixed positions"
    elif test.p_value < STRANGERS:
        why = "more units stand in the same order than chance would have it often, and fewer than are needed to say so"
    elif spectra_alike(*sides):
        first, second = map(label, places)
        why = f"the heads have the same spectra, as if {second} were {first} with its residual stream in another basis"
    else:
        return Kinship(*places, "unrelated", "units stand in each other's order as chance has it", None, test, tested)
    return Kinship(*places, "undetermined", why, None, test, tested)


_NOTHING: set[Fate] = {"added", "removed", "replaced"}
"""What became of heads of which none is one of the other's."""


def _in_order(
    pairs: LayerPairs, paired: Sequence[LayerFate], alone: Sequence[LayerFate], names: tuple[list[str], list[str]]
) -> list[LayerFate]:
    """By their places in B, those that were removed after the layer of A that they followed."""
    of_b = {name: float(place) for place, name in enumerate(names[1])}
    of_a = {name: place for place, name in enumerate(names[0])}
    known = [(pair.a, pair.b) for pair in pairs.paired]

    def place(layer: LayerFate) -> tuple[float, int]:
        if layer.b is not None:
            return of_b[layer.b], 0
        mine = of_a[layer.a or ""]
        return max((b + 0.5 for a, b in known if a < mine), default=-0.5), mine

    return sorted([*paired, *alone], key=place)
