"""The mutations: one change of syntax at a time in a source of the package.

Comparisons, arithmetic, and/or, numbers, negations, ``if`` conditions and returned values are changed. Decorators are
left alone (``frozen=True`` changes nothing that a program does), and so are unions of types. What is tried with which
tests is ``tests/mutation/campaign.py``.
"""

from __future__ import annotations

import ast
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


def mutant(source: str, number: int) -> tuple[int, str, ast.Module]:
    """(line, what was changed, the tree of the whole source with the change) of one of them."""
    tree = ast.parse(source)
    node = _places(tree)[number]
    before = ast.unparse(node)
    _change(node)
    return getattr(node, "lineno", 0), f"{before[:70]}  ->  {ast.unparse(node)[:70]}", ast.fix_missing_locations(tree)


def _places(tree: ast.Module) -> list[ast.AST]:
    decorators = {
        id(part)
        for node in ast.walk(tree)
        for decorator in getattr(node, "decorator_list", ())
        for part in ast.walk(decorator)
    }
    places = (node for node in ast.walk(tree) if _changes(node) and not _is_for_types(node))
    return [node for node in places if id(node) not in decorators]


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
