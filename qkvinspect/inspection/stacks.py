"""Which layers are copies of one another: those that the weights are asked about together."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from qkvinspect.inspection.report import Attention

Layer = TypeVar("Layer")

_NUMBER = re.compile(r"\d+")


def stack_of(attention: Attention) -> Hashable:
    """The same for layers of one stack: names that differ in numbers only, one layout, the same shapes and heads."""
    shapes = tuple(info.shape for info in attention.weights)
    pattern = _NUMBER.sub("N", attention.layer)
    return pattern, attention.candidates, shapes, attention.heads_from, str(attention.heads)


def finer(layers: Iterable[Layer], name: Callable[[Layer], str]) -> list[list[Layer]]:
    """The stacks within a stack: names that differ in the last number only; or each layer alone, if these do."""
    found: dict[Hashable, list[Layer]] = {}
    for layer in layers:
        found.setdefault(tuple(_NUMBER.findall(name(layer))[:-1]), []).append(layer)
    stacks = list(found.values())
    return stacks if len(stacks) > 1 else [[layer] for layer in stacks[0]]
