"""Tables in GitHub's Markdown, for an issue or a model card."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.analysis import Analysis
from qkvinspect.render import text
from qkvinspect.render.analysis import rows
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.markdown import escape, table

NAME = "markdown"


def render(analysis: Analysis, view: ViewOptions) -> str:
    """As the table, without bars for layers that stand alone."""
    return "\n".join(_lines(analysis, view)) + "\n"


def _lines(analysis: Analysis, view: ViewOptions) -> Iterator[str]:
    first, *others = text.summary(analysis.report)
    yield f"**{escape(first)}**"
    yield from (f"\n{escape(line)}" for line in others)
    most = rows.most(analysis)
    if analysis.values:
        for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
            yield f"\n### {escape(text.layer(attention.layer))}\n"
            yield from table(rows.VALUE_COLUMNS, rows.value_cells(found, view.per_head))
    elif analysis.sort is not None:
        found = ((layer.layer, *rows.cells(analysis, head, most)) for layer, head in analysis.ranked())
        yield f"\n{escape(rows.LEGEND)}\n"
        yield from table(("layer", *map(escape, rows.columns(analysis))), found)
    else:
        yield f"\n{escape(rows.LEGEND)}"
        for layer in analysis.layers:
            yield f"\n### {escape(text.layer(layer.layer))}\n"
            yield escape(rows.facts(layer)) + "\n"
            yield from table(
                tuple(map(escape, rows.columns(analysis))), (rows.cells(analysis, head, most) for head in layer.heads)
            )
    if analysis.report.findings:
        yield ""
    for finding, message in text.findings(analysis.report.findings):
        yield f"- **{finding.severity}** {escape(message)}"
