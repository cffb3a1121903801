"""A difference for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qkvinspect.diff.difference import SAME, Difference
from qkvinspect.render import text
from qkvinspect.render.difference import words
from qkvinspect.render.page import Page
from qkvinspect.render.view import ViewOptions

NAME = "table"


def render(difference: Difference, view: ViewOptions) -> str:
    """The layers in a table, what was recognised, the parts of what changed, the answer."""
    page = Page(view)
    for line in words.sides(difference):
        page.line((line, "bold"))
    if difference.layers or difference.added or difference.removed:
        page.line()
        _table(page, words.layer_columns(difference), words.layer_rows(difference))
    else:
        page.line(("No attention was found in either.", ""))
    for line in words.happened(difference):
        page.line((line, "bold red"))
    for layer in words.detailed(difference, view):
        page.line()
        page.line((text.layer(layer.a), "bold green"))
        page.line((f"  {words.stored(layer)}", ""))
        _table(page, words.PART_COLUMNS, words.part_rows(layer))
        for line in words.spots(layer):
            page.line((f"  {line}", ""))
        if view.per_head:
            _table(page, words.HEAD_COLUMNS, words.head_rows(layer))
    if difference.losses:
        page.line()
        page.line((words.loss_title(difference), "bold"))
        numeric = [column in words.LOSS_NUMERIC for column in words.LOSS_COLUMNS]
        page.table(words.LOSS_COLUMNS, numeric, words.loss_rows(difference), lambda row: row[-1] != "0")
    page.line()
    for line in words.left_out(difference, view):
        page.line((line, ""))
    for line in words.others(difference):
        page.line((line, "red"))
    for severity, line in words.remarks(difference):
        page.line((f"{severity}: ", text.STYLES[severity]), (line, ""))
    page.line((words.verdict(difference), "bold"))
    return str(page)


def _table(page: Page, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Red where a row says that something differs."""
    page.table(columns, [column in words.NUMERIC for column in columns], lines, SAME.isdisjoint)
