"""Whether a checkpoint holds nothing new against another: each head is one of the other's after a known operation.

That two checkpoints are near each other does not tell that one was made from the other: two that were trained a little
from a third are as near. So what is asked here is asked of each number that is looked at: whether it is the other's,
or that rounded, turned, or set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from qkvinspect.dtypes import DType
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention
from qkvinspect.lineage.averaged_heads import averaged, by_own_factors
from qkvinspect.lineage.coded_layers import Coded, Rows, coded
from qkvinspect.lineage.exact_turns import STILL, nearest_turn, rounding_of
from qkvinspect.lineage.positions import Positions
from qkvinspect.lineage.relatives import Relative
from qkvinspect.lineage.rounded_values import noise, same_values
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import Weight

Operation = Literal["equal", "moved", "rounded", "turned", "zeroed", "coded", "averaged", "repeated"]
Parts = Mapping[str, Array]

_SIDES = (("k", "q"), ("v", "o"))
_FLOAT32_TURNED = 1e-6
"""What is lost where a head is rotated in float32, in sizes of its rows."""
_LESS = 1.15
_FREE = Positions("none")
_BIASED = "qkv"
"""The parts whose bias is the last column of their factors."""


@dataclass(frozen=True, slots=True)
class LayerOrigin:
    """Of which layer another was made, by their places, and of which head each of its heads."""

    source: int
    target: int
    heads: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class NewContent:
    """Something that is not explained so.

    Attributes:
        bias: the name of the bias that alone is new; "" where more is.
    """

    bias: str = ""


def operations(source: Relative, target: Relative, layers: Sequence[LayerOrigin]) -> frozenset[Operation] | NewContent:
    """What was done to a checkpoint to make the other, or what in the other is not explained so.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if {one.target for one in layers} != {*range(len(target.layers))}:
        return NewContent()
    every: set[Operation] = set()
    bias = ""
    for layer in layers:
        ours, theirs = _factors(source, layer.source), _factors(target, layer.target)
        emptied = [name for name in _BIASED if _bias(ours, name).any() and not _bias(theirs, name).any()]
        ours = _without_biases(ours, emptied)
        found = _of_layer(source, target, layer, ours, theirs)
        if found is None:
            name = _new_bias(source, target, layer, ours, theirs)
            if not name:
                return NewContent()
            bias = bias or name
            continue
        every |= found
        if emptied:
            every.add("zeroed")
    return NewContent(bias) if bias else frozenset(every)


def _new_bias(source: Relative, target: Relative, layer: LayerOrigin, ours: Parts, theirs: Parts) -> str:
    """The name of the bias without which nothing in a layer is new, or of the first of several; "" where more is."""
    parts = [target.layers[layer.target].part(name) for name in _BIASED]
    names = {part.name: part.bias.name for part in parts if part is not None and part.bias is not None}
    for some in (*([name] for name in names), [*names]):
        sides = _without_biases(ours, some), _without_biases(theirs, some)
        if some and _of_layer(source, target, layer, *sides) is not None:
            return names[some[0]]
    return ""


def _bias(parts: Parts, name: str) -> Array:
    return parts[name][..., -1]


def _without_biases(parts: Parts, names: Sequence[str]) -> Parts:
    found = dict(parts)
    for name in names:
        found[name] = np.concatenate([parts[name][..., :-1], np.zeros_like(parts[name][..., -1:])], axis=-1)
    return found


def _of_layer(
    source: Relative, target: Relative, layer: LayerOrigin, ours: Parts, theirs: Parts
) -> set[Operation] | None:
    a, b = source.layers[layer.source], target.layers[layer.target]
    heads = len(theirs["q"])
    regrouped = len(ours["q"]) == heads and _kv_heads(a) != _kv_heads(b)
    found = _of_heads(a, b, layer, ours, theirs)
    if found is not None and regrouped:
        found.add("repeated")
    if found is not None:
        return found
    if regrouped and _kv_heads(a) > _kv_heads(b) and _averaged((a, b), ours, theirs):
        return {"averaged"}
    return None


def _of_heads(a: Attention, b: Attention, layer: LayerOrigin, ours: Parts, theirs: Parts) -> set[Operation] | None:
    """What was done to each head, by itself."""
    found: set[Operation] = set()
    if layer.source != layer.target or any(head != of for head, of in layer.heads.items()):
        found.add("moved")
    rest: list[Coded] = []
    for head in range(len(theirs["q"])):
        for shared, own in _SIDES:
            said = _of_side(a, b, ours, theirs, (shared, own), (layer.heads.get(head), head))
            if said is None:
                return None
            found |= {one for one in said if not isinstance(one, Coded)}
            rest += [one for one in said if isinstance(one, Coded)]
    if rest:
        if not coded(a, b, rest):
            return None
        found.add("coded")
    return found


