"""Layers as a tree: by the components of their names, layers of a stack side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qkvinspect.inspection.names import numberless
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import describe
from qkvinspect.tui.session import layouts

Path = tuple[str, ...]

_DEEPEST = 8
"""Levels of the tree: below the last, the rest of a name stays in one piece."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Layers whose names begin alike; one layer if it has no children.

    Attributes:
        label: what its name has in addition to those above; ``*`` is the number of a layer of a stack.
        note: how many there are, or what a layer has of its own.
        layers: by their place in the report.
        alike: whether all of them have the same layout and shapes.
    """

    label: str
    note: str
    layers: tuple[int, ...]
    children: tuple[Branch, ...] = ()
    alike: bool = False


def outline(attentions: Sequence[Attention], chosen: Sequence[int]) -> Branch:
    """The tree of the chosen layers."""
    stacks: dict[Path, list[int]] = {}
    for number in chosen:
        stacks.setdefault(numberless(_path(attentions[number])), []).append(number)
    named = [
        (_named(path) if len(layers) > 1 else _path(attentions[layers[0]]), layers) for path, layers in stacks.items()
    ]
    return Branch("", str(len(chosen)), tuple(chosen), _branches(attentions, named, 0))


def _named(stack: Path) -> Path:
    return tuple("*" if part == "#" else part for part in stack)


def _branches(attentions: Sequence[Attention], stacks: list[tuple[Path, list[int]]], depth: int) -> tuple[Branch, ...]:
    groups: dict[object, list[tuple[Path, list[int]]]] = {}
    for path, layers in stacks:
        groups.setdefault(path[:1] if depth < _DEEPEST else layers[0], []).append((path, layers))
    found: list[Branch] = []
    for group in groups.values():
        if len(group) == 1:
            found.append(_stack(attentions, *group[0]))
            continue
        common = _common([path for path, _ in group])
        children = _branches(attentions, [(path[len(common) :], layers) for path, layers in group], depth + 1)
        layers = tuple(layer for child in children for layer in child.layers)
        found.append(Branch(".".join(common), str(len(layers)), layers, children))
    return tuple(found)


def _common(paths: Sequence[Path]) -> Path:
    """The components that all begin with; it is enough to look at the first and the last."""
    first, last = min(paths), max(paths)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))]


def _stack(attentions: Sequence[Attention], path: Path, layers: list[int]) -> Branch:
    label = ".".join(path)
    if len(layers) == 1:
        return Branch(label, "", tuple(layers))
    alike = len({_kind(attentions[layer]) for layer in layers}) == 1
    children = tuple(
        Branch(_numbers(attentions[layer]), "" if alike else _heads(attentions[layer]), (layer,)) for layer in layers
    )
    return Branch(label, f"{len(layers)}{'' if alike else ' mixed'}", tuple(layers), children, alike)


def _heads(attention: Attention) -> str:
    return describe(attention.heads) if attention.heads else "heads ?"


def _kind(attention: Attention) -> object:
    return layouts(attention), attention.dtype, tuple(info.shape for info in attention.weights)


def _path(attention: Attention) -> Path:
    return tuple(attention.layer.split("."))


def _numbers(attention: Attention) -> str:
    return ".".join(part for part in _path(attention) if part.isdecimal())
