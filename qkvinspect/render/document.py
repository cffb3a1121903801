"""A result ready to be written: blocks for people, records for spreadsheets, data for programs.

A result is described once, in its module of ``results``; whatever is in a document, every writer can write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from qkvinspect.fast_dataclass import dataclass

if TYPE_CHECKING:
    from qkvinspect.checks.result import Checked
    from qkvinspect.finding_codes import Severity

Style = Literal["", "bold", "dim", "red", "bold red", "bold green", "yellow", "cyan"]
"""How a line looks in a terminal; Markdown shows bold red in bold."""

STYLES: dict[Severity, Style] = {"error": "bold red", "warning": "yellow", "info": "cyan"}
"""The colour of each severity."""

Cell: TypeAlias = str | int | float | None
"""A value of a record; None where there is none."""


def never(_: Sequence[str]) -> bool:
    """No row of a table stands out."""
    return False


@dataclass(frozen=True, slots=True)
class Title:
    """The title of a document. Without one, Markdown names the command instead."""

    text: str


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line or, where lines are wrapped, a paragraph; "" is a blank line in a terminal."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class FactList:
    """Short facts beside each other."""

    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Glossed:
    """A word and what is to be said about it."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding, or a note with a severity.

    Attributes:
        code: which kind of finding it is; "" where the text says enough.
        count: how many findings it stands for: those of layers that are alike are one entry.
        width: columns for the code where severities and codes stand below each other; 0 where they need not.
        label_width: columns for the severity there.
    """

    severity: Severity
    text: str
    code: str = ""
    width: int = 0
    count: int = 1
    label_width: int = 7

    @property
    def label(self) -> str:
        """``warning``; ``2 warnings`` where it stands for two, so that entries add up to a summary."""
        return self.severity if self.count == 1 else f"{self.count} {self.severity}s"


@dataclass(frozen=True, slots=True)
class Items:
    """Entries of one list.

    Attributes:
        lead: an answer, which Markdown puts before everything but the title, since comments are read from the top.
    """

    entries: tuple[TextLine | Glossed | Remark, ...]
    lead: bool = False


@dataclass(frozen=True, slots=True)
class DataTable:
    """Rows of text below the titles of their columns.

    Attributes:
        right: which columns are flush right.
        bad: tells of a row whether it is to stand out.
        stacked: in a terminal, the last column stands on lines of its own, and there are no titles.
        ruled: whether a terminal has a line below the titles.
        spare: which columns are left out of a terminal that is too narrow, the last of them first; it is said.
        names: which columns hold names, of which a narrow terminal shows what varies; those of the first stand on
            lines of their own if that is not enough.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    right: tuple[bool, ...]
    bad: Callable[[Sequence[str]], bool] = never
    stacked: bool = False
    ruled: bool = True
    spare: tuple[int, ...] = ()
    names: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Lines that are laid out already: code, or a picture made of characters.

    Attributes:
        title: what introduces them in a terminal; in Markdown they stand out without.
        indent: columns before each line in a terminal.
        wrapped: whether they are words below each other, whose columns mean nothing: a terminal may break them.
    """

    lines: tuple[str, ...]
    title: str = ""
    indent: int = 4
    wrapped: bool = False


@dataclass(frozen=True, slots=True)
class Chapter:
    """Blocks below a heading.

    Attributes:
        note: goes on after the heading.
        folded: Markdown shows the heading alone until the reader opens it.
        compact: a terminal has no blank line before it.
    """

    heading: str
    blocks: tuple[Block, ...]
    note: str = ""
    folded: bool = False
    compact: bool = False


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The answer in one line: the last one in a terminal, the first one in Markdown."""

    text: str
    style: Style = "bold"


Block: TypeAlias = Title | TextLine | FactList | Items | DataTable | CodeBlock | Chapter | Conclusion


@dataclass(frozen=True, slots=True)
class Document:
    """One result. What a writer does not ask for is never made.

    Attributes:
        command: which one gives it.
        blocks: what people read, in the order of a terminal.
        records: first the names of the columns, then rows with every figure in full.
        data: the object of the JSON contract.
        checked: the checkpoints and what was found in them, where that is the result.
    """

    command: str
    blocks: Callable[[], Iterable[Block]]
    records: Callable[[], Iterable[Sequence[Cell]]]
    data: Callable[[], object]
    checked: tuple[Checked, ...] = ()
