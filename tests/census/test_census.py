"""Every model of the census is answered rightly, or it is known and said why not."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.census.judging import Verdict, alarms, answer, judge
from tests.census.kept import built
from tests.census.known import ALARMS, LEFT, left
from tests.census.report import table

DOCS = Path(__file__).parents[2] / "docs" / "layouts.md"


class Asked(NamedTuple):
    """What was said of all models: a verdict for each module, and the modules that nothing was seen in."""

    verdicts: list[Verdict]
    alarms: list[str]
    models: Counter[str]


@cache
def asked() -> Asked:
    """All models of all libraries, once for all tests: some four seconds. A fixture would run under the tracer."""
    found = Asked([], [], Counter())
    with TemporaryDirectory() as name:
        folder = Path(name)
        for line in built():
            for old in folder.iterdir():
                old.unlink()
            found.models[line["lib"]] += 1
            report = answer(line, folder)
            found.verdicts.extend(judge(line, report))
            found.alarms.extend(f"{line['lib']}/{line['name']} {layer}" for layer in alarms(line, report))
    return found


def test_every_module_is_right_or_its_reason_is_known() -> None:
    assert [verdict for verdict in asked().verdicts if verdict.said != "right" and left(verdict) is None] == []
    assert sum(verdict.said == "right" for verdict in asked().verdicts) > 0.85 * len(asked().verdicts)


def test_every_reason_is_still_needed() -> None:
    used = {id(left(verdict)) for verdict in asked().verdicts}
    assert [one.where for one in LEFT if id(one) not in used] == []


def test_nothing_else_is_taken_for_attention() -> None:
    assert [alarm for alarm in asked().alarms if not any(fnmatchcase(alarm, glob) for glob, _ in ALARMS)] == []
    assert [glob for glob, _ in ALARMS if not any(fnmatchcase(alarm, glob) for alarm in asked().alarms)] == []


def test_the_docs_have_these_figures() -> None:
    """After a change of the data, ``python -m tests.census.report`` prints the table."""
    assert table(asked().verdicts, asked().models) in DOCS.read_text()
