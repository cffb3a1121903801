"""The codes of refused files: stable, unique, each with a meaning, and in docs/codes.md.

That each is given is shown with real files: tests/hostile/test_report.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from tests.batches import batched

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/codes.md").read_text()


@batched("code", Code)
def test_a_code_is_documented(code: Code) -> None:
    assert re.fullmatch(r"QKV-F\d{3}", code)
    assert re.fullmatch(r"[A-Z].*\.", code.meaning)
    assert f"| `{code}` | {code.name} | {code.meaning} |" in PAGE


def test_codes_are_unique_and_in_order() -> None:
    values = [code.value for code in Code]
    assert values == sorted(set(values))
    assert len(Code) == len(Code.__members__)  # no aliases


def test_an_error_ends_with_its_code() -> None:
    error = CheckpointError("is odd", code=Code.FILE_EMPTY, file="x.pt", found=3, hint="look again")
    assert str(error) == "x.pt: is odd (found 3); look again [QKV-F010]"
    assert error.code is Code.FILE_EMPTY
