"""For people: a block a checkpoint, the gravest first, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from qkvinspect.checks.result import Checked, totals
from qkvinspect.errors import clean
from qkvinspect.finding_codes import AGAINST_WEIGHTS
from qkvinspect.render import text
from qkvinspect.render.page import Page
from qkvinspect.render.view import ViewOptions

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
        page.line(("  unreadable  ", text.STYLES["error"]), (clean(one.error), ""))
        return
    counted = text.count(one.num_attentions, "attention module")
    said = text.findings(one.findings)
    counts = Counter((finding.code, finding.message) for finding in one.findings)
    labels = [_label(finding.severity, counts[finding.code, finding.message]) for finding, _ in said]
    flush = max(map(len, labels), default=0)
    page.line((f"{path}  {counted}{'' if said else '  ok'}", "bold"))
    width = max((len(finding.code) for finding, _ in said), default=0)
    for label, (finding, message) in zip(labels, said, strict=True):
        severity = f"  {label:{max(flush, 7)}}  ", text.STYLES[finding.severity]
        page.line(severity, (f"{finding.code:{width}}  ", "dim"), (message, ""))
    first = next((f for f, _ in said if f.severity != "info" and f.layer), None)
    if first is not None:
        name = shlex.quote(path) if len(path) <= _ASIDE else "PATH"
        layer = shlex.quote(clean(first.layer or ""))
        shown = f"show --per-head {name} --layer {layer}"
        command = f"explain --evidence {name} {layer}" if first.code in AGAINST_WEIGHTS else shown
        page.line((f"  look closer: qkvinspect {command}", "dim"))


def _label(severity: str, count: int) -> str:
    """``warning``; ``2 warnings`` where a line stands for those of two layers, so that lines add up to the summary."""
    return severity if count == 1 else text.count(count, severity)


def _summary(page: Page, checked: Sequence[Checked]) -> None:
    counts = totals(checked)
    unreadable = sum(bool(one.error) for one in checked)
    facts = [text.count(counts["error"], "error"), text.count(counts["warning"], "warning")]
    if unreadable:
        facts.append(f"{unreadable} not readable")
    bad = counts["error"] or unreadable
    style = "bold red" if bad else "yellow" if counts["warning"] else "bold green"
    page.line((f"{text.count(len(checked), 'checkpoint')}: {', '.join(facts)}", style))
