"""The mutations: one change of syntax at a time in a source of the package.

Comparisons, arithmetic, and/or, numbers, negations, ``if`` conditions and returned values are changed. What a change of
cannot be seen by its form is left alone: decorators (``frozen=True`` changes nothing that a program does), types, and
``strict=True`` of a ``zip``, which asserts what is so already. A number becomes one more; a whole number of sixteen and
more, which mostly is a limit that could as well be another, becomes twice as many. What is tried with which tests is
``tests/mutation/campaign.py``.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MANY = 16

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


class Name(NamedTuple):
    """Of a mutation, which it keeps while other parts of the file change."""

    scope: str
    """The class and function, as ``Packing.rows``, or "" for the module itself."""
    change: str
    nth: int
    """Of those in the scope with the same change."""


@functools.cache
def names(source: str) -> list[Name]:
    """Of every mutation of a source, in order: ``mutant`` takes the place in this list."""
    tree = ast.parse(source)
    scopes: dict[int, str] = {}
    for scope, node in _scopes(tree, ""):
        scopes[id(node)] = scope
    seen: Counter[tuple[str, str]] = Counter()
    found: list[Name] = []
    for node in _places(tree):
        after = copy.deepcopy(node)
        _change(after)
        named = scopes[id(node)], f"{_shown(node)}  ->  {_shown(after)}"
        found.append(Name(*named, seen[named]))
        seen[named] += 1
    return found


def how_many(source: str) -> int:
    """How many mutations there are of a source."""
    return len(_places(ast.parse(source)))


def mutant(source: str, number: int) -> tuple[int, str, ast.Module]:
    """(line, what was changed, the tree of the whole source with the change) of one of them."""
    tree = ast.parse(source)
    node = _places(tree)[number]
    before = _shown(node)
    _change(node)
    return getattr(node, "lineno", 0), f"{before}  ->  {_shown(node)}", ast.fix_missing_locations(tree)


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node)[:70].split())


def _scopes(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.AST]]:
    for part in ast.iter_child_nodes(node):
        yield scope, part
        named = isinstance(part, ast.FunctionDef | ast.ClassDef)
        yield from _scopes(part, f"{scope}.{part.name}".lstrip(".") if named else scope)


def _places(tree: ast.Module) -> list[ast.AST]:
    unseen = {id(part) for node in ast.walk(tree) for top in _unseen(node) for part in ast.walk(top)}
    return [node for node in ast.walk(tree) if _changes(node) and not _is_for_types(node) and id(node) not in unseen]


def _unseen(node: ast.AST) -> list[ast.AST]:
    """Parts of a node that no program's behaviour depends on."""
    parts = [*getattr(node, "decorator_list", ())]
    parts += [part for name in ("annotation", "returns") if (part := getattr(node, name, None)) is not None]
    match node:
        case ast.If() if "TYPE_CHECKING" in ast.unparse(node.test):
            parts += node.body
        case ast.Call(func=ast.Name(id="zip"), keywords=keywords):
            parts += keywords
    return parts


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
            node.value = 2 * value if isinstance(value, int) and value >= MANY else value + 1
        case ast.If():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)
