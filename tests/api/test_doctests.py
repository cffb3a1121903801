"""Every public name has an example, and all of them are true."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import qkvinspect

NAMES = sorted(set(qkvinspect.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_name_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    found = doctest.DocTestFinder(exclude_empty=True).find(getattr(qkvinspect, name), name, module=False)
    examples = [test for test in found if test.examples]
    assert examples, f"{name} has no example"
    assert name in {test.name for test in examples}
    for test in examples:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
