"""Change one line of the core at a time, run the tests that cover it, and print the changes that no test noticed.

    python tests/mutation/mutate.py qkvinspect/layouts/packing.py tests/test_packing.py --count 50 --seed 1

Mutations are those of syntax: comparisons, arithmetic, and/or, numbers, negations, ``if`` conditions and returned
values. Each is written to a copy of the repository, so that a run that is stopped leaves nothing changed. A survivor
is either equivalent, which a person has to see, or a test that is missing.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def how_many(source: str) -> int:
    """How many mutations there are of a source."""
    return len(_places(ast.parse(source)))


def mutant(source: str, number: int) -> tuple[int, str, str]:
    """(line, what was changed, the whole source with the change) of one of them."""
    tree = ast.parse(source)
    node = _places(tree)[number]
    before = ast.unparse(node)
    _change(node)
    return getattr(node, "lineno", 0), f"{before[:70]}  ->  {ast.unparse(node)[:70]}", ast.unparse(tree)


def _places(tree: ast.Module) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if _changes(node) and not _is_for_types(node)]


def _is_for_types(node: ast.AST) -> bool:
    """A union of types is no arithmetic."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)


def _changes(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=[op]):
            return type(op) in COMPARISONS
        case ast.BinOp(op=op):
            return type(op) in ARITHMETIC
        case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Constant(value=value):
            return type(value) in (int, float, bool)
        case ast.If():
            return "TYPE_CHECKING" not in ast.unparse(node.test)
        case ast.Return(value=value):
            return value is not None and not isinstance(value, ast.Constant)
    return False


def _change(node: ast.AST) -> None:
    match node:
        case ast.Compare():
            node.ops = [COMPARISONS[type(node.ops[0])]()]
        case ast.BinOp():
            node.op = ARITHMETIC[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.UnaryOp():
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=value):
            node.value = value + 1
        case ast.If():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)


def run(file: Path, tests: list[str], count: int, seed: int, seconds: int) -> tuple[int, list[str]]:
    """How many mutations were tried, and those that survived."""
    source = (ROOT / file).read_text()
    every = how_many(source)
    chosen = [mutant(source, number) for number in random.Random(seed).sample(range(every), min(count, every))]
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("qkvinspect", "tests", "sample_checkpoints"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder)
        for line, change, changed in chosen:
            Path(folder, file).write_text(changed)
            if _passes(folder, tests, seconds):
                survivors.append(f"{file}:{line}: {change}")
                print(f"survived  {survivors[-1]}", flush=True)
    return len(chosen), survivors


def _passes(folder: str, tests: list[str], seconds: int) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return False  # a mutation that hangs was noticed
    return done.returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=300)
    given = parser.parse_args()
    tried, left = run(given.file, given.tests, given.count, given.seed, given.seconds)
    print(f"{given.file}: {tried} mutations, {tried - len(left)} noticed, {len(left)} survived")
