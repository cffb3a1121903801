"""``show``: every attention module of a checkpoint, with its parts and heads; or every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from qkvinspect.inspection.as_stored import stored_axis, stored_runs
from qkvinspect.inspection.report import Attention, Measure, Part, Report
from qkvinspect.layouts.packing import span
from qkvinspect.render import facts, rows, text
from qkvinspect.render.document import (
    Block,
    Cell,
    Chapter,
    DataTable,
    Document,
    FactList,
    Items,
    Remark,
    TextLine,
    Title,
)
from qkvinspect.render.results import account, stacks

COLUMNS = (
    "layer",
    "layout",
    "part",
    "head",
    "rows",
    "axis",
    "out_features",
    "in_features",
    "norm",
    "nonfinite",
    "bias_norm",
    "dtype",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "num_heads_from",
)


_TOP, _FINDING = 3, 3
"""Lines of what stands above the layers, and of a finding."""


def document(
    report: Report,
    *,
    per_head: bool = False,
    full: bool = False,
    lines: int | None = None,
    tensors: bool = False,
    why: bool = False,
) -> Document:
    """A report.

    Args:
        per_head: with a row for each head; the JSON always has them.
        full: with a table for each layer; else layers that are stored alike share one.
        lines: how many a reader may want to look at: where there are more layers, neighbours share a row.
        tensors: every tensor and where it belongs, in place of the attention modules.
        why: the facts about the heads of each module, in place of its parts.
    """
    if why:
        return _why(report)

    def chapters() -> Iterable[Block]:
        if full or per_head:
            return _layers(report, lambda one: _layer(one, per_head))
        return _stacks(report, lines)

    return Document(
        "show",
        blocks=lambda: _tensor_blocks(report) if tensors else _blocks(report, chapters()),
        records=lambda: account.records(report) if tensors else _records(report, per_head),
        data=lambda: report.to_dict(tensors=tensors),
    )


def _why(report: Report) -> Document:
    """What each source says of each module's heads, and how that was weighed."""
    return Document(
        "show",
        blocks=lambda: _blocks(report, _layers(report, _reasons)),
        records=lambda: facts.records(report),
        data=lambda: facts.added(report),
    )


def summary(report: Report) -> Iterator[Block]:
    """What the checkpoint is, and what else its file holds."""
    first, *others = text.summary(report)
    yield Title(first)
    yield from (TextLine(line, "bold") for line in others)


def findings(report: Report) -> Iterator[Block]:
    """What reading and inspection found, apart from what stands before it."""
    found = text.findings(report.findings)
    if found:
        yield TextLine("")
        yield Items(tuple(Remark(finding.severity, message) for finding, message in found))


def _blocks(report: Report, chapters: Iterable[Block]) -> Iterator[Block]:
    yield from summary(report)
    if not report.attentions:
        yield from account.nothing_found(report)
    yield from chapters
    yield from findings(report)
    yield from account.closing(report)


def _tensor_blocks(report: Report) -> Iterator[Block]:
    yield from summary(report)
    yield TextLine("")
    yield account.table(report)


def _stacks(report: Report, lines: int | None) -> Iterator[Block]:
    found = stacks.stacks(report.attentions)
    room = None if lines is None else lines - _TOP - _FINDING * len(text.findings(report.findings))
    if room is None or stacks.least(found) <= room:
        rows = None if room is None else stacks.rows_for(found, room)
        yield from (_stack(stack, rows) for stack in found)
        return
    from qkvinspect.render.results import families

    groups = families.families(found)
    rows = families.rows_for(groups, room)
    for group in groups:
        yield families.chapter(group, rows) if len(group) > 1 else _stack(group[0], rows)


def _stack(stack: stacks.AlikeLayers, rows: int | None) -> Chapter:
    first, *others = stack.layers
    return stacks.chapter(stack, rows) if others else _chapter(first, False, stack.unlike)


def _layers(report: Report, of_layer: Callable[[Attention], Iterable[Block]]) -> Iterator[Chapter]:
    for attention in report.attentions:
        yield Chapter(text.layer(attention.layer), tuple(of_layer(attention)))


def _chapter(attention: Attention, per_head: bool, unlike: str = "") -> Chapter:
    said = (TextLine(unlike, "yellow"),) if unlike else ()
    return Chapter(text.layer(attention.layer), (*said, *_layer(attention, per_head)))


def _reasons(attention: Attention) -> Iterator[Block]:
    yield FactList((text.layout(attention), text.stored(attention), text.heads(attention)))
    yield facts.table(attention)


def _layer(attention: Attention, per_head: bool) -> Iterator[Block]:
    yield FactList((text.layout(attention), text.stored(attention), text.heads(attention)))
    if attention.parts:
        yield measures(rows.PART_COLUMNS, rows.part_rows(attention))
    if per_head and attention.heads:
        yield measures(rows.head_columns(attention), rows.head_rows(attention))


def measures(columns: tuple[str, ...], lines: Iterable[Sequence[str]]) -> DataTable:
    """A table whose last column counts values that are not finite: rows with any stand out."""
    right = tuple(column.endswith("norm") or column in ("non-finite", "head", "kv head", "rank") for column in columns)
    return DataTable(columns, list(lines), right, lambda cells: cells[-1] not in ("0", "-"))


def _records(report: Report, per_head: bool) -> Iterator[Sequence[Cell]]:
    """One a part; with per_head one a head."""
    yield COLUMNS
    for attention in report.attentions:
        for part in attention.parts:
            yield from _of_part(attention, part, per_head and attention.heads is not None)


def _of_part(attention: Attention, part: Part, per_head: bool) -> Iterator[Sequence[Cell]]:
    heads = attention.heads
    layout = attention.layout.id if attention.layout else None
    sizes = (heads.num_heads, heads.num_kv_heads, heads.width(part.name)) if heads else (None, None, None)
    tail = (part.weight.dtype.name, *sizes, attention.heads_from)
    if not per_head:
        bias = part.bias_measured.norm if part.bias_measured else None
        yield attention.layer, layout, part.name, None, *_cells(part.rows, part, part.measured), bias, *tail
        return
    for head, run in enumerate(part.heads):
        measure = part.head_measures[head] if part.head_measures else None
        yield attention.layer, layout, part.name, head, *_cells((run,), part, measure), None, *tail


def _cells(runs: Sequence[range], part: Part, measure: Measure | None) -> Sequence[Cell]:
    values = (measure.norm, measure.nonfinite) if measure else (None, None)
    return (
        " ".join(map(span, stored_runs(part, runs))),
        stored_axis(part),
        sum(map(len, runs)),
        part.in_features,
        *values,
    )
