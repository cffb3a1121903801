"""A difference in GitHub's Markdown: a comment on a pull request, with the details folded away."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.diff.difference import Difference
from qkvinspect.render import text
from qkvinspect.render.difference import words
from qkvinspect.render.markdown import escape, table
from qkvinspect.render.view import ViewOptions

NAME = "markdown"


def render(difference: Difference, view: ViewOptions) -> str:
    """The answer first."""
    return "\n".join(_lines(difference, view)) + "\n"


def _lines(difference: Difference, view: ViewOptions) -> Iterator[str]:
    yield f"### qkvinspect diff: {escape(words.verdict(difference))}\n"
    yield from (f"- {escape(line)}" for line in words.sides(difference))
    relations = list(words.happened(difference))
    if relations:
        yield ""
        yield from (f"- **{escape(line)}**" for line in relations)
    if difference.layers or difference.added or difference.removed:
        yield ""
        yield from table(words.layer_columns(difference), words.layer_rows(difference))
    for layer in words.detailed(difference, view):
        yield f"\n<details><summary>{_html(text.layer(layer.a))}</summary>\n"
        yield f"{escape(words.stored(layer))}\n"
        yield from table(words.PART_COLUMNS, words.part_rows(layer))
        yield ""
        yield from (f"- {escape(line)}" for line in words.spots(layer))
        if view.per_head:
            yield ""
            yield from table(words.HEAD_COLUMNS, words.head_rows(layer))
        yield "\n</details>"
    if difference.losses:
        yield f"\n{escape(words.loss_title(difference))}\n"
        yield from table(words.LOSS_COLUMNS, words.loss_rows(difference))
    others = [*words.left_out(difference, view), *words.others(difference)]
    remarks = list(words.remarks(difference))
    if others or remarks:
        yield ""
    yield from (f"- {escape(line)}" for line in others)
    yield from (f"- **{severity}** {escape(line)}" for severity, line in remarks)


def _html(name: str) -> str:
    """GitHub reads no Markdown in a summary."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
