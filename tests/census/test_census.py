"""Every model of the census is answered rightly, or it is known and said why not.

Every run asks one in three of each library's; the gate asks all, and holds the lists of reasons and the docs to it.
"""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from qkvinspect.inspection.report import Report
from tests.census.judging import Verdict, alarms, answer, judge
from tests.census.kept import built
from tests.census.known import ALARMS, LEFT, left
from tests.census.report import table

DOCS = Path(__file__).parents[2] / "docs" / "layouts.md"


class Asked(NamedTuple):
    """What was said of all models: a verdict for each module, and the modules that nothing was seen in.

    Attributes:
        unaccounted: tensors of modules that are shown, which the account of all tensors does not call attention.
    """

    verdicts: list[Verdict]
    alarms: list[str]
    models: Counter[str]
    unaccounted: list[str]


@cache
def asked(step: int) -> Asked:
    """One model in so many of each library, once for all tests."""
    found = Asked([], [], Counter(), [])
    with TemporaryDirectory() as name:
        folder = Path(name)
        seen = Counter[str]()
        for line in built():
            seen[line["lib"]] += 1
            if seen[line["lib"]] % step != 1 % step:
                continue
            for old in folder.iterdir():
                old.unlink()
            found.models[line["lib"]] += 1
            report = answer(line, folder)
            found.verdicts.extend(judge(line, report))
            found.unaccounted.extend(f"{line['lib']}/{line['name']} {tensor}" for tensor in unaccounted(report))
            found.alarms.extend(f"{line['lib']}/{line['name']} {layer}" for layer in alarms(line, report))
    return found


def unaccounted(report: Report) -> list[str]:
    assert report.account is not None
    statuses = report.account.statuses()
    shown = {name for attention in report.attentions for name in attention.tensor_names}
    return sorted(name for name in shown if statuses[name] != "attention")


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.gate)])
def test_every_module_is_right_or_its_reason_is_known(step: int) -> None:
    verdicts = asked(step).verdicts
    assert [verdict for verdict in verdicts if verdict.said != "right" and left(verdict) is None] == []
    assert sum(verdict.said == "right" for verdict in verdicts) > 0.85 * len(verdicts)


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.gate)])
def test_the_tensors_of_every_module_are_attention(step: int) -> None:
    assert asked(step).unaccounted == []


@pytest.mark.gate
def test_every_reason_is_still_needed() -> None:
    used = {id(left(verdict)) for verdict in asked(1).verdicts}
    assert [one.where for one in LEFT if id(one) not in used] == []


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.gate)])
def test_nothing_else_is_taken_for_attention(step: int) -> None:
    assert [alarm for alarm in asked(step).alarms if not any(fnmatchcase(alarm, glob) for glob, _ in ALARMS)] == []


@pytest.mark.gate
def test_every_exception_is_still_needed() -> None:
    assert [glob for glob, _ in ALARMS if not any(fnmatchcase(alarm, glob) for alarm in asked(1).alarms)] == []


@pytest.mark.gate
def test_the_docs_have_these_figures() -> None:
    """After a change of the data, ``python -m tests.census.report`` prints the table."""
    assert table(asked(1).verdicts, asked(1).models) in DOCS.read_text()
