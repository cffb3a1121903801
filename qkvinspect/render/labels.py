"""Shorten lists of layers' names by what they all have in common."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.render import text

LONGEST = 36


def apart(names: Sequence[str]) -> tuple[str, list[str]]:
    """``model.layers.*.attn`` and what stands for ``*`` in each name; "" and the names where they share nothing."""
    paths = [text.layer(name).split(".") for name in names]
    most = min(map(len, paths), default=1) - 1
    before = next((i for i in range(most) if len({path[i] for path in paths}) > 1), most)
    room = most - before
    after = next((i for i in range(room) if len({path[-1 - i] for path in paths}) > 1), room)
    if len(paths) < 2 or not (before or after):
        return "", [".".join(path) for path in paths]
    first = paths[0]
    place = ".".join([*first[:before], "*", *first[len(first) - after :]])
    return place, [".".join(path[before : len(path) - after]) for path in paths]


def shared(names: Sequence[str]) -> tuple[str, list[str]]:
    """As ``apart``, no name longer than a picture has room for."""
    place, rest = apart(names)
    return shortened(place, 2 * LONGEST), [shortened(name) for name in rest]


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name whose middle is left out if it is long."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
