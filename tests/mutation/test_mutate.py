"""The mutations themselves: every one compiles, and means something else."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("mutate", Path(__file__).parent / "mutate.py")
assert spec
assert spec.loader
mutate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)


@pytest.mark.parametrize("file", ["qkvinspect/layouts/packing.py", "qkvinspect/diff/pairing.py"])
def test_every_mutant_compiles_and_differs(file: str) -> None:
    source = (mutate.ROOT / file).read_text()
    plain = ast.unparse(ast.parse(source))
    count = mutate.how_many(source)
    assert count > 50
    for number in range(0, count, 9):
        _, _, changed = mutate.mutant(source, number)
        compile(changed, file, "exec")
        assert ast.unparse(changed) != plain


def test_what_each_kind_becomes() -> None:
    source = "def f(a, b):\n    if a < 1 and not b:\n        return a + b\n"
    assert [mutate.mutant(source, number)[1] for number in range(mutate.how_many(source))] == [
        "if a < 1 and (not b):\n    return a + b  ->  if not (a < 1 and (not b)):\n    return a + b",
        "a < 1 and (not b)  ->  a < 1 or not b",
        "return a + b  ->  return None",
        "a < 1  ->  a <= 1",
        "not b  ->  not not b",
        "a + b  ->  a - b",
        "1  ->  2",
    ]
