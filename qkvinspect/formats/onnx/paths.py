"""Whole paths of modules, of which torch's older exporter leaves out those that are not called themselves.

A layer in a list of dictionaries is ``/attn/qkv/MatMul`` in the names of its nodes, and the next one is
``/attn/qkv_1/MatMul``. The names of biases and norms have the whole path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qkvinspect.late_pattern import late_pattern

_COUNTED = late_pattern(r"(.+?)_(\d{1,6})")

_MOST_KNOWN = 1 << 12
"""Paths that are compared with each that is sought."""


def parted(scope: str) -> tuple[tuple[str, ...], int]:
    """(the components of a path, how many nodes of the same name come before)."""
    *before, last = scope.split(".")
    found = _COUNTED.fullmatch(last)
    return ((*before, found[1]), int(found[2])) if found else ((*before, last), 0)


def _places(short: Sequence[str], whole: Sequence[str]) -> list[int] | None:
    """Where each component of a shortened path stands in the whole, from its end; None where it is not of it."""
    places: list[int] = []
    at = len(whole) - 1
    for part in reversed(short):
        while at >= 0 and whole[at] != part:
            if not places:
                return None
            at -= 1
        if at < 0:
            return None
        places.insert(0, at)
        at -= 1
    return places


def is_short_for(scope: str, path: str) -> bool:
    """Whether the path in the name of a node is that of a module without those around it, perhaps counted."""
    whole = path.split(".")
    return any(_places(short, whole) is not None for short in (parted(scope)[0], scope.split(".")))


def module_in(label: str, scope: str) -> str | None:
    """The path of the module that a node was traced in, where the name of what it uses begins with that."""
    if label.startswith(f"{scope}."):
        return scope
    short, _ = parted(scope)
    whole = label.split(".")[:-1]
    ends = [at for at, part in enumerate(whole, 1) if part == short[-1] and _places(short, whole[:at]) is not None]
    return ".".join(whole[: ends[0]]) if len(ends) == 1 else None


class Paths:
    """The whole paths of a graph's modules, by what the names of its nodes have of them.

    Args:
        known: pairs (path in the name of a node, path in the name of what it uses).
    """

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        self._known: dict[int, dict[tuple[str, ...], tuple[list[int], list[str]]]] = {}
        for scope, path in known:
            short, number = parted(scope)
            whole = path.split(".")
            places = _places(short, whole)
            if places is not None and len(whole) > len(short):
                held = self._known.setdefault(number, {})
                if len(held) < _MOST_KNOWN:
                    held.setdefault(short, (places, whole))

    def whole(self, scope: str) -> str:
        """The whole path of a module, where those beside it tell; else what the name of its node has."""
        short, number = parted(scope)
        found: dict[int, set[str]] = {}
        for other, (places, path) in self._known.get(number, {}).items():
            most = min(len(other), len(short)) - 1
            shared = next((at for at in range(most) if other[at] != short[at]), most)
            found.setdefault(shared, set()).add(".".join([*path[: places[shared]], *short[shared:]]))
        nearest = found.get(max(found, default=0), set())
        return next(iter(nearest)) if len(nearest) == 1 else scope
