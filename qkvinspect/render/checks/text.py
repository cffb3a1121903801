"""For people: a block a checkpoint, the gravest first, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from qkvinspect.checks.result import Checked, totals
from qkvinspect.errors import clean
from qkvinspect.render import text
from qkvinspect.render.view import View

NAME = "text"

_ASIDE = 60
"""Characters of a path above which the hint does not repeat it."""


def render(checked: Sequence[Checked], view: View) -> str:
    """All of them, and a summary."""
    out = StringIO()
    console = Console(
        file=out,
        force_terminal=view.colour,
        color_system="standard" if view.colour else None,
        no_color=not view.colour,
        highlight=False,
        soft_wrap=True,
    )
    for one in checked:
        for line in _block(one):
            console.print(line)
    console.print(_summary(checked))
    return out.getvalue()


def _block(one: Checked) -> Iterator[Text]:
    path = clean(one.path)
    if one.error:
        yield Text(f"{path}  not checked", style="bold")
        yield Text("  unreadable  ", style=text.STYLES["error"]).append(clean(one.error), style="none")
        return
    counted = text.count(one.num_attentions, "attention module")
    said = text.findings(one.findings)
    yield Text(f"{path}  {counted}{'' if said else '  ok'}", style="bold")
    width = max((len(finding.code) for finding, _ in said), default=0)
    for finding, message in said:
        line = Text(f"  {finding.severity:7}  ", style=text.STYLES[finding.severity])
        yield line.append(f"{finding.code:{width}}  ", style="dim").append(message, style="none")
    first = next((f for f, _ in said if f.severity != "info" and f.layer), None)
    if first is not None:
        name = shlex.quote(path) if len(path) <= _ASIDE else "PATH"
        verb = "explain --evidence" if "against-weights" in first.code else "show --per-head"
        yield Text(
            f"  look closer: qkvinspect {verb} {name} --layer {shlex.quote(clean(first.layer or ''))}", style="dim"
        )


def _summary(checked: Sequence[Checked]) -> Text:
    counts = totals(checked)
    unreadable = sum(bool(one.error) for one in checked)
    facts = [text.count(counts["error"], "error"), text.count(counts["warning"], "warning")]
    if unreadable:
        facts.append(f"{unreadable} not readable")
    line = f"{text.count(len(checked), 'checkpoint')}: {', '.join(facts)}"
    bad = counts["error"] or unreadable
    return Text(line, style="bold red" if bad else "bold yellow" if counts["warning"] else "bold green")
