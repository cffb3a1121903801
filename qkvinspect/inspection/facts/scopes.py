"""Which part of a config speaks of which layer: ``vision_config`` of the vision tower, and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from qkvinspect.checkpoint import Config

_SCOPES: Mapping[str, tuple[str, ...]] = {
    "vision": ("vision", "visual", "image"),
    "text": ("text", "language", "transformer"),
    "audio": ("audio", "speech"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "qformer": ("qformer",),
}
"""Words in a config's keys, and the words in the names of the layers that they speak of."""


def place(path: str, layer: str) -> int | None:
    """How well a config's key speaks of a layer; smaller is better.

    The position in the layer's name of the word that the key's own words stand for; the name's length for a
    key without such words, which speaks of every layer; None for a key that speaks of other layers.
    """
    path, layer = path.lower(), layer.lower()
    scopes = [words for scope, words in _SCOPES.items() if scope in path]
    if not scopes:
        return len(layer)
    places = [layer.find(word) for words in scopes for word in words if word in layer]
    return min(places, default=None)


def speaking(config: Config, layer: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(key, values) of the parts of a config that speak of a layer, the most particular first, the root last."""
    found: list[tuple[int, str]] = []
    for key, value in config.values.items():
        if not isinstance(value, dict):
            continue
        where = place(key, layer)
        if where is not None and where < len(layer):
            found.append((where, key))
    for _, key in sorted(found):
        yield key, {**config.values, **cast(dict[str, object], config.values[key])}
    yield "", config.values
