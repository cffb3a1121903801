"""GitHub's Markdown, for an issue, a pull request or a model card: the answer first, long details folded away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import dedent

from qkvinspect.late_pattern import late_pattern
from qkvinspect.render.document import (
    Block,
    Chapter,
    CodeBlock,
    Conclusion,
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

_SPECIAL = late_pattern(r"([\\`*_{}\[\]<>()#+!|~&@])")


def write(document: Document, view: ViewOptions) -> str:
    """The title and the verdict, what leads, and then everything else."""
    blocks = list(document.blocks())
    rest = [block for block in blocks if not isinstance(block, Title | Conclusion)]
    rest.sort(key=lambda block: not (isinstance(block, Items) and block.lead))
    return "\n\n".join((*_heading(document.command, blocks), *_paragraphs(rest))) + "\n"


def _heading(command: str, blocks: Sequence[Block]) -> Iterator[str]:
    titles = [block.text for block in blocks if isinstance(block, Title)]
    verdicts = [block.text for block in blocks if isinstance(block, Conclusion)]
    if titles:
        yield f"**{escape(': '.join(titles + verdicts))}**"
    elif verdicts:
        yield f"### qkvinspect {command}: {escape(verdicts[0])}"


def _paragraphs(blocks: Iterable[Block]) -> Iterator[str]:
    """What has a blank line before and after it."""
    for block in blocks:
        match block:
            case FactList():
                yield escape(" · ".join(block.facts))
            case Items():
                if block.entries:
                    yield "\n".join(map(_entry, block.entries))
            case DataTable():
                yield "\n".join(table(block.columns, block.rows))
            case CodeBlock():
                yield "\n".join(f"    {clean(line)}" for line in _lines(block))
            case Chapter():
                yield from _section(block)
            case _:
                if block.text:
                    yield escape(block.text)


def _lines(code: CodeBlock) -> list[str]:
    if code.wrapped:
        return [line.strip() for line in code.lines]
    return dedent("\n".join(code.lines)).split("\n")


def _section(section: Chapter) -> Iterator[str]:
    if not section.folded:
        yield f"### {escape(section.heading + section.note)}"
        yield from _paragraphs(section.blocks)
        return
    yield f"<details><summary>{_html(section.heading + section.note)}</summary>"
    yield from _paragraphs(section.blocks)
    yield "</details>"


def _entry(entry: TextLine | Glossed | Remark) -> str:
    match entry:
        case TextLine():
            return f"- **{escape(entry.text)}**" if entry.style == "bold red" else f"- {escape(entry.text)}"
        case Glossed():
            return f"- **{escape(entry.title)}**: {escape(entry.text)}"
        case Remark():
            code = f"`{entry.code}` " if entry.code else ""
            return f"- **{entry.label}** {code}{escape(entry.text)}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield "| " + " | ".join(map(escape, columns)) + " |"
    yield "|" + " --- |" * len(columns)
    for cells in rows:
        yield "| " + " | ".join(map(escape, cells)) + " |"


def escape(value: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return _SPECIAL.sub(r"\\\1", clean(value))


def _html(name: str) -> str:
    """GitHub reads no Markdown in a summary."""
    return clean(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
