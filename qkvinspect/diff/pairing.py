"""Match the names of A and B: as they are, as --map says, without wrappers, without a prefix.

Nothing is guessed: a name that could match two others matches none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.diff.difference import MatchedBy
from qkvinspect.errors import UsageError
from qkvinspect.inspection.components import unwrapped

Prefixes = tuple[str, str]
"""What A's names and B's begin with before they are the same, each "" or ending in a dot."""

_MODELS = frozenset({"module", "model", "net", "network", "backbone", "student", "teacher", "ema"})
"""Words that stand for the whole model, so that any of them in A's names matches any in B's."""


_DEEPEST = 16
"""How many components a prefix may have: deeper ones name parts of the model."""

_ROUNDS = 32
"""How many prefixes are tried; each takes a pass over all names."""

_MANY = 50


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
        """The name in B of a name of A; the last rule that matches counts."""
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
    for _ in range(_ROUNDS):
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
    """The pairs that the best two prefixes make, if they are better than any other two.

    Two prefixes are counted by the names that they make equal; to list every two names first takes quadratic time.
    """
    of_a, of_b = _all_by_form(a), _all_by_form(b)
    counts: Counter[Prefixes] = Counter()
    twice: set[Prefixes] = set()
    for both, form_a, form_b in _common(of_a, of_b, prefixes):
        counts[both] += 1
        if len(of_a[form_a]) > 1 or len(of_b[form_b]) > 1:
            twice.add(both)
    unique = {both: count for both, count in counts.items() if both not in twice}
    if not unique:
        return []

    def rank(both: Prefixes) -> tuple[int, int]:
        return unique[both], -len(both[0]) - len(both[1])

    best = max(unique, key=rank)
    if any(both != best and rank(both) == rank(best) for both in unique):
        return []
    found = ((form, best[1] + form[len(best[0]) :]) for form in of_a if form.startswith(best[0]))
    return [Pair(of_a[form][0], of_b[other][0], "prefix", best) for form, other in found if other in of_b]


def _all_by_form(names: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, form in names.items():
        found.setdefault(form, []).append(name)
    return found


def _common(
    a: Collection[str], b: Collection[str], allowed: Collection[Prefixes] | None
) -> Iterator[tuple[Prefixes, str, str]]:
    """(prefixes, form of A, form of B) of every two forms that are the same without prefixes that may go."""
    for both in allowed or ():
        for form in a:
            if form.startswith(both[0]) and (other := both[1] + form[len(both[0]) :]) in b and _may_go(both, allowed):
                yield both, form, other
    for form, prefix, rest in _cut(a):
        if rest in b and _new((prefix, ""), allowed):
            yield (prefix, ""), form, rest
    for form, prefix, rest in _cut(b):
        if rest in a and _new(("", prefix), allowed):
            yield ("", prefix), rest, form
    endings: dict[str, list[tuple[str, str]]] = {}
    for form, prefix, rest in _cut(b):
        if _is_model(prefix):
            endings.setdefault(rest, []).append((form, prefix))
    for form, prefix, rest in _cut(a):
        others = endings.get(rest, ()) if _is_model(prefix) else ()
        if len(others) <= _MANY:  # an ending that so many names share tells nothing
            for other, its in others:
                if prefix.split(".")[-2] != its.split(".")[-2] and _new((prefix, its), allowed):
                    yield (prefix, its), form, other


def _new(both: Prefixes, allowed: Collection[Prefixes] | None) -> bool:
    """Whether two prefixes may go, and were not among those that are named."""
    return (allowed is None or both not in allowed) and _may_go(both, allowed)


def _cut(forms: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Names cut after each leading component that is no number: (name, prefix, rest)."""
    for form in forms:
        parts = form.split(".", _DEEPEST)
        prefix = ""
        for part in parts[:-1]:
            if part.isdecimal():
                break
            prefix += f"{part}."
            yield form, prefix, form[len(prefix) :]


def _is_model(prefix: str) -> bool:
    return _MODELS.issuperset(prefix.split(".")[:-1])


def _may_go(both: Prefixes, allowed: Collection[Prefixes] | None) -> bool:
    words = [word for prefix in both for word in prefix.split(".")[:-1]]
    if not words:
        return False
    return _MODELS.issuperset(words) or (("" in both) if allowed is None else both in allowed)


def about_pairing(
    pairs: Sequence[Pair], undecided: int, by_values: int, one_more: Sequence[Collection[str]] = (), turned: int = 0
) -> list[str]:
    """How layers and tensors were matched whose names differ.

    Args:
        undecided: layers that could be matched in more than one way.
        by_values: tensors outside attention that were matched by what they hold.
        one_more: those among them whose numbers are one larger in B, and those in A.
        turned: those among them that are transposed.
    """
    notes: list[str] = []
    for before, after in dict.fromkeys(pair.prefixes for pair in pairs if pair.matched_by == "prefix"):
        gone = " and ".join(f"{prefix!r} of {side}" for prefix, side in ((before, "A"), (after, "B")) if prefix)
        notes.append(f"names were matched without {gone}")
    ordered = sum(pair.matched_by == "order" for pair in pairs)
    if ordered:
        text = f"{ordered} layer{'s' if ordered > 1 else ''} with other names in B were matched by order and shape"
        notes.append(f"{text}: --map settles it if that is wrong")
    if by_values:
        text = f"{by_values} tensor{'s' if by_values > 1 else ''} outside attention with other names in B"
        notes.append(f"{text} were matched by what they hold")
    for side, names in zip("BA", one_more, strict=False):
        if names:
            those = f"{len(names)} of them hold" if len(names) > 1 else "one of them holds"
            notes.append(
                f"{those} in {side} what the other side has and 1 more, as llama.cpp and exporters write Gemma's norms"
            )
    if turned:
        those = f"{turned} of them lie" if turned > 1 else "one of them lies"
        notes.append(f"{those} transposed on one side, as llama.cpp turns the [in, out] of GPT-2's Conv1D")
    if undecided:
        text = f"{undecided} layers of A have the shapes of layers of B, but in more than one order"
        notes.append(f"{text}: --map 'old=new' says which are which")
    return notes
