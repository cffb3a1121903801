"""Group layers into stacks of the same structure, whose weights are weighed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from qkvinspect.inspection.report import Attention
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.adapters import is_update

Layer = TypeVar("Layer")

_NUMBER = late_pattern(r"\d+")


def stack_of(attention: Attention) -> Hashable:
    """The same for layers of one stack: its name, one layout, the same shapes and the same said of their heads.

    Names of one stack are alike up to their last number, as those of self- and cross-attention of the same
    blocks are; a name without a number is a stack of its own.
    """
    shapes = tuple(info.shape for info in attention.weights)
    return name_of_stack(attention), attention.candidates, shapes, attention.heads_from, str(attention.heads)


def form_of(attention: Attention) -> Hashable:
    """The same for layers that are cut alike, whatever is asked of them."""
    shapes = tuple(info.shape for info in attention.weights)
    out = attention.out and attention.out.shape
    return attention.layout, shapes, out, attention.geometry, attention.possible_heads


def name_of_stack(attention: Attention) -> Hashable:
    """What the names of the layers of one stack have in common."""
    return tuple(_NUMBER.split(attention.layer)[:-1]) or attention.layer


def with_number_of_others(firsts: Iterable[Attention]) -> set[Hashable]:
    """The stacks whose number of heads one source gives to stacks of other names too, which may have another."""
    every = list(firsts)
    said = Counter(source for source, _ in {(one.heads_from, name_of_stack(one)) for one in every if one.heads})
    return {stack_of(one) for one in every if said[one.heads_from] > 1}


def finer(layers: Iterable[Layer], name: Callable[[Layer], str]) -> list[list[Layer]]:
    """The stacks within a stack: names that differ in the last number only; or each layer alone, if these do."""
    found: dict[Hashable, list[Layer]] = {}
    for layer in layers:
        *before, after = _NUMBER.split(name(layer))
        found.setdefault((tuple(_NUMBER.findall(name(layer))[:-1]), tuple(before), after), []).append(layer)
    stacks = list(found.values())
    return stacks if len(stacks) > 1 else [[layer] for layer in stacks[0]]


def one_after_another(names: Iterable[str]) -> bool:
    """Whether names differ in their last number only, as those of layers that follow one another do."""
    return len({(tuple(_NUMBER.findall(name)[:-1]), tuple(_NUMBER.split(name))) for name in names}) == 1


def without_values(attention: Attention) -> bool:
    """Whether they cannot show the heads: an adapter's update has the rank that it was given, whatever the heads."""
    return any(weight.no_values or is_update(weight) for weight in attention.weights)
