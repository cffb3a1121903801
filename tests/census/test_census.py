"""Every model of the census is answered rightly, or it is known and said why not.

The default run asks a part of the models, which changes with nothing but the data; ``-m mass`` asks all of them.
"""

from __future__ import annotations

import zlib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.census.judging import Verdict, alarms, answer, judge
from tests.census.kept import Line, built
from tests.census.known import ALARMS, LEFT, left

PART = 24
"""One model of so many is asked in every run."""


def _is_asked(line: Line) -> bool:
    return zlib.crc32(f"{line['lib']}/{line['name']}".encode()) % PART == 0


def _asked(line: Line, folder: Path) -> list[Verdict]:
    folder.mkdir()
    return list(judge(line, answer(line, folder)))


def test_a_part_of_the_census(tmp_path: Path) -> None:
    asked = [line for line in built() if _is_asked(line)]
    verdicts = [v for number, line in enumerate(asked) for v in _asked(line, tmp_path / str(number))]
    assert [verdict for verdict in verdicts if verdict.said != "right" and left(verdict) is None] == []
    assert sum(verdict.said == "right" for verdict in verdicts) > len(asked)


@pytest.mark.mass
def test_the_whole_census(tmp_path: Path) -> None:
    verdicts = [v for number, line in enumerate(built()) for v in _asked(line, tmp_path / str(number))]
    assert [verdict for verdict in verdicts if verdict.said != "right" and left(verdict) is None] == []
    stale = [one.where for one in LEFT if not any(left(verdict) is one for verdict in verdicts)]
    assert stale == []


@pytest.mark.mass
def test_nothing_else_is_taken_for_attention(tmp_path: Path) -> None:
    found: list[str] = []
    for number, line in enumerate(built()):
        (tmp_path / str(number)).mkdir()
        found += [
            f"{line['lib']}/{line['name']} {layer}" for layer in alarms(line, answer(line, tmp_path / str(number)))
        ]
    assert [alarm for alarm in found if not any(fnmatchcase(alarm, glob) for glob, _ in ALARMS)] == []
