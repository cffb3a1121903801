"""Projections in two steps, down to few features and up again: latent attention, or Q, K and V of low rank each.

Either step alone has names and shapes like those of attention. Only the second makes the rows of its heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import prod

from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.inspection.words import tokens

STEPS = frozenset(
    first + step for step in ("dq", "uq", "dkv", "ukv", "dk", "uk", "dv", "uv", "qr", "kr") for first in ("", "w")
)
"""Words for the steps of latent attention, down and up, and for its rotary part, as DeepSeek's papers have them."""

IN_TWO_STEPS = "projections in two steps, as latent attention has them"

_PAIRS = (("a", "b"), ("down", "up"), ("compress", "decompress"), ("compress", "expand"), ("reduce", "expand"))
"""What the first and the second step are called elsewhere."""


def projections_of(module: ProjectingModule) -> Sequence[Projection]:
    """All of a module's projections."""
    return [*(one for some in module.sets for one in some), *module.lone]


def first_steps(module: ProjectingModule) -> Collection[Projection]:
    """The first steps of a module whose K and V, at least, are made in two; none where they are not.

    The second step reads what the first makes, which is less than that reads; beside the latent of K and V its first
    step may make a rotary key.
    """
    held = projections_of(module)
    for first, second in _PAIRS:
        down = [one for one in held if first in one.word.affix and _narrows(one)]
        up = [one for one in held if second in one.word.affix] if down else []
        read = {part for one in up for part in one.parts if any(_reads(one, other) for other in down)}
        if {"k", "v"} <= read:
            return down
    return ()


def products(module: ProjectingModule) -> Iterator[tuple[Sequence[Projection], str]]:
    """Sets of which each tensor is one of two factors, and what they are.

    Tensor product attention (T6) makes each head's Q, K and V of two sets of numbers that are read off the same input.
    """
    for some in module.sets:
        if any(one.factor is not None for one in some):
            yield some, "each is the product of two factors"
    for first, second in _PAIRS:
        downs, ups = (_whole_with(module, word) for word in (first, second))
        if len(downs) == len(ups) == 1 and _are_of_one_product(downs[0], ups[0]):
            yield downs[0], "factors of a tensor product"
            yield ups[0], "factors of a tensor product"


def _whole_with(module: ProjectingModule, word: str) -> Sequence[Sequence[Projection]]:
    """Q, K and V with this word in their names."""
    return [some for some in module.sets if len(some) == 3 and word in some[0].word.affix]


def _are_of_one_product(some: Sequence[Projection], others: Sequence[Projection]) -> bool:
    """Whether neither reads the other, and both are of other sizes, as two streams are not."""
    sizes = [[_size(one) for one in each] for each in (some, others)]
    read = {cols for each in sizes for _, cols in each}
    return len(read) == 1 and all(one != other for one, other in zip(*sizes, strict=True))


def without_first_steps(keys: Collection[str]) -> Collection[str]:
    """Names without those of first steps beside whose like a second one stands."""
    said = {word for key in keys for part in key.split(".") for word in tokens(part)}
    first = {one for one, other in _PAIRS if one in said and other in said}
    return [key for key in keys if not any(first.intersection(tokens(part)) for part in key.split("."))]


def _narrows(one: Projection) -> bool:
    rows, cols = _size(one)
    return rows < cols


def _reads(second: Projection, first: Projection) -> bool:
    """Whether it may read what another makes, of which a rotary key is left out."""
    cols, rows = _size(second)[1], _size(first)[0]
    shared = set(first.parts) == {"k", "v"}
    return set(second.parts) <= set(first.parts) and (cols == rows or (shared and rows // 2 < cols < rows))


def _size(one: Projection) -> tuple[int, int]:
    shape = one.weight.shape
    return shape[0], prod(shape[1:])
