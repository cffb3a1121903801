"""Some of many cases in every run, the rest with ``-m mass``: MASS.md lists what they are and how they went."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import pytest

from tests.long import marked, value

Test = Callable[..., None]


def those(wanted: Callable[[Any], object], cases: Iterable[Any]) -> list[Any]:
    """Those that are wanted, which is asked of a case's value, or of the tuple of its values."""
    return [case if wanted(value(case)) else mass(case) for case in cases]


def first(count: int, cases: Iterable[Any]) -> list[Any]:
    """The first so many."""
    return _kept(range(count), list(cases))


def spread(count: int, cases: Iterable[Any]) -> list[Any]:
    """So many, from the first to the last."""
    cases = list(cases)
    return _kept({number * (len(cases) - 1) // max(count - 1, 1) for number in range(count)}, cases)


def one_of_each(kind: Callable[[Any], Hashable], cases: Iterable[Any]) -> list[Any]:
    """The first of each kind."""
    return every_value(cases, lambda case: [kind(case)])


def every_value(cases: Iterable[Any], axes: Callable[[Any], Iterable[Hashable]] = tuple) -> list[Any]:
    """A few cases that have every value of every axis: the next is always the one with the most that are new.

    A case is a tuple of values, each on an axis of its own; ``axes`` gives those of other cases.
    """
    cases = list(cases)
    return _kept(_covering(cases, axes), cases)


def covering(cases: Iterable[Any]) -> list[Any]:
    """What ``every_value`` leaves in every run, for a test that goes through its cases itself."""
    cases = list(cases)
    return [cases[number] for number in sorted(_covering(cases, tuple))]


def crossed(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """As ``parametrize`` for each axis would do, each with each, of which every run has each value of each axis."""
    longest = max(len(axis) for axis in axes.values())
    some = {tuple(number % len(axis) for axis in axes.values()) for number in range(longest)}
    of = list(itertools.product(*(range(len(axis)) for axis in axes.values())))
    kept = {at for at, numbers in enumerate(of) if numbers in some}
    return pytest.mark.parametrize(tuple(axes), _kept(kept, list(itertools.product(*axes.values()))))


def tried(given: Callable[[Test], Test], few: int, many: int, **options: Any) -> Callable[[Test], Test]:
    """What hypothesis gives a test: few examples in every run, many in a mass run."""
    from hypothesis import settings

    def decorated(test: Test) -> Test:
        runs = {count: settings(max_examples=count, deadline=None, **options)(given(test)) for count in (few, many)}

        @wraps(test)
        def some(examples: int, **shared: Any) -> None:
            runs[examples](**shared)

        whole = signature(runs[few])
        examples = Parameter("examples", Parameter.POSITIONAL_OR_KEYWORD)
        some.__signature__ = whole.replace(  # pyright: ignore[reportAttributeAccessIssue]
            parameters=[examples, *whole.parameters.values()]
        )
        return pytest.mark.parametrize("examples", first(1, runs))(some)

    return decorated


def mass(case: Any) -> Any:
    """The case, for a mass run only."""
    return marked(case, pytest.mark.mass)


def _kept(numbers: Iterable[int], cases: list[Any]) -> list[Any]:
    kept = set(numbers)
    return [case if number in kept else mass(case) for number, case in enumerate(cases)]


def _covering(cases: list[Any], axes: Callable[[Any], Iterable[Hashable]]) -> set[int]:
    values = [set(enumerate(axes(value(case)))) for case in cases]
    missing = set[tuple[int, Hashable]]().union(*values)
    kept: set[int] = set()
    while missing:
        most = max(range(len(cases)), key=lambda number: len(values[number] & missing))
        kept.add(most)
        missing -= values[most]
    return kept
