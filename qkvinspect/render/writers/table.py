"""Lines and tables for a terminal, or for a pipe: there nothing is cut or wrapped."""

from __future__ import annotations

from collections.abc import Iterable

from qkvinspect.render.document import (
    STYLES,
    Block,
    Chapter,
    CodeBlock,
    DataTable,
    Document,
    FactList,
    Glossed,
    Items,
    Remark,
    TextLine,
    Title,
)
from qkvinspect.render.text import clean
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page


def write(document: Document, view: ViewOptions) -> str:
    """Every block, from top to bottom."""
    return laid_out(document.blocks(), view)


def laid_out(blocks: Iterable[Block], view: ViewOptions) -> str:
    """Blocks as they stand in a terminal."""
    page = Page(view)
    for block in blocks:
        _block(page, block, "")
    return str(page)


def _block(page: Page, block: Block, indent: str) -> None:
    """One block; lines of a section are indented."""
    match block:
        case TextLine():
            page.line((f"{indent}{block.text}".rstrip(), block.style))
        case FactList():
            page.line((indent + "  ".join(block.facts), ""), hang=len(indent) + 2)
        case Items():
            for entry in block.entries:
                _entry(page, entry, indent)
        case DataTable(stacked=True):
            page.stacked(block.rows, indent)
        case DataTable():
            page.table(block)
        case CodeBlock():
            _code(page, block)
        case Chapter():
            _section(page, block)
        case Title():
            page.line((block.text, "bold"), hang=2)
        case _:
            page.line((block.text, block.style))


def _entry(page: Page, entry: TextLine | Glossed | Remark, indent: str) -> None:
    match entry:
        case TextLine():
            page.line((f"{indent}{entry.text}", entry.style), hang=len(indent) + 2)
        case Glossed():
            page.term(entry.title, entry.text)
        case Remark():
            severity = f"{entry.label:{entry.label_width}}  " if entry.width else f"{entry.severity}: "
            code = f"{entry.code:{entry.width}}  " if entry.code else ""
            label = ((indent + severity, STYLES[entry.severity]), (code, "dim"))
            page.labelled(label, entry.text)


def _code(page: Page, code: CodeBlock) -> None:
    if code.title:
        page.line((f"{' ' * (code.indent - 2)}{code.title}", "" if code.wrapped else "dim"))
    for line in code.lines:
        if code.wrapped:
            page.line((" " * code.indent + line, ""), hang=code.indent + 4)
        else:
            page.raw(" " * code.indent + clean(line))


def _section(page: Page, section: Chapter) -> None:
    if not section.compact:
        page.gap()
    page.line((section.heading, "bold" if section.compact else "bold green"), (section.note, ""), hang=2)
    for block in section.blocks:
        _block(page, block, "  ")