def _of_side(
    a: Attention, b: Attention, ours: Parts, theirs: Parts, names: tuple[str, str], heads: tuple[int | None, int]
) -> list[Operation | Coded] | None:
    """Of the two factors of a circuit: what was done to each."""
    of, head = heads
    if of is None:  # it has no origin, and may only be empty
        return ["zeroed"] if all(not theirs[name][head].any() for name in names) else None
    if any(ours[name].shape[1:] != theirs[name].shape[1:] for name in names):
        return None
    found: list[Operation | Coded] = []
    for name in names:
        weights = _weight(a, name), _weight(b, name)
        same = same_values(ours[name][of], theirs[name][head], *(one.dtype for one in weights),
                           computed=any(one.encoding is not None for one in weights))  # fmt: skip
        if same is None and not theirs[name][head].any():
            same = "zeroed"
        if same is None:
            break
        found.append(same)
    else:
        return found
    if _turned(a, b, ours, theirs, names, (of, head)):
        return ["turned"]
    order = _row_order(ours, theirs, names, (of, head))
    if order is None or not all(_biases_same(a, b, ours, theirs, name, (of, head), order) for name in names):
        return None
    return [Coded(name, of, head, order) for name in names if theirs[name][head].any()]


def _biases_same(
    a: Attention, b: Attention, ours: Parts, theirs: Parts, name: str, heads: tuple[int, int], order: Rows
) -> bool:
    """Whether the bias of a head that may be codes is the other's: biases are not made codes of."""
    if name not in _BIASED or not theirs[name][heads[1]].any():
        return True
    bias, its = _bias(ours, name)[heads[0]][[*order]], _bias(theirs, name)[heads[1]]
    dtypes = [_bias_dtype(one, name) for one in (a, b)]
    return same_values(bias, its, *dtypes) is not None


def _averaged(layers: tuple[Attention, Attention], ours: Parts, theirs: Parts) -> bool:
    """Whether heads of K and V are means of several, and Q and the output follow."""
    heads = by_own_factors((ours["q"], theirs["q"]), (ours["o"], theirs["o"]))
    rounding = 2 * rounding_of(weight for layer in layers for weight in layer.weights)
    return len(heads) == len(theirs["q"]) and all(
        averaged((ours[own], theirs[own]), (ours[shared], theirs[shared]), heads, rounding) for shared, own in _SIDES
    )


def _kv_heads(layer: Attention) -> int:
    assert layer.heads is not None
    return layer.heads.num_kv_heads


def _turned(
    a: Attention, b: Attention, ours: Parts, theirs: Parts, names: tuple[str, str], heads: tuple[int, int]
) -> bool:
    """Whether both factors are the other's after a rotation or scaling that cancels, but for rounding."""
    of, head = heads
    wanted, given = ((side[names[0]][one], side[names[1]][one]) for side, one in ((theirs, head), (ours, of)))
    turn = nearest_turn(wanted, given, _FREE)
    if turn is STILL:
        return False
    for name, want, give, inverse in zip(names, wanted, given, (False, True), strict=True):
        matrix = turn.of(inverse=inverse)
        assert matrix is not None
        made = matrix @ give
        scale = 1 / turn.scale if inverse else turn.scale
        lost = float(np.hypot(noise(want, _weight(b, name).dtype), noise(give, _weight(a, name).dtype) * scale))
        far, size = (float(np.sqrt((one**2).mean())) for one in (want - made, want))
        if far > _LESS * lost + _FLOAT32_TURNED * size:
            return False
    return True


def _row_order(ours: Parts, theirs: Parts, names: tuple[str, str], heads: tuple[int, int]) -> Rows | None:
    """Which row of the head each row of the other's is, as llama.cpp puts those of Q and K in another order."""
    of, head = heads
    alike = sum(_cosines(theirs[name][head], ours[name][of]) for name in names)
    assert isinstance(alike, np.ndarray)
    width = len(alike)
    diagonal, order = np.diagonal(alike), alike.argmax(axis=1)
    if (order != np.arange(width)).any() and (alike[np.arange(width), order] - diagonal > 0.1).any():
        return tuple(order.tolist()) if len({*order.tolist()}) == width else None
    return tuple(range(width))


def _cosines(a: Array, b: Array) -> Array:
    sizes = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    return np.divide(a @ b.T, sizes, out=np.zeros(sizes.shape), where=sizes > 0)


def _weight(layer: Attention, name: str) -> Weight:
    part = layer.output if name == "o" else layer.part(name)
    assert part is not None
    return part.weight


def _bias_dtype(layer: Attention, name: str) -> DType:
    part = layer.part(name)
    return part.bias.dtype if part is not None and part.bias is not None else _weight(layer, name).dtype


def _factors(one: Relative, place: int) -> Parts:
    """Of each part the heads at the units that are read, with their biases as a last column."""
    heads, layer = one.read(place), one.layers[place]
    geometry = layer.heads
    assert geometry is not None
    found = {"o": heads.o}
    for name, rows in (("q", heads.q), ("k", heads.k), ("v", heads.v)):
        part = layer.part(name)
        assert part is not None
        bias = np.zeros((*rows.shape[:2], 1))
        if part.bias is not None:
            own = rows_of_values(part.bias.as_matrix("out_in"), part.bias_heads).reshape(len(part.heads), -1, 1)
            bias = own if name == "q" else own[[geometry.kv_head(head) for head in range(geometry.num_heads)]]
        found[name] = np.concatenate([rows, bias], axis=2)
    return found
