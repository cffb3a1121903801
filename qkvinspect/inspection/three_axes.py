"""Projections that are parameters of three axes: the tensors beside them tell which axis counts the heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.weights.head_stack import Axes, stack_of_heads
from qkvinspect.weights.weight import Weight

_WAYS: tuple[Axes, ...] = ((0, 2, 1), (0, 1, 2), (1, 2, 0))
"""[heads, in, dim], [heads, dim, in], [in, heads, dim], each as (heads, dim, in)."""

_KERNEL = 7
"""The size up to which a third axis is that of a convolution."""


def have_three(projections: Sequence[Projection]) -> bool:
    """Whether the tensors are such parameters, and not convolutions."""
    return all(len(one.weight.shape) == 3 and min(one.weight.shape[2:]) > _KERNEL for one in projections) or all(
        len(one.weight.shape) == 3 and one.key[-1] not in ("weight", "kernel") for one in projections
    )


def mix_three(projections: Sequence[Projection]) -> bool:
    """Whether some have three axes and others have not: K and V of each head, as llama.cpp stores latent attention."""
    three = [len(one.weight.shape) == 3 and one.weight.shape[2] > _KERNEL for one in projections]
    return any(three) and not all(three)


def as_matrices(
    names: Names, module: ProjectingModule, projections: Sequence[Projection]
) -> tuple[tuple[Projection, ...], int] | None:
    """The projections as matrices [heads * head_dim, in], and the number of heads of Q.

    None where nothing says which axis counts the heads: a bias [heads, head_dim], or an output projection
    [heads, head_dim, out].
    """
    fitting = [axes for axes in _WAYS if _told(names, module, projections, axes)]
    if len(fitting) != 1:
        return None
    found: list[Projection] = []
    for one in projections:
        info = one.weight.info
        if info is None or one.weight.encoding is not None or info.dtype.kind != "float" or info.dtype.bits < 8:
            return None
        found.append(replace(one, weight=stack_of_heads(info, fitting[0])))
    q = next((one for one in projections if one.parts == "q"), projections[0])
    return tuple(found), q.weight.shape[fitting[0][0]]


def _told(names: Names, module: ProjectingModule, projections: Sequence[Projection], axes: Axes) -> bool:
    """Whether something says that the axes are these, and nothing else."""
    heads, dim, _ = axes
    q = next((one for one in projections if one.parts == "q"), projections[0])
    small = (q.weight.shape[heads], q.weight.shape[dim])
    biases = [bias.shape for bias in _biases(names, module, q) if len(bias.shape) == 2]
    outs = [out.shape[:2] for _, out in module.outputs if len(out.shape) == 3]
    return all(shape == small for shape in (*biases, *outs)) and bool(biases or outs)


def _biases(names: Names, module: ProjectingModule, one: Projection) -> Iterator[Weight]:
    for key in bias_keys(one.key[-1]):
        found = names.find_path((*module.path, *one.key[:-1], key))
        if found is not None:
            yield found


def bias_keys(leaf: str) -> tuple[str, ...]:
    """What the bias beside a parameter may be called: ``bias`` beside ``weight``, ``b_Q`` beside ``W_Q``."""
    if leaf in ("weight", "kernel", "w"):
        return ("bias", "b")
    if "weight" in leaf:
        return (leaf.replace("weight", "bias"),)
    return (f"b{leaf[1:]}",) if leaf[:1] in ("W", "w") else (f"{leaf}_bias",)


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
