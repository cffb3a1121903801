"""What a checkpoint holds besides the attention that was found: its other tensors, and what was not understood."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.errors import clean
from qkvinspect.inspection.report import Report
from qkvinspect.render import text

TENSOR_COLUMNS = ("tensor", "shape", "dtype", "belongs to")

_GROUPS = 12
"""Groups of tensors that are shown where no attention was found."""

_NAMED = 4


def closing(report: Report) -> Iterator[str]:
    """What looks like attention and was not understood, and what to do about it; nothing where there is none."""
    account = report.account
    if account is None or not account.unrecognised:
        return
    tensors = sum(len(found.tensors) for found in account.unrecognised)
    modules = [text.layer(found.module) for found in account.unrecognised]
    named = ", ".join(modules[:_NAMED]) + (", ..." if len(modules) > _NAMED else "")
    where = text.count(len(modules), "module")
    yield f"{text.count(tensors, 'tensor')} in {where} look like attention and were not understood: {named}"
    yield "To say what they are, complete this and put it into qkvinspect.toml:"
    yield from (f"  {clean(line)}" for line in account.unrecognised[0].suggestion.split("\n"))


def nothing_found(report: Report) -> Iterator[str]:
    """The tensors of a checkpoint without attention, alike ones together, the nearest to attention first."""
    yield "No attention was found in it: no tensors have the names and shapes of a known layout, or of a pattern."
    groups = report.account.groups() if report.account else []
    if groups:
        yield "It holds, the nearest to attention first (# is a number):"
    for group in groups[:_GROUPS]:
        yield f"  {group.count:>5} x {clean(group.name)} {text.shape(group.shape)}"
    if len(groups) > _GROUPS:
        yield f"  and {text.count(len(groups) - _GROUPS, 'other group')}: --tensors lists all"


def tensor_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Every tensor, under TENSOR_COLUMNS."""
    if report.account is None:
        return
    for name, status in report.account.statuses().items():
        weight = report.weights[name]
        yield name, text.shape(weight.shape), weight.dtype.name, status
