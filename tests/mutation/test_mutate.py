"""The mutations themselves: every one compiles, means something else, and keeps its name while others come and go."""

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


def changes(source: str) -> list[str]:
    return [mutate.mutant(source, number)[1] for number in range(mutate.how_many(source))]


@pytest.mark.parametrize(
    "file", ["qkvinspect/layouts/packing.py", pytest.param("qkvinspect/diff/pairing.py", marks=pytest.mark.gate)]
)
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
    assert changes(source) == [
        "if a < 1 and (not b): return a + b  ->  if not (a < 1 and (not b)): return a + b",
        "a < 1 and (not b)  ->  a < 1 or not b",
        "return a + b  ->  return None",
        "a < 1  ->  a <= 1",
        "not b  ->  not not b",
        "a + b  ->  a - b",
        "1  ->  2",
    ]


def test_a_limit_is_doubled() -> None:
    assert changes("a, b, c = 15, 16, 0.5\n") == ["15  ->  16", "16  ->  32", "0.5  ->  1.5"]


@pytest.mark.parametrize(
    "source",
    [
        "a: Literal[1, 2]\n",
        "def f(a: Literal[1]) -> Literal[2]: ...\n",
        "@dataclass(frozen=True)\nclass A: ...\n",
        "A = int | str\n",
        "for a, b in zip(c, d, strict=True): ...\n",
        "if TYPE_CHECKING:\n    a = 1\n",
    ],
)
def test_left_alone(source: str) -> None:
    assert changes(source) == []


def test_names_tell_mutations_apart_and_stay() -> None:
    source = "class A:\n    def f(self):\n        return 1 + 1\n\n\na = 1\n"
    found = mutate.names(source)
    assert [(name.scope, name.change, name.nth) for name in found] == [
        ("", "1  ->  2", 0),
        ("A.f", "return 1 + 1  ->  return None", 0),
        ("A.f", "1 + 1  ->  1 - 1", 0),
        ("A.f", "1  ->  2", 0),
        ("A.f", "1  ->  2", 1),
    ]
    assert [name for name in mutate.names(f"def g():\n    return 1 + 1\n\n\n{source}") if name.scope != "g"] == found
