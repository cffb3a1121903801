"""Which output projection is that of which attention, where one module holds several.

``self_q`` goes with ``self_o`` and never with ``cross_o``; ``to_q.2`` goes with ``to_out.2``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qkvinspect.inspection.names import Path
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.inspection.words import ATTENTION_WORDS, GENERIC, OUT_WORDS, Word, tokens, word_of
from qkvinspect.weights.weight import Weight

_PLAIN = frozenset({"o", "out", "output", "outputs", "wo"})
"""Words for an output projection and nothing else: ``fc`` and ``dense`` are layers of any kind."""

_SAY_NOTHING = GENERIC | frozenset(ATTENTION_WORDS)

_Label = tuple[str, ...]


def output_of(
    module: ProjectingModule, projections: Sequence[Projection], fits: Callable[[Path, Weight], bool]
) -> tuple[Path, Weight] | None:
    """The output projection of these projections; None where there is none, or only such as may be another's.

    Args:
        fits: whether an output projection reads what these make.
    """
    fitting = [(key, weight) for key, weight in module.outputs if fits(key, weight)]
    own = _own(module, projections, fitting)
    if not _other_queries(module, projections):
        others = _labels_beside(module, projections)
        return next(iter(own or [one for one in fitting if _label(_named(one[0])) not in others]), None)
    plain = [one for one in own if not _PLAIN.isdisjoint(tokens(one[0][0]))] or own
    return plain[0] if len({key[0] for key, _ in plain}) == 1 else None


def has_an_output_each(module: ProjectingModule, projections: Sequence[Projection]) -> bool:
    """Whether the projections are entries of lists beside a list of output projections, one for each entry."""
    index = projections[0].index
    return index is not None and any(
        _numbers(module, key[0]) == _indices(module, projections) for key, _ in module.outputs
    )


def _own(
    module: ProjectingModule, projections: Sequence[Projection], outputs: Sequence[tuple[Path, Weight]]
) -> Sequence[tuple[Path, Weight]]:
    """Those that are named as the projections are, in words and number, and as no others are."""
    affixes, index = {one.word.affix for one in projections}, projections[0].index
    labels = {_label(affix) for affix in affixes}
    others = {word.affix for word, number in _other_queries(module, projections) if number == index}
    if len(labels) > 1 or affixes & others:
        return []
    if index is not None:
        every = _indices(module, projections)
        outputs = [one for one in outputs if one[0][1:2] == (str(index),) and _numbers(module, one[0][0]) == every]
    same = [one for one in outputs if _affix(one[0][0]) in affixes]
    if same or any(_label(affix) in labels for affix in others):
        return same
    return [one for one in outputs if _label(_named(one[0])) in labels]


def _other_queries(module: ProjectingModule, projections: Sequence[Projection]) -> Sequence[tuple[Word, int | None]]:
    """The words, and numbers, of queries of other attention, among them such as a row of the registry took."""
    mine = {one.key for one in projections}
    sets = [some for some in module.sets if mine.isdisjoint(one.key for one in some)]
    found = [(one.word, one.index) for some in sets for one in some if "q" in one.parts]
    seen = {one.key[0] for some in (*module.sets, module.lone) for one in some}
    taken = (word for name in sorted(module.beside - seen) if (word := word_of(name)) is not None)
    return [*found, *((word, None) for word in taken if "q" in word.parts and word.before[:1] != ("b",))]


def _labels_beside(module: ProjectingModule, projections: Sequence[Projection]) -> set[_Label]:
    """What tells other projections of the module from these."""
    mine = {_label(one.word.affix) for one in projections}
    every = (one for some in (*module.sets, module.lone) for one in some)
    return {_label(one.word.affix) for one in every} - mine - {()}


def _indices(module: ProjectingModule, projections: Sequence[Projection]) -> set[int]:
    """The numbers of all entries of the lists that the projections are entries of."""
    affix = projections[0].word.affix
    every = (some[0] for some in module.sets)
    return {one.index for one in every if one.index is not None and one.word.affix == affix}


def _numbers(module: ProjectingModule, name: str) -> set[int]:
    """The numbers of the output projections that are kept under this name."""
    return {int(key[1]) for key, _ in module.outputs if key[0] == name and len(key) > 1 and key[1].isdecimal()}


def _named(key: Path) -> Sequence[str]:
    """The words of an output projection's name, and of its place in a dict: ``out.text``."""
    return (*tokens(key[0]), *(tokens(key[1]) if len(key) > 2 and not key[1].isdecimal() else ()))


def _affix(name: str) -> tuple[str, ...]:
    """What is left of a component without the word for an output, as ``Word.affix``."""
    return tuple("*" if word in OUT_WORDS else word for word in tokens(name))


def _label(words: Sequence[str]) -> _Label:
    """The words that tell one attention from another."""
    return tuple(word for word in words if word != "*" and word not in _SAY_NOTHING and word not in OUT_WORDS)
