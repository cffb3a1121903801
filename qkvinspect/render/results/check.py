"""``check``: what was found in each checkpoint, the most severe first, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from qkvinspect.checks.result import Checked, to_dict, totals
from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import AGAINST_WEIGHTS, Finding
from qkvinspect.render import text
from qkvinspect.render.document import (
    Block,
    Cell,
    Chapter,
    CodeBlock,
    Conclusion,
    Document,
    Items,
    Remark,
    Style,
    TextLine,
)

_ASIDE = 60
"""Characters of a path above which the hint does not repeat it."""


def document(checked: Sequence[Checked]) -> Document:
    """All checkpoints, and a summary."""
    return Document(
        "check",
        blocks=lambda: _blocks(checked),
        records=lambda: _records(checked),
        data=lambda: to_dict(checked),
        checked=tuple(checked),
    )


def _blocks(checked: Sequence[Checked]) -> Iterator[Block]:
    for one in checked:
        yield _unreadable(one) if one.error else _readable(one)
    yield _verdict(checked)


def _unreadable(one: Checked) -> Chapter:
    error = TextLine(f"unreadable  {one.error}", "bold red")
    return Chapter(f"{one.path}  not checked", (Items((error,)),), compact=True)


def _readable(one: Checked) -> Chapter:
    said = text.findings(one.findings)
    counted = text.count(one.num_attentions, "attention module")
    width = max((len(finding.code) for finding, _ in said), default=0)
    counts = Counter((finding.code, finding.message) for finding in one.findings)
    remarks = [
        Remark(finding.severity, message, finding.code, width, counts[finding.code, finding.message])
        for finding, message in said
    ]
    across = max((len(remark.label) for remark in remarks), default=0)
    entries = tuple(replace(remark, label_width=max(across, 7)) for remark in remarks)
    first = next((f for f, _ in said if f.severity != "info" and f.layer), None)
    strange = {f.layer for f in one.findings if f.code == FindingCode.UNRECOGNISED_ATTENTION}
    known = first is not None and one.num_attentions > 0 and first.layer not in strange
    hint = (CodeBlock((_hint(one.path, first, known=known),), "look closer:"),) if first else ()
    return Chapter(f"{one.path}  {counted}{'' if said else '  ok'}", (Items(entries), *hint), compact=True)


def _hint(path: str, finding: Finding, *, known: bool) -> str:
    """The command that shows more of a finding; --layer takes the names of ``known`` modules only."""
    path = clean(path)
    name = shlex.quote(path) if len(path) <= _ASIDE else "PATH"
    layer = shlex.quote(clean(finding.layer or ""))
    shown = f"show --per-head {name} --layer {layer}" if known else f"show {name}"
    command = f"explain --evidence {name} {layer}" if finding.code in AGAINST_WEIGHTS else shown
    return f"qkvinspect {command}"


def _verdict(checked: Sequence[Checked]) -> Conclusion:
    counts = totals(checked)
    unreadable = sum(bool(one.error) for one in checked)
    facts = [text.count(counts["error"], "error"), text.count(counts["warning"], "warning")]
    if unreadable:
        facts.append(f"{unreadable} not readable")
    bad = counts["error"] or unreadable
    style: Style = "bold red" if bad else "yellow" if counts["warning"] else "bold green"
    return Conclusion(f"{text.count(len(checked), 'checkpoint')}: {', '.join(facts)}", style)


def _records(checked: Sequence[Checked]) -> Iterator[Sequence[Cell]]:
    """One a finding; one without a code for a checkpoint in which there is none."""
    yield "path", "severity", "code", "layer", "message"
    for one in checked:
        if one.error:
            yield one.path, "error", "unreadable", None, one.error
        elif not one.findings:
            yield one.path, None, None, None, None
        for finding in one.findings:
            yield one.path, finding.severity, finding.code.value, finding.layer, finding.message
