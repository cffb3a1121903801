"""Results as pieces of HTML for notebooks: with a few rules of their own, without scripts, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.diff.difference import Difference
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.render import differences as words
from qkvinspect.render import text
from qkvinspect.render.document import Document
from qkvinspect.render.html import changes, packing
from qkvinspect.render.html.markup import Markup, listed, table, tag
from qkvinspect.render.results import stacks

_MOST_STACKS, _MOST_ROWS = 6, 60

_RULES = """
.qkvinspect { font: 13px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif; max-width: 60rem; }
.qkvinspect h3 { font-size: 1em; font-weight: 600; margin: 0.9em 0 0; overflow-wrap: anywhere; }
.qkvinspect p { margin: 0.2em 0; overflow-wrap: anywhere; }
.qkvinspect .scroll { overflow-x: auto; }
.qkvinspect table { border-collapse: collapse; margin: 0.4em 0; }
.qkvinspect caption { text-align: left; font-weight: 600; }
.qkvinspect th, .qkvinspect td { text-align: left; vertical-align: top; padding: 2px 12px 2px 0; font-weight: 400;
  border-bottom: 1px solid rgba(128, 128, 128, 0.35); background: none; color: inherit; }
.qkvinspect thead th { opacity: 0.75; }
.qkvinspect .number { text-align: right; font-variant-numeric: tabular-nums; }
.qkvinspect .code button { display: none; }
.qkvinspect pre { overflow-x: auto; padding: 0.5em; background: rgba(128, 128, 128, 0.12); color: inherit; }
.qkvinspect code { background: none; color: inherit; }
"""


def report(found: Report) -> Markup:
    """The file in a line, each stack of layers, the findings."""
    of_file, *others = text.summary(found)
    every = stacks.stacks(found.attentions)
    shown: list[Markup] = [tag("p", of_file.replace("  ", " · ")), *(tag("p", line) for line in others)]
    if not every:
        shown.append(tag("p", "No attention was found in it."))
    for stack in every[:_MOST_STACKS]:
        shown.append(packing.heading(stack))
        shown += packing.layer(stack.layers[0], found.checkpoint, opened=False)
    if len(every) > _MOST_STACKS:
        shown.append(tag("p", f"... and {len(every) - _MOST_STACKS} more kinds of layers"))
    return _whole(shown, _findings(found.findings))


def layer(attention: Attention, checkpoint: Checkpoint | None) -> Markup:
    """One layer."""
    facts = " · ".join((text.layout(attention), text.heads(attention)))
    return _whole(
        (tag("h3", text.layer(attention.layer)), tag("p", facts, class_="qi-note")),
        packing.layer(attention, checkpoint),
    )


def difference(found: Difference) -> Markup:
    """What changed, layer by layer."""
    return _whole(
        (tag("p", line.replace("  ", " · ")) for line in words.sides(found)),
        (tag("p", tag("strong", words.verdict(found))), listed(words.happened(found))),
        (changes.map_of(found), listed(words.others(found)), listed(found.notes)),
    )


def document(found: Document) -> Markup:
    """The rows of any other result, as far as a reader looks at them."""
    columns, *rows = found.records()
    cells = [[_cell(value) for value in row] for row in rows[:_MOST_ROWS]]
    more = f"... and {len(rows) - _MOST_ROWS} more rows; .to_dataframe() has all"
    shown = table([str(column) for column in columns], cells, f"qkvinspect {found.command}")
    return _whole((shown,), (tag("p", more),) if len(rows) > _MOST_ROWS else ())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return text.number(value) if isinstance(value, float) else str(value)


def _findings(found: Sequence[Finding]) -> Iterable[Markup]:
    lines = [f"{finding.severity}: {message}" for finding, message in text.findings(found)]
    return (listed(lines),) if lines else ()


def _whole(*blocks: Iterable[Markup]) -> Markup:
    rules = (files("qkvinspect.render.html") / "strips.css").read_text(encoding="utf-8")
    style = Markup(f"<style>{_RULES}{rules}</style>")
    return tag("div", style, *(one for some in blocks for one in some), class_="qkvinspect")
