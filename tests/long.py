"""Cases that .ci/run has besides: what takes a third of a second and more and is not what a change breaks first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

_PARAM = type(pytest.param())


def long(wanted: Callable[[Any], object], cases: Iterable[Any]) -> list[Any]:
    """Those that are wanted for the gate, the others as they are."""
    return [marked(case, pytest.mark.gate) if wanted(value(case)) else case for case in cases]


def marked(case: Any, mark: pytest.MarkDecorator) -> Any:
    """The case, with a mark more."""
    if isinstance(case, _PARAM):
        return pytest.param(*case.values, marks=[*case.marks, mark], id=case.id)
    return pytest.param(*(case if isinstance(case, tuple) else [case]), marks=mark)


def value(case: Any) -> Any:
    """What a case is without its marks and its name."""
    if not isinstance(case, _PARAM):
        return case
    return case.values if len(case.values) > 1 else case.values[0]
