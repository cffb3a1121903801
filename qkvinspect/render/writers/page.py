"""Lines and tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qkvinspect.render.document import DataTable
from qkvinspect.render.text import clean
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import narrow, wrapping

_INDENT = 11
"""Columns before what is said of a term."""

_ROOM = 34
"""Columns that a text must have right of its label; else it goes on below it."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "bold red": "1;31", "bold green": "1;32", "yellow": "33", "cyan": "36"}


class Page:
    """Text that grows line by line."""

    def __init__(self, view: ViewOptions) -> None:
        self._view = view
        self._lines: list[str] = []

    def line(self, *parts: tuple[str, str], hang: int | None = None) -> None:
        """A line of parts, each with its style, "" for none; longer ones are wrapped in a terminal.

        Args:
            hang: the indent of further lines; None: that of the first.
        """
        parts = tuple((clean(text), style) for text, style in parts)
        whole = "".join(text for text, _ in parts)
        width = self._view.width
        if width is None or (len(whole) <= width and wrapping.width_of(whole) <= width):
            self._add("".join(self._styled(text, style) for text, style in parts))
            return
        hang = len(whole) - len(whole.lstrip()) if hang is None else hang
        for number, line in enumerate(wrapping.pieces(parts, width, hang)):
            shown = "".join(self._styled(text, style) for text, style in _trimmed(line))
            self._add(" " * hang * bool(number) + shown)

    def labelled(self, label: Sequence[tuple[str, str]], text: str) -> None:
        """A line whose text goes on right of its label, or below it where there is little room."""
        across = sum(len(word) for word, _ in label)
        hang = across if self._view.width is None or self._view.width - across >= _ROOM else 4
        self.line(*label, (text, ""), hang=hang)

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
            import textwrap

            across = max(self._view.width - _INDENT - 1, 20)
            lines = textwrap.wrap(body, across, break_long_words=False, break_on_hyphens=False)
            body = ("\n" + " " * _INDENT).join(lines)
        self._add(self._styled(f"  {title}".ljust(_INDENT), "dim") + body)

    def stacked(self, rows: Iterable[Sequence[str]], indent: str = "") -> None:
        """A table without titles, the last cell of each row below the others."""
        cells = [[clean(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
        below = sum(widths[:-1]) + 2 * len(widths[:-1])
        longest = max(len(cell) for row in cells for cell in row[-2:])
        no_room = self._view.width is not None and len(indent) + below + longest > self._view.width
        for *row, beside, last in cells:
            head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            if no_room:
                self.line((indent + head.rstrip(), ""))
                self.line((f"{indent}    {beside}", ""))
                self.line((f"{indent}    {last}", ""))
            else:
                self._add(f"{indent}{head}  {beside}")
                self._add(f"{indent}{' ' * below}{last}")

    def table(self, table: DataTable) -> None:
        """A table; rows that are to stand out are red."""
        laid = narrow.laid(table, self._view.width)
        sizes = laid.sizes
        right = [table.right[i] for i in laid.kept]
        for said in laid.said:
            self.line((f" {said}", "dim"))
        indent = "  " if laid.above >= 0 else " "
        if laid.above >= 0:
            self.line((f" {table.columns[laid.above]}", "dim"))
        self._rows([(table.columns[i],) for i in laid.kept], sizes, right, laid.gap, indent, ("dim",))
        across, most = narrow.across(sizes, laid.gap), self._view.width
        overlong = most is not None and across > most  # a name that is longer than a line
        if table.ruled:
            self._add("─" * (most if most is not None and overlong else across))
        shown = [laid.columns[i] for i in laid.kept]
        styles = ["red" if table.bad(row) else "" for row in table.rows]
        if laid.above < 0 and not overlong:
            self._rows(shown, sizes, right, laid.gap, indent, styles)
        for number, style in enumerate(styles if laid.above >= 0 or overlong else ()):
            if laid.above >= 0:
                self.line((f" {laid.columns[laid.above][number]}", style), hang=1)
            if overlong:
                self.line((f"{indent}{shown[0][number]}", style), hang=len(indent))
            else:
                self._rows([(column[number],) for column in shown], sizes, right, laid.gap, indent, (style,))
        seen = {*laid.kept, laid.above}
        if missing := [title for i, title in enumerate(table.columns) if title and i not in seen]:
            self.line((f" no room for: {', '.join(missing)}", "dim"))

    def _rows(
        self,
        columns: Sequence[Sequence[str]],
        sizes: Sequence[int],
        right: Sequence[bool],
        gap: int,
        indent: str,
        styles: Iterable[str],
    ) -> None:
        """Rows of a table, each with its style."""
        cells = [
            wrapping.padded(column, size, right=flush)
            for column, size, flush in zip(columns, sizes, right, strict=True)
        ]
        between = " " * gap
        lines = map(str.rstrip, map(indent.__add__, map(between.join, zip(*cells, strict=True))))
        for line, style in zip(lines, styles, strict=True):
            self._lines.append(self._styled(line, style) if style else line)

    def __str__(self) -> str:
        return "\n".join((*self._lines, ""))  # in one go: of a long page a copy more takes much room

    def _add(self, line: str) -> None:
        self._lines.append(line.rstrip())

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and style and self._view.colour else text


def _trimmed(line: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the spaces at its end, which would be coloured."""
    while line and not line[-1][0].rstrip():
        line.pop()
    return [*line[:-1], (line[-1][0].rstrip(), line[-1][1])] if line else []
