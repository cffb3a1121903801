"""For people: a block a checkpoint, the gravest first, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qkvinspect.checks.result import Checked, totals
from qkvinspect.errors import clean
from qkvinspect.finding_codes import AGAINST_WEIGHTS
from qkvinspect.render import text
from qkvinspect.render.document import STYLES
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page

NAME = "text"

_ASIDE = 60
"""Characters of a path above which the hint does not repeat it."""


def render(checked: Sequence[Checked], view: ViewOptions) -> str:
    """All of them, and a summary."""
    page = Page(view)
    for one in checked:
        _block(page, one)
    _summary(page, checked)
    return str(page)


def _block(page: Page, one: Checked) -> None:
    path = clean(one.path)
    if one.error:
        page.line((f"{path}  not checked", "bold"))
        page.line(("  unreadable  ", STYLES["error"]), (clean(one.error), ""))
        return
    counted = text.count(one.num_attentions, "attention module")
    said = text.findings(one.findings)
    page.line((f"{path}  {counted}{'' if said else '  ok'}", "bold"))
    width = max((len(finding.code) for finding, _ in said), default=0)
    for finding, message in said:
        severity = f"  {finding.severity:7}  ", STYLES[finding.severity]
        page.line(severity, (f"{finding.code:{width}}  ", "dim"), (message, ""))
    first = next((f for f, _ in said if f.severity != "info" and f.layer), None)
    if first is not None:
        name = shlex.quote(path) if len(path) <= _ASIDE else "PATH"
        layer = shlex.quote(clean(first.layer or ""))
        shown = f"show --per-head {name} --layer {layer}"
        command = f"explain --evidence {name} {layer}" if first.code in AGAINST_WEIGHTS else shown
        page.line((f"  look closer: qkvinspect {command}", "dim"))


def _summary(page: Page, checked: Sequence[Checked]) -> None:
    counts = totals(checked)
    unreadable = sum(bool(one.error) for one in checked)
    facts = [text.count(counts["error"], "error"), text.count(counts["warning"], "warning")]
    if unreadable:
        facts.append(f"{unreadable} not readable")
    bad = counts["error"] or unreadable
    style = "bold red" if bad else "yellow" if counts["warning"] else "bold green"
    page.line((f"{text.count(len(checked), 'checkpoint')}: {', '.join(facts)}", style))
