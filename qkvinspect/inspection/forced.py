"""Which layout a person asked for, or a file says, by layer; looked up, as there may be one for each of many layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from qkvinspect.late_pattern import late_pattern

_ESCAPED = late_pattern(r"\[([*?\[])\]")
_MAGIC = late_pattern(r"[*?\[]")


class Forced:
    """Pairs (layer glob, layout id), of which the last that matches counts."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._named: dict[str, tuple[int, str]] = {}
        self._globs: list[tuple[int, str, str]] = []
        for place, (glob, id) in enumerate(pairs):
            if _MAGIC.search(_ESCAPED.sub("", glob)):
                self._globs.append((place, glob, id))
            else:
                self._named[_ESCAPED.sub(lambda found: found[1], glob)] = place, id

    def layout(self, layer: str) -> str | None:
        """The id that was asked for a layer."""
        place, found = self._named.get(layer, (-1, None))
        for later, glob, id in reversed(self._globs):
            if later < place:
                break
            if fnmatchcase(layer, glob):
                return id
        return found

    def places(self) -> Iterator[tuple[str, str | frozenset[str]]]:
        """Each id with a glob, or with all the names that it was asked for."""
        named: dict[str, set[str]] = {}
        for name, (_, id) in self._named.items():
            named.setdefault(id, set()).add(name)
        yield from ((id, frozenset(names)) for id, names in named.items())
        yield from ((id, glob) for _, glob, id in self._globs)
