"""HTML in which every string is text, unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from qkvinspect.render.text import clean

_EMPTY = frozenset({"input"})
"""Elements that have no end."""


class Markup(str):
    """HTML as it is."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Harmless, whatever it holds."""
    return value if isinstance(value, Markup) else Markup(escape(clean(value)))


def joined(parts: Iterable[str]) -> Markup:
    """One after another."""
    return Markup("".join(map(text, parts)))


def tag(name: str, *inner: str, **attributes: str | bool) -> Markup:
    """An element; a trailing underscore of an attribute's name is left out, others become hyphens."""
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not False
    )
    return Markup(f"<{name}{said}>" if name in _EMPTY else f"<{name}{said}>{joined(inner)}</{name}>")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str, numeric: frozenset[str] = frozenset()
) -> Markup:
    """A table whose first column names its rows.

    It can be scrolled where it is too wide, by keyboard too; on a phone each cell has its column's title before it.
    """
    kinds = [{"class_": "number"} if column in numeric else {} for column in columns]
    head = joined(tag("th", column, scope="col", **kind) for column, kind in zip(columns, kinds, strict=True))
    body = joined(
        tag(
            "tr",
            tag("th", row[0], scope="row", **kinds[0]),
            *(
                tag("td", cell, data_title=column, **kind)
                for column, cell, kind in zip(columns[1:], row[1:], kinds[1:], strict=True)
            ),
        )
        for row in rows
    )
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def listed(lines: Iterable[str], **attributes: str) -> Markup:
    """An unordered list; nothing where there are no lines."""
    items = joined(tag("li", line) for line in lines)
    return tag("ul", items, **attributes) if items else items


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that can be linked to."""

    id: str
    title: str
    inner: tuple[str, ...]

    @property
    def link(self) -> Markup:
        return tag("a", self.title, href=f"#{self.id}")

    @property
    def body(self) -> Markup:
        title = f"{self.id}-title"
        return tag("section", tag("h2", self.title, id=title), *self.inner, id=self.id, aria_labelledby=title)


def section(id: str, title: str, *inner: str) -> Section:
    return Section(id, title, inner)
