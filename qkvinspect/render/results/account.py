"""What a checkpoint holds besides the attention that was found: its other tensors, and what was not understood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.inspection.report import Report
from qkvinspect.render import text
from qkvinspect.render.document import Block, Cell, CodeBlock, DataTable, TextLine

TENSOR_COLUMNS = ("tensor", "shape", "dtype", "belongs to")

_GROUPS = 12
"""Groups of tensors that are shown where no attention was found."""

_NAMED = 4
_ROWS = 3
"""Rows that are shown to be completed: modules of one stack share theirs."""

_TELL = """If some of it is attention, say which, in one run with --layout '{ qkv = "NAME.weight", heads = 8 }' or with
q, k and v apart, or for good in a [[layout]] row of qkvinspect.toml."""


def closing(report: Report) -> Iterator[Block]:
    """What looks like attention and was not understood, and what to do about it; nothing where there is none."""
    account = report.account
    if account is None:
        return
    for some in account.copies:
        count = text.count(len(some.tensors), "projection")
        yield TextLine(
            f"{count} of {text.layer(some.module)} are copies under names without dots, as averages of weights are "
            f"kept, of those that {text.layer(some.of)} is one of: nothing more is said of them"
        )
    if not account.unrecognised:
        return
    tensors = sum(len(found.tensors) for found in account.unrecognised)
    modules = [text.layer(found.module) for found in account.unrecognised]
    named = ", ".join(modules[:_NAMED]) + (", ..." if len(modules) > _NAMED else "")
    where = text.count(len(modules), "module")
    said = "looks like attention and was" if tensors == 1 else "look like attention and were"
    yield TextLine(f"{text.count(tensors, 'tensor')} in {where} {said} not understood: {named}")
    told = [found for found in account.unrecognised if found.module not in report.undecoded]
    rows = list(dict.fromkeys(found.suggestion for found in told if found.suggestion))
    if rows:
        yield CodeBlock(
            tuple("\n".join(rows[:_ROWS]).split("\n")),
            title="To say what they are, complete this and put it into qkvinspect.toml:",
            indent=2,
            wrapped=True,
        )
    first = {found.no_row: text.layer(found.module) for found in reversed(told) if found.no_row}
    for why, module in list(reversed(first.items()))[:_ROWS]:
        yield TextLine(f"No row of qkvinspect.toml can say what {module} is: {why}.")


def nothing_found(report: Report) -> Iterator[Block]:
    """The tensors of a checkpoint without attention, alike ones together, the nearest to attention first."""
    yield TextLine(
        "No attention was found in it: no tensors have the names and shapes of a known layout, or of a pattern."
    )
    groups = report.account.groups() if report.account else []
    if groups:
        lines = [f"{group.count:>5} x {group.name} {text.shape(group.shape)}" for group in groups[:_GROUPS]]
        if len(groups) > _GROUPS:
            lines.append(f"and {text.count(len(groups) - _GROUPS, 'other group')}: --tensors lists all")
        title = "It holds, the nearest to attention first (# is a number):"
        yield CodeBlock(tuple(lines), title, indent=2, wrapped=True)
        if not report.undecoded and (report.account is None or not report.account.unrecognised):
            yield TextLine(" ".join(_TELL.split()))


def table(report: Report) -> DataTable:
    """Every tensor, its shape, its dtype and where it belongs."""
    return DataTable(TENSOR_COLUMNS, list(_tensors(report)), (False,) * len(TENSOR_COLUMNS), names=(0,))


def records(report: Report) -> Iterator[Sequence[Cell]]:
    """The same, as it is written for programs."""
    yield [column.replace(" ", "_") for column in TENSOR_COLUMNS]
    yield from _tensors(report)


def _tensors(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Every tensor, under TENSOR_COLUMNS."""
    if report.account is None:
        return
    for name, status in report.account.statuses().items():
        weight = report.weights[name]
        yield name, text.shape(weight.shape), weight.dtype.name, status
