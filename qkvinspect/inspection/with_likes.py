"""Names of tensors, and of those that are their likes in blocks that repeat theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

from qkvinspect.inspection.candidates import Match
from qkvinspect.inspection.repeated import RepeatedAttention, RepeatedMatch, in_runs
from qkvinspect.inspection.repeats import Repeats
from qkvinspect.inspection.report import Attention


class NamesWithLikes(Set[str]):
    """Some names and their likes, which are counted without being made.

    Args:
        names: of tensors that are in no block that repeats another.
    """

    __slots__ = ("_every", "_names", "_repeats")

    def __init__(self, names: frozenset[str], repeats: Repeats) -> None:
        self._names, self._repeats = names, repeats
        self._every: frozenset[str] | None = None

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return frozenset(it)

    def __len__(self) -> int:
        return len(self._names) + sum(len(places) * len(blocks) for places, blocks in self._likes())

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __contains__(self, name: object) -> bool:
        return name in self._made()

    def _made(self) -> frozenset[str]:
        if self._every is None:
            self._every = self._names.union(
                held[place] for places, blocks in self._likes() for held in blocks for place in places
            )
        return self._every

    def _likes(self) -> Iterator[tuple[Sequence[int], Sequence[Sequence[str]]]]:
        """The places of the names in each block that others repeat, and what these others hold."""
        for held, blocks in self._repeats.repeated():
            yield [place for place, name in enumerate(held) if name in self._names], blocks


def names_of_firsts(matches: Iterable[Match], attentions: Iterable[Attention], repeats: Repeats) -> set[str] | None:
    """The names of modules that were found, but for those of blocks that repeat another.

    None where there is more to say of one of these than that it is like the module that it repeats.

    Args:
        attentions: those of the modules that could be split.
    """
    named = {name for match in matches if not isinstance(match, RepeatedMatch) for name in match.names}
    by_layer: dict[str, set[str]] = {}
    counted: Counter[int] = Counter()
    repeated: dict[int, RepeatedAttention] = {}
    for first, some in in_runs(attentions):
        last, others = some[-1], len(some) - (some[0] is first)
        if isinstance(last, RepeatedAttention):
            counted[id(last.stack)] += others
            repeated.setdefault(id(last.stack), last)
        if others < len(some):
            by_layer[first.layer] = first.tensor_names
    named.update(*by_layer.values())
    if not named <= repeats.firsts.keys():
        return None
    for key, one in repeated.items():
        first = one.stack.first
        if by_layer.get(first.layer) != first.tensor_names or counted[key] != repeats.times(one.renamed.first.path):
            return None
    return named
