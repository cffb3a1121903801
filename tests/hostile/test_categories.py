"""The 120 categories of hostile input: each case ends exactly as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qkvinspect import formats
from qkvinspect.errors import CheckpointError
from qkvinspect.garbage import none_collected
from tests.batches import SIZE, batches, each
from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.categories.case import Case, Reads, Refused
from tests.hostile.categories.catalogue import CASES
from tests.hostile.memory import MemoryFile
from tests.hostile.oracles import accepts, disagreements
from tests.hostile.reading import Outcome, Read, clean, content
from tests.some import mass


def _read(source: MemoryFile, expected: Reads) -> tuple[Outcome, tuple[str, ...]]:
    with none_collected(), formats._open(source, None, {}) as checkpoint:
        assert len(checkpoint.tensors) == (len(expected.tensors) if expected.count is None else expected.count)
        tensors = {}
        for name, wanted in expected.tensors.items():
            info = checkpoint.tensors[name]
            raw = None if wanted is None else content(info)
            assert raw == wanted, name
            tensors[name] = Read(info.dtype.name, info.shape, raw, info.keys)
        warnings = [finding for finding in checkpoint.findings if finding.severity != "info"]
        messages = tuple(clean(finding.message) for finding in warnings)
        return Outcome(tensors, messages), tuple(finding.code for finding in warnings)


def _read_all(source: MemoryFile) -> None:
    with none_collected(), formats._open(source, None, {}) as checkpoint:
        for info in checkpoint.tensors.values():
            content(info)


def _refuse(source: MemoryFile, expected: Refused) -> None:
    with pytest.raises(CheckpointError) as caught:
        _read_all(source)
    error = caught.value
    line = clean(str(error))
    assert error.code == expected.code, line
    assert expected.says in line
    assert error.file
    assert line.startswith(clean(error.file)[:200])
    assert error.file == source.name or source.folder
    assert line.endswith(f" [{expected.code}]")
    assert error.hint, f"it does not say what to do next: {line}"


LARGE = 1 << 10
"""Megabytes beyond which a case is one for a mass run; a smaller one of its kind is in every run."""

SLOW = (65, 67)
"""Categories of the gate: their siblings reach the same limits sooner."""

LONG = {
    *("metadata up to the limit", "metadata, one byte over the limit", "5,000,000 DUP and POP", "100,007 entries"),
    *(label for _, case in CASES if (label := case.label).startswith("100,000 tensors")),
    *(f"1000000 {what} in each other" for what in ("calls", "references", "tuples")),
    *("60,000 keys of one hash", "1,100,000 memo entries", "50000 states in each other"),
    *("spaces up to the limit", "spaces, one byte over the limit"),
}
"""What takes over a second, of which every run has a smaller one, here or in ``formats/test_limits.py``."""


def _categories() -> Iterator[Any]:
    """The cases of each category together, and those of a mass run by themselves."""
    usual: dict[int, list[tuple[str, Case]]] = {}
    for number, case in CASES:
        if case.megabytes > LARGE or case.label in LONG:
            yield mass(pytest.param([(case.label, case)], id=f"{number}: {case.label}"))
        else:
            usual.setdefault(number, []).append((case.label, case))
    for number, cases in usual.items():
        for place, some in enumerate(batches(cases)):
            marks = [pytest.mark.gate] if number in SLOW else []
            yield pytest.param(some, id=f"{number}" + f" ({place + 1})" * (len(cases) > SIZE), marks=marks)


@pytest.mark.parametrize("cases", list(_categories()))
def test_category(cases: list[tuple[str, Case]]) -> None:
    each(cases, _ends_as_it_says)


def _ends_as_it_says(case: Case) -> None:
    source = case.source()
    found, warnings = None, ()
    with no_hang() as within, bounded_memory(case.megabytes << 20):
        if isinstance(case.outcome, Refused):
            within(_refuse, source, case.outcome)
        else:
            found, warnings = within(_read, source, case.outcome)
    if isinstance(case.outcome, Reads):
        assert warnings == case.outcome.findings
    if source.folder or type(source) is not MemoryFile or not source.size:
        return
    if found is None:
        assert case.trusted or not accepts(source.data)
    else:
        differs = disagreements(source.data, found)
        if case.outcome.count is not None:
            differs = [line for line in differs or () if not line.startswith("names: ")]
        assert case.trusted or not differs
