"""Broken files by the hundred thousand: each is refused in one clean line, or reads as the trusted readers read it.

Two hundred of each format are tried in every run; ``-m mass`` tries as many as QKVINSPECT_FUZZ says (50,000 if it
is unset).
"""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.mutants import MAKERS
from tests.hostile.oracles import disagreements
from tests.hostile.reading import Outcome, outcome
from tests.some import first, tried

SOME = 200
COUNT = int(os.environ.get("QKVINSPECT_FUZZ", "50000"))

FEWEST_READ = {
    "pickle": 0.05,
    "zip": 0.15,
    "legacy": 0.04,
    "safetensors": 0.02,
    "tar": 0.02,
    "sharded": 0.15,
    "dcp": 0.02,
}
"""The share of inputs that still read as checkpoints: a fuzzer whose every input is refused at the door is none."""


def check(format: str, random: Random) -> Outcome:
    source = MAKERS[format](random)
    found = outcome(source)
    if found.refusal is None and not source.folder:
        assert not disagreements(source.data, found)
    return found


@pytest.mark.parametrize("numbers", first(1, [range(SOME), range(SOME, COUNT)]), ids=str)
@pytest.mark.parametrize("format", MAKERS)
def test_many(format: str, numbers: range) -> None:
    """Each input has its own seed, which a failure names."""
    read, seed = 0, 0
    with no_hang() as within, bounded_memory():
        try:
            for seed in numbers:
                read += within(check, format, Random(seed)).refusal is None
        except Exception as error:
            error.add_note(f"by MAKERS[{format!r}](Random({seed}))")
            raise
    assert read >= FEWEST_READ[format] * len(numbers)


@pytest.mark.parametrize("format", MAKERS)
@tried(
    given(random=st.randoms(use_true_random=False)),
    few=25,
    many=100,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_shrinking(format: str, random: Random) -> None:
    """The same makers, with choices by hypothesis, which finds the smallest input that fails."""
    check(format, random)
