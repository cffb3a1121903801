"""Names of layers that differ only in numbers: ``encoder.layers.*.self_attn`` stands for all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"\d+")


def stem(layer: str) -> str:
    """A name with ``*`` for every number."""
    return NUMBER.sub("*", layer)


def together(layers: Sequence[str]) -> list[str]:
    """One name for all layers that differ only in numbers, in the order in which they are met."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(stem(layer), []).append(layer)
    return [name(group[0], varied(group)) for group in groups.values()]


def varied(layers: Sequence[str]) -> list[bool]:
    """Which of the numbers in names of one stem differ."""
    numbers = [NUMBER.findall(layer) for layer in layers]
    return [len(set(column)) > 1 for column in zip(*numbers, strict=True)]


def name(layer: str, differs: Sequence[bool]) -> str:
    """A name with ``*`` for the numbers that differ."""
    places = iter(differs)
    return NUMBER.sub(lambda number: "*" if next(places) else number[0], layer)


def label(layer: str, differs: Sequence[bool]) -> str:
    """Those numbers: ``3``, or ``0.3`` where there are two."""
    return ".".join(number for number, is_varied in zip(NUMBER.findall(layer), differs, strict=True) if is_varied)
