"""Several models in one file, of which the config names one: what it says of heads is not of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.scopes import names_a_known_part, split_words
from qkvinspect.parsed import is_mapping

Facts = Callable[[Candidate], Sequence[HeadFact]]


def each_of_its_own(facts: Facts, matches: Iterable[Match], configs: Sequence[Config]) -> Facts:
    """The facts, those of a config refuted for models that it does not name.

    ``student`` and ``teacher`` in one file are two models where a config names the layout of the one, and the other
    is stored otherwise. Names of parts, such as ``encoder``, make no models of their own.
    """
    alone = [config for config in configs if not any(map(_is_a_model, config.values.values()))]
    named: dict[str, dict[str, str]] = {}
    every = list(matches) if alone else []
    for config in alone:
        said = {_root(match): match.layer for match in every if match.config == config.origin}
        roots = {_root(match) for match in every} - said.keys()
        others = {root for root in roots if _names_a_model(root)}
        if others and len(said) == 1 and all(map(_names_a_model, said)):
            named[config.origin] = dict.fromkeys(others, next(iter(said.values())))
    if not named:
        return facts

    def of(candidate: Candidate) -> Sequence[HeadFact]:
        return list(_refuted(facts(candidate), candidate, named))

    return of


def _refuted(facts: Iterable[HeadFact], candidate: Candidate, named: dict[str, dict[str, str]]) -> Iterator[HeadFact]:
    root = candidate.layer.partition(".")[0]
    for fact in facts:
        other = named.get(fact.config, {}).get(root)
        yield replace(fact, refuted=f"the config is of the model of {other}") if other and not fact.elsewhere else fact


def _root(match: Match) -> str:
    return match.layer.partition(".")[0]


def _names_a_model(root: str) -> bool:
    """Whether a first component of names is no part of a model, such as ``encoder``, nor a list of layers."""
    words = split_words(root)
    return bool(words) and not any(word.isdecimal() or names_a_known_part(word) for word in words)


def _is_a_model(value: object) -> bool:
    return is_mapping(value) and "model_type" in value
