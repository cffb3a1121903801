"""Layers by name; a name that none has is answered with those that are near."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from qkvinspect.errors import clean

Layer = TypeVar("Layer")

_SHOWN = 3


class NoSuchLayerError(KeyError):
    """No layer is called so."""

    def __str__(self) -> str:
        """The sentence, where a KeyError would put its key in quotes."""
        return str(self.args[0])


class LayersByName(dict[str, Layer]):
    """The layers of a checkpoint by name.

    Args:
        lost: why there is no such layer, by names of modules that cannot be read.
    """

    def __init__(self, layers: Mapping[str, Layer], lost: Mapping[str, str] | None = None) -> None:
        super().__init__(layers)
        self._lost = lost or {}

    def __repr__(self) -> str:
        return clean(f"<{len(self)} layers: {', '.join(list(self)[:_SHOWN])}{', ...' if len(self) > _SHOWN else ''}>")

    def __missing__(self, name: str) -> Layer:
        if name in self._lost:
            raise NoSuchLayerError(clean(f"no layer {name!r}: {self._lost[name]}"))
        raise NoSuchLayerError(clean(f"no layer {name!r}; there is {' or '.join(near(name, list(self))) or 'none'}"))


def near(name: str, names: list[str]) -> list[str]:
    """The names that somebody may have meant: those that hold what was typed, or are like it, or else the first."""
    from difflib import get_close_matches

    holding = [one for one in names if name and name in one]
    return holding[:_SHOWN] or get_close_matches(name, names[:10_000], _SHOWN) or names[:_SHOWN]
