"""Lines and tables for a terminal, or for a pipe. What fits is laid out here; rich folds what does not.

Rich takes a millisecond a row, and a tenth of a second to be imported.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from qkvinspect.render.document import DataTable
from qkvinspect.render.spark import BLOCKS
from qkvinspect.render.text import clean
from qkvinspect.render.view import ViewOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

_WORD = re.compile(r"\s*\S+\s*")
_FACT = re.compile(r"\s*\S+(?: \S+)*\s*")

_INDENT = 11
"""Columns before what is said of a term."""

_GAPS = (3, 2)
"""Columns between those of a table: what looks best, and what will do."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "bold red": "1;31", "bold green": "1;32", "yellow": "33", "cyan": "36"}


class Page:
    """Text that grows line by line."""

    def __init__(self, view: ViewOptions) -> None:
        self._view = view
        self._lines: list[str] = []

    def line(self, *parts: tuple[str, str]) -> None:
        """A line of parts, each with its style, "" for none; longer ones are wrapped in a terminal."""
        parts = tuple((clean(text), style) for text, style in parts)
        whole = "".join(text for text, _ in parts)
        if self._view.width is None or (whole.isascii() and len(whole) <= self._view.width):
            self._add("".join(self._styled(text, style) for text, style in parts))
        elif whole.isascii():
            self._lines += self._wrapped(parts, whole, self._view.width)
        else:
            from rich.text import Text

            self._fold(Text.assemble(*((text, style or "none") for text, style in parts)))

    def raw(self, line: str) -> None:
        """A line that is laid out already."""
        self._add(line)

    def gap(self) -> None:
        """A blank line, but at the top."""
        if self._lines:
            self._add("")

    def term(self, title: str, text: str) -> None:
        """A word, and what is said about it with a hanging indent."""
        body = clean(text)
        if self._view.width is not None:
            across = max(self._view.width - _INDENT - 1, 20)
            lines = textwrap.wrap(body, across, break_long_words=False, break_on_hyphens=False)
            body = ("\n" + " " * _INDENT).join(lines)
        self._add(self._styled(f"  {title}".ljust(_INDENT), "dim") + body)

    def stacked(self, rows: Iterable[Sequence[str]]) -> None:
        """A table without titles, the last cell of each row below the others."""
        cells = [[clean(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
        for *row, last in cells:
            self._add("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
            self._add(" " * (sum(widths[:-1]) + 2 * len(widths[:-1])) + last)

    def table(self, table: DataTable) -> None:
        """A table; rows that are to stand out are red."""
        cells = [[clean(cell) for cell in row] for row in table.rows]
        kept = self._kept(table, cells)
        columns, right = [table.columns[i] for i in kept], [table.right[i] for i in kept]
        shown = [[row[i] for i in kept] for row in cells]
        widths = _widths(columns, shown)
        styles = ["red" if table.bad(row) else "" for row in cells]
        gap = next((gap for gap in _GAPS if self._fits(widths, gap)), None)
        if gap is None or not (self._view.width is None or all(map(_plain, shown))):
            self._fold_table(columns, right, shown, styles)
            return
        forms = [f"{{:{'>' if flush else '<'}{width}}}" for flush, width in zip(right, widths, strict=True)]
        form = f" {(' ' * gap).join(forms)}"
        self._add(self._styled(form.format(*columns).rstrip(), "dim"))
        if table.ruled:
            self._add("─" * _across(widths, gap))
        for row, style in zip(shown, styles, strict=True):
            self._add(self._styled(form.format(*row).rstrip(), style))
        if len(kept) < len(table.columns):
            missing = ", ".join(title for i, title in enumerate(table.columns) if title and i not in kept)
            self.line((f" no room for: {missing}", "dim"))

    def _kept(self, table: DataTable, cells: Sequence[Sequence[str]]) -> list[int]:
        """The columns that fit, if leaving out what is spare makes them fit."""
        widths = _widths(table.columns, cells)
        kept, spare = list(range(len(widths))), list(table.spare)
        while spare and not self._fits([widths[i] for i in kept], _GAPS[-1]):
            kept.remove(spare.pop())
        return kept

    def _fits(self, widths: Sequence[int], gap: int) -> bool:
        return self._view.width is None or _across(widths, gap) <= self._view.width

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _add(self, line: str) -> None:
        self._lines.append(line.rstrip())

    def _wrapped(self, parts: Sequence[tuple[str, str]], whole: str, width: int) -> Iterator[str]:
        """Lines of whole words, as rich would give them; every character is one column wide."""
        hang = len(whole) - len(whole.lstrip())
        cuts = [0, *_cuts(whole, width, hang), len(whole)]
        for start, end in pairwise(cuts):
            end = start + max(len(whole[start:end].rstrip()), min(width, end - start))  # noqa: PLW2901
            place, line = 0, " " * hang if start else ""
            for text, style in parts:
                line += self._styled(text[max(start - place, 0) : max(end - place, 0)], style)
                place += len(text)
            yield line.rstrip()

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and style and self._view.colour else text

    def _fold(self, shown: RenderableType) -> None:
        from io import StringIO

        from rich.console import Console

        colour = self._view.colour
        out = StringIO()
        Console(
            file=out,
            width=self._view.width,
            force_terminal=colour,
            color_system="standard" if colour else None,
            no_color=not colour,
            highlight=False,
        ).print(shown)
        self._lines += [line.rstrip() for line in out.getvalue().removesuffix("\n").split("\n")]

    def _fold_table(
        self, columns: Sequence[str], right: Sequence[bool], rows: list[list[str]], styles: Sequence[str]
    ) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=True, header_style="dim", show_edge=False)
        for column, flush in zip(columns, right, strict=True):
            table.add_column(column, justify="right" if flush else "left", overflow="fold")
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*map(Text, row), style=style or None)
        self._fold(table)


def _cuts(text: str, width: int, hang: int) -> Iterator[int]:
    """Where lines of up to ``width`` columns begin; all but the first are indented by ``hang``.

    Lines are broken where two spaces part facts from each other, if every fact has room on a line; else at words;
    within words only where one is longer than a line.
    """
    facts = list(_FACT.finditer(text))
    pieces = facts if all(len(fact[0].strip()) <= width - hang for fact in facts) else _WORD.finditer(text)
    used, room = 0, width
    for word in pieces:
        start, length = word.start(), len(word[0].rstrip())
        if length <= room - used:
            used += len(word[0])
            continue
        room = width - hang
        if length <= room:
            yield start
            used = len(word[0])
        else:
            places = range(start, word.end(), room)
            yield from (place for place in places if place)
            used = word.end() - places[-1]


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column, with its title."""
    return [max(map(len, column)) for column in zip(columns, *rows, strict=True)]


def _across(widths: Sequence[int], gap: int) -> int:
    """Columns that a table takes in a terminal: one more on both sides, and what is between the table's own."""
    return sum(widths) + gap * (len(widths) - 1) + 2


def _plain(cells: Sequence[str]) -> bool:
    """Whether every character is one column wide."""
    return all(cell.isascii() or not cell.strip(BLOCKS + " ") for cell in cells)
