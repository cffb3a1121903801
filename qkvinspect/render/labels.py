"""Names of layers for the axis of a picture: what all have in common is said once."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.render import text

LONGEST = 36


def shared(names: Sequence[str]) -> tuple[str, list[str]]:
    """``model.layers.*.attn`` and what stands for ``*`` in each name; "" and the names where they share nothing."""
    paths = [text.layer(name).split(".") for name in names]
    shortest = min(map(len, paths), default=0)
    if len(paths) < 2:
        return "", [shortened(".".join(path)) for path in paths]
    before = next((i for i in range(shortest - 1) if len({path[i] for path in paths}) > 1), shortest - 1)
    room = shortest - 1 - before
    after = next((i for i in range(room) if len({path[-1 - i] for path in paths}) > 1), room)
    rest = [shortened(".".join(path[before : len(path) - after])) for path in paths]
    if not before and not after:
        return "", rest
    first = paths[0]
    return shortened(".".join([*first[:before], "*", *first[len(first) - after :]]), 2 * LONGEST), rest


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name whose middle is left out if it is long."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
