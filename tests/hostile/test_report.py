"""REPORT.md is that of the cases; none of the 120 categories, and no code, is without one."""

from __future__ import annotations

from pathlib import Path

from qkvinspect.error_codes import Code
from tests.hostile import report
from tests.hostile.categories.titles import TITLES


def test_the_report_is_up_to_date() -> None:
    assert (Path(__file__).parent / "REPORT.md").read_text() == report.text(), "run python tests/hostile/report.py"


def test_every_category_has_cases() -> None:
    found = report.outcomes()
    assert len(TITLES) == len(found) == 120
    assert all(found.values())
    assert sum(counter.total() for counter in found.values()) >= 1500


def test_every_code_is_given_by_a_case() -> None:
    missing = set(Code) - report.produced()
    kinds = {code for code in missing if code.startswith(report.KINDS)}
    assert {code.name for code in missing - kinds} == set(report.ELSEWHERE)
    foreign = (Path(__file__).parents[1] / "formats" / "test_foreign.py").read_text()
    assert [code.name for code in kinds if f"Code.{code.name}" not in foreign] == []
