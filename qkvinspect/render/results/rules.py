"""``check --list``: everything that it can find, and how grave that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checks import Rule
from qkvinspect.render.document import Block, Cell, Document, Items, Remark

COLUMNS = ("severity", "code", "summary")


def document(rules: Sequence[Rule]) -> Document:
    """All of them."""
    return Document(
        "check",
        blocks=lambda: _blocks(rules),
        records=lambda: [COLUMNS, *map(_cells, rules)],
        data=lambda: [dict(zip(COLUMNS, _cells(rule), strict=True)) for rule in rules],
    )


def _blocks(rules: Sequence[Rule]) -> Iterator[Block]:
    width = max(len(rule.code) for rule in rules)
    yield Items(tuple(Remark(rule.severity, rule.summary, rule.code, width) for rule in rules))


def _cells(rule: Rule) -> Sequence[Cell]:
    return rule.severity, rule.code.value, rule.summary
