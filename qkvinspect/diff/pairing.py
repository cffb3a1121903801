"""Which name in A is which in B: as they are, as --map says, without wrappers, without a prefix.

Nothing is guessed: a name that could be two is none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.diff.difference import MatchedBy
from qkvinspect.errors import UsageError
from qkvinspect.inspection.names import unwrapped

Prefixes = tuple[str, str]
"""What A's names and B's begin with before they are the same, each "" or ending in a dot."""

_MODELS = frozenset({"module", "model", "net", "network", "backbone", "student", "teacher", "ema"})
"""Words that stand for the whole model: the one in A's names is that in B's."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A name of A and the one of B that stands for the same."""

    a: str
    b: str
    matched_by: MatchedBy
    prefixes: Prefixes = ("", "")


class Renames:
    """The values of --map: ``old=new``, where ``old`` is a name, the beginning of names, or a glob of either."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._rules: list[tuple[str, re.Pattern[str], list[str]]] = []
        self._used: set[str] = set()
        for text in texts:
            old, equals, new = text.partition("=")
            if not equals or not old or old.count("*") < new.count("*"):
                raise UsageError(
                    "--map is not a pair of names",
                    expected="'old=new', with no more * in new than in old",
                    found=repr(text),
                )
            pattern = "(.*?)".join(map(re.escape, old.rstrip(".").split("*")))
            self._rules.append((text, re.compile(rf"{pattern}(?=\.|$)"), new.rstrip(".").split("*")))

    def __call__(self, name: str) -> str:
        """The name in B of a name of A; the last rule that fits counts."""
        for text, pattern, new in reversed(self._rules):
            found = pattern.match(name)
            if found:
                self._used.add(text)
                stars = iter(found.groups())
                start = "".join(part + next(stars) for part in new[:-1]) + new[-1]
                return (start + name[found.end() :]).lstrip(".")
        return name

    @property
    def unused(self) -> list[str]:
        """The values that fitted no name."""
        return [text for text, _, _ in self._rules if text not in self._used]


def pair_names(
    a: Collection[str], b: Collection[str], renames: Renames, prefixes: Collection[Prefixes] | None = None
) -> list[Pair]:
    """Names of A with those of B that stand for the same, in the order of A.

    Args:
        prefixes: the only ones that may be taken off, besides words for the whole model; None: any word without
            a number may, where no other name comes out the same.
    """
    renamed = {name: renames(name) for name in a}
    pairs = _same(renamed, {name: name for name in b}, "name")
    pairs = [Pair(p.a, p.b, "map") if renamed[p.a] != p.a else p for p in pairs]
    left_a, left_b = _left(renamed, pairs, 0), _left(dict.fromkeys(b, ""), pairs, 1)
    bare_a = {name: ".".join(unwrapped(renamed[name])) for name in left_a}
    bare_b = {name: ".".join(unwrapped(name)) for name in left_b}
    pairs += _same(bare_a, bare_b, "wrapper")
    while True:
        left_a, left_b = _left(bare_a, pairs, 0), _left(bare_b, pairs, 1)
        found = _without_prefix({n: bare_a[n] for n in left_a}, {n: bare_b[n] for n in left_b}, prefixes)
        if not found:
            break
        pairs += found
    place = {name: position for position, name in enumerate(a)}
    return sorted(pairs, key=lambda pair: place[pair.a])


def _same(a: dict[str, str], b: dict[str, str], matched_by: MatchedBy) -> list[Pair]:
    """Names whose forms are equal, where no two names of one side have the same form."""
    of_a, of_b = _by_form(a), _by_form(b)
    return [Pair(of_a[form], of_b[form], matched_by) for form in of_a if form in of_b]


def _by_form(names: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    twice: set[str] = set()
    for name, form in names.items():
        if found.setdefault(form, name) != name:
            twice.add(form)
    return {form: name for form, name in found.items() if form not in twice}


def _left(names: dict[str, str], pairs: Sequence[Pair], side: int) -> list[str]:
    gone = {(pair.a, pair.b)[side] for pair in pairs}
    return [name for name in names if name not in gone]


def _without_prefix(a: dict[str, str], b: dict[str, str], prefixes: Collection[Prefixes] | None) -> list[Pair]:
    """The pairs that the best two prefixes make, if they are better than any other two."""
    endings: dict[str, list[tuple[str, str]]] = {}
    for name, form in b.items():
        for prefix, rest in _endings(form):
            endings.setdefault(rest, []).append((name, prefix))
    found: dict[Prefixes, list[Pair]] = {}
    for name, form in a.items():
        for prefix, rest in _endings(form):
            for other, its in endings.get(rest, ()):
                both = (prefix, its)
                if _may_go(both, prefixes):
                    found.setdefault(both, []).append(Pair(name, other, "prefix", both))
    unique = {both: pairs for both, pairs in found.items() if _one_to_one(pairs)}
    if not unique:
        return []

    def rank(both: Prefixes) -> tuple[int, int]:
        return len(unique[both]), -len(both[0]) - len(both[1])

    best = max(unique, key=rank)
    rivals = [both for both in unique if both != best and rank(both) == rank(best)]
    return [] if rivals else unique[best]


def _endings(name: str) -> Iterator[tuple[str, str]]:
    """A name cut after each leading component that is no number: (prefix, rest)."""
    parts = name.split(".")
    yield "", name
    for count in range(1, len(parts)):
        if parts[count - 1].isdecimal():
            return
        yield ".".join(parts[:count]) + ".", ".".join(parts[count:])


def _may_go(both: Prefixes, allowed: Collection[Prefixes] | None) -> bool:
    words = [word for prefix in both for word in prefix.split(".")[:-1]]
    if not words:
        return False
    return _MODELS.issuperset(words) or (("" in both) if allowed is None else both in allowed)


def _one_to_one(pairs: Sequence[Pair]) -> bool:
    return len({pair.a for pair in pairs}) == len(pairs) == len({pair.b for pair in pairs})
