"""Projections that are parameters of three axes: the tensors beside them tell which axis counts the heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, lru_cache
from math import prod

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.kernels import is_convolution
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.outputs import output_of
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.inspection.words import tokens
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.weights.head_stack import Axes, stack_of_heads
from qkvinspect.weights.weight import Weight

_WAYS: tuple[Axes, ...] = ((0, 2, 1), (0, 1, 2), (1, 2, 0))
"""[heads, in, dim], [heads, dim, in], [in, heads, dim], each as (heads, dim, in)."""

_OUTS = ((0, 1), (0, 2), (1, 2))
"""Where heads and head_dim lie in [heads, head_dim, out], [heads, out, head_dim] and [out, heads, head_dim]."""

_OF_HEADS = frozenset(
    [*("q", "k", "v", "qk", "kv", "qkv", "query", "key", "value"), *("head", "heads", "rotary", "rope", "freqs")]
)


def have_three(projections: Sequence[Projection]) -> bool:
    """Whether the tensors are such parameters, and not convolutions."""
    return all(map(_has_three, projections)) or all(
        len(one.weight.shape) == 3 and one.key[-1] not in ("weight", "kernel") for one in projections
    )


def _has_three(one: Projection) -> bool:
    return len(one.weight.shape) == 3 and not is_convolution(one.weight.shape, one.key[-1])


def mix_three(projections: Sequence[Projection]) -> bool:
    """Whether some have three axes and others have not: K and V of each head, as llama.cpp stores latent attention."""
    three = [*map(_has_three, projections)]
    return any(three) and not all(three)


def readings(names: Names, module: ProjectingModule, projections: Sequence[Projection], stream: Stream) -> list[Axes]:
    """What the axes of the projections may count; nothing where nothing says it.

    A bias [heads, head_dim] says it, or an output projection of three axes: with [heads, a, b] beside an output
    [heads, b, a] the inputs may be a or b, and only the width of what the model passes on tells which.
    """
    fitting = [axes for axes in _WAYS if _told(names, module, projections, axes)]
    if len(fitting) < 2:
        return fitting
    shape = _query(projections).weight.shape
    for widths in (stream.vectors, stream.matrices):
        found = [axes for axes in fitting if shape[axes[2]] in widths]
        if found:
            return found
    return fitting


def in_words(axes: Axes) -> str:
    """As people write it: ``[heads, in, head_dim]``."""
    names = dict(zip(axes, ("heads", "head_dim", "in"), strict=True))
    return f"[{', '.join(names[axis] for axis in range(3))}]"


def as_matrices(projections: Sequence[Projection], axes: Axes) -> tuple[tuple[Projection, ...], int] | None:
    """The projections as matrices [heads * head_dim, in], and the number of heads of Q; None where they are codes."""
    found: list[Projection] = []
    for one in projections:
        info = one.weight.info
        if info is None or one.weight.encoding is not None or info.dtype.kind != "float" or info.dtype.bits < 8:
            return None
        found.append(replace(one, weight=stack_of_heads(info, axes)))
    return tuple(found), _query(projections).weight.shape[axes[0]]


def out_of(module: ProjectingModule, projections: Sequence[Projection], axes: Axes) -> str:
    """The key of an output projection [heads, head_dim, out] of the heads of Q; "" where it lies otherwise."""
    shape = next((one for one in projections if one.parts == "q"), projections[0]).weight.shape
    small = (shape[axes[0]], shape[axes[1]])
    found = output_of(module, projections, lambda _, info: info.shape[:2] == small and len(info.shape) == 3)
    return ".".join(found[0]) if found else ""


class Stream:
    """The widths of what a model passes from layer to layer, as the tensors outside of its attention say.

    Attributes:
        vectors: sizes of norms and biases.
        matrices: sizes of either axis of matrices.
    """

    def __init__(self, names: Names, paths: Mapping[str, Path], modules: Iterable[ProjectingModule]) -> None:
        """Keep what they are collected from: few checkpoints need them."""
        self._names, self._paths, self._modules = names, paths, modules

    @cached_property
    def vectors(self) -> AbstractSet[int]:
        return self._sizes[0]

    @cached_property
    def matrices(self) -> AbstractSet[int]:
        return self._sizes[1]

    @cached_property
    def _sizes(self) -> tuple[set[int], set[int]]:
        vectors, matrices = set[int](), set[int]()
        inside = {module.path for module in self._modules if module.path}
        for name, path in self._paths.items():
            if any(path[:size] in inside for size in range(1, len(path))) or any(map(_is_of_heads, path)):
                continue
            shape = self._names.shape(name)
            if len(shape) < 3:
                (vectors if len(shape) == 1 else matrices).update(shape)
        return vectors, matrices


@lru_cache(1 << 14)
def _is_of_heads(component: str) -> bool:
    """Whether a tensor of this name may be as wide as a head: ``q_norm``, ``b_k``, ``rotary_emb``."""
    return not _OF_HEADS.isdisjoint(tokens(component))


def _query(projections: Sequence[Projection]) -> Projection:
    return next((one for one in projections if one.parts == "q"), projections[0])


def _told(names: Names, module: ProjectingModule, projections: Sequence[Projection], axes: Axes) -> bool:
    """Whether something says that the axes may be these."""
    heads, dim, _ = axes
    q = _query(projections)
    small = (q.weight.shape[heads], q.weight.shape[dim])
    biases = [bias.shape for bias in _biases(names, module, q) if len(bias.shape) == 2]
    outs = [out.shape for _, out in module.outputs if len(out.shape) == 3]
    fit = all(shape == small for shape in biases) and all(
        any((shape[first], shape[second]) == small for first, second in _OUTS) for shape in outs
    )
    return (
        fit
        and bool(biases or outs)
        and all(one.weight.shape[dim] == small[1] for one in projections if one.parts == "k")
    )


def _biases(names: Names, module: ProjectingModule, one: Projection) -> Iterator[Weight]:
    for key in bias_keys(one.key[-1]):
        found = names.find_path((*module.path, *one.key[:-1], key))
        if found is not None:
            yield found


def bias_keys(leaf: str) -> tuple[str, ...]:
    """What the bias beside a parameter may be called: ``bias`` beside ``weight``, ``b_Q`` beside ``W_Q``."""
    if leaf in ("weight", "kernel", "w"):
        return ("bias", "b")
    if leaf == "weights":
        return ("biases", "bias")
    if "weight" in leaf:
        return (leaf.replace("weight", "bias"),)
    bare = leaf.lstrip("_")
    under = leaf[: len(leaf) - len(bare)]  # TransformerLens has _W_K and _b_K where kv heads are shared
    return (f"{under}b{bare[1:]}",) if bare[:1] in ("W", "w") else (f"{leaf}_bias",)


def as_told(layout: Layout, weights: Sequence[Weight]) -> tuple[Weight, ...]:
    """The matrices that a user's own row says some tensors to be.

    Raises:
        LayoutError: they cannot be.
    """
    return tuple(_as_told(stored, weight) for stored, weight in zip(layout.weights, weights, strict=True))


def _as_told(stored: StoredWeight, weight: Weight) -> Weight:
    shape = weight.shape
    if len(shape) < 2:
        raise LayoutError(f"{weight.name} {list(shape)} is no matrix")
    if stored.axes is None:
        if prod(shape[2:]) != 1:
            how = "orientation says of parameters of three axes what they count"
            raise LayoutError(f"a row of settings describes matrices, and {weight.name} {list(shape)} is none: {how}")
        return weight
    if len(shape) != 3 or weight.info is None or weight.encoding is not None:
        raise LayoutError(f"orientation is that of three axes, and {weight.name} is {list(shape)}")
    return stack_of_heads(weight.info, stored.axes)
