"""All values of a layer's heads, biases included, and the layer with its heads made of them anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.mixed_heads import Terms, mixed, mixed_bias
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import rows_of_values
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class WholeHeads:
    """Rows of the heads of Q, K and V with their biases as a last column, and the columns of the output as rows.

    Attributes:
        q, o: [heads, width, inputs + 1] and [heads, width, outputs].
        k, v: [kv heads, width, inputs + 1].
    """

    q: Array
    k: Array
    v: Array
    o: Array

    @property
    def share(self) -> int:
        """How many heads use one of K and V."""
        return len(self.q) // len(self.k)


def whole_heads(attention: Attention) -> WholeHeads:
    """Read a layer, of which ``cannot_compare`` says nothing.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    q, k, v = (_rows(attention.part(name)) for name in "qkv")
    output = attention.output
    assert output is not None
    assert attention.heads is not None
    rows = output.numpy()
    return WholeHeads(q, k, v, rows.reshape(attention.heads.num_heads, -1, rows.shape[1]))


def _rows(part: Part | None) -> Array:
    assert part is not None
    rows = part.numpy()
    bias = np.zeros((len(rows), 1), rows.dtype)
    if part.bias is not None:
        bias = rows_of_values(part.bias.as_matrix("out_in"), part.bias_heads)
    return np.concatenate([rows, bias], axis=1).reshape(len(part.heads), -1, rows.shape[1] + 1)


@dataclass(frozen=True, slots=True)
class HeadsAnew:
    """Of what each head of a layer is made; the heads of one of K and V follow each other in Q and the output."""

    q: tuple[Terms, ...]
    k: tuple[Terms, ...]
    v: tuple[Terms, ...]
    o: tuple[Terms, ...]

    @property
    def kept(self) -> bool:
        """Whether every head is what it was."""
        return all(_order(part) == list(range(len(part))) for part in (self.q, self.k, self.v, self.o))


def made_anew(attention: Attention, heads: HeadsAnew) -> Attention:
    """A layer with other heads; nothing is read."""
    old, output = attention.geometry, attention.output
    assert old is not None
    assert output is not None
    anew: Mapping[str, tuple[Terms, ...]] = {"q": heads.q, "k": heads.k, "v": heads.v}
    parts = tuple(_part(part, anew[part.name]) for part in attention.parts)
    geometry: Geometry = replace(old, num_heads=len(heads.q), num_kv_heads=len(heads.k))
    if _order(heads.o) == list(range(len(output.heads))):
        return replace(attention, geometry=geometry, parts=parts)
    weight = mixed(output.weight, output.orientation, output.heads, heads.o, inputs=True)
    return replace(attention, geometry=geometry, parts=parts, output=_output(output, weight, heads.o), out=weight)


def only_groups(attention: Attention, groups: Sequence[int]) -> Attention:
    """A layer with some of its heads of K and V, and those that use them; nothing is read."""
    geometry = attention.heads
    assert geometry is not None
    share = geometry.num_heads // geometry.num_kv_heads
    shared: tuple[Terms, ...] = tuple(((group, None),) for group in groups)
    own: tuple[Terms, ...] = tuple(((group * share + at, None),) for group in groups for at in range(share))
    return made_anew(attention, HeadsAnew(own, shared, shared, own))


def _part(part: Part, heads: tuple[Terms, ...]) -> Part:
    """Heads that only change places stay rows of what is stored."""
    if (order := _order(heads)) is not None:
        bias_heads = tuple(part.bias_heads[head] for head in order) if part.bias is not None else ()
        return replace(part, heads=tuple(part.heads[head] for head in order), bias_heads=bias_heads)
    places = _places(len(heads), len(part.heads[0]))
    weight = mixed(part.weight, part.orientation, part.heads, heads, inputs=False)
    bias = mixed_bias(part.bias, part.bias_heads, heads) if part.bias is not None else None
    return replace(part, weight=weight, orientation="out_in", heads=places, bias=bias,
                   bias_heads=places if bias is not None else ())  # fmt: skip


def _output(output: Part, weight: Weight, heads: tuple[Terms, ...]) -> Part:
    if (order := _order(heads)) is not None:
        return replace(output, heads=tuple(output.heads[head] for head in order))
    return replace(output, weight=weight, heads=_places(len(heads), len(output.heads[0])))


def _order(heads: tuple[Terms, ...]) -> list[int] | None:
    """The heads that they were; None where any was changed."""
    if any(len(terms) != 1 or terms[0][1] is not None for terms in heads):
        return None
    return [terms[0][0] for terms in heads]


def _places(heads: int, width: int) -> tuple[range, ...]:
    return tuple(range(head * width, (head + 1) * width) for head in range(heads))
