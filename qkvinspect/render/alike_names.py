"""Abbreviate names of layers that differ only in numbers: ``encoder.layers.*.self_attn`` stands for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

from qkvinspect.late_pattern import late_pattern

NUMBER = late_pattern(r"\d+")

_FEW = 3
"""Layers that are named one by one."""

_NAMED = 6
"""Stretches of layer numbers that are named; more are counted."""


def stem(layer: str) -> str:
    """A name with ``*`` for every number."""
    return NUMBER.sub("*", layer)


def together(layers: Sequence[str], few: int = _FEW) -> list[str]:
    """The names of a few layers; of more, one for all that differ only in numbers: ``h.*.attn (0 to 11)``."""
    if len(layers) <= few:
        return list(layers)
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(stem(layer), []).append(layer)
    return [_of_all(group) for group in groups.values()]


def _of_all(layers: Sequence[str]) -> str:
    every = columns(layers)
    differs = list(map(are_different, every))
    shown = name(layers[0], differs)
    return shown if len(layers) == 1 else f"{shown} ({numbers(labels(every, differs, len(layers)))})"


def columns(layers: Sequence[str]) -> list[list[str]]:
    """The numbers in names of one stem: the first of each name, then the second of each, and so on."""
    found: list[str] = NUMBER.findall("\n".join(layers))
    count = len(found) // max(len(layers), 1)
    return [found[place::count] for place in range(count)]


def are_different(numbers: Iterable[str]) -> bool:
    """Whether some of them differ."""
    return len(set(numbers)) > 1


def varied(layers: Sequence[str]) -> list[bool]:
    """Which of the numbers in names of one stem differ."""
    return list(map(are_different, columns(layers)))


def name(layer: str, differs: Sequence[bool]) -> str:
    """A name with ``*`` for the numbers that differ."""
    places = iter(differs)
    return NUMBER.sub(lambda number: "*" if next(places) else number[0], layer)


def label(layer: str, differs: Sequence[bool]) -> str:
    """Those numbers: ``3``, or ``0.3`` where there are two."""
    return ".".join(compress(NUMBER.findall(layer), differs))


def labels(columns: Sequence[Sequence[str]], differs: Sequence[bool], count: int) -> Sequence[str]:
    """The same, of each of so many names."""
    some = [*compress(columns, differs)]
    if len(some) < 2:
        return some[0] if some else [""] * count
    return [*map(".".join, zip(*some, strict=True))]


def numbers(labels: Sequence[str]) -> str:
    """``0 to 4, 6``: neighbours are not named one by one."""
    runs: list[list[str]] = []
    for label in labels:
        if runs and label.isdigit() and runs[-1][-1].isdigit() and int(label) == int(runs[-1][-1]) + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    named = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
