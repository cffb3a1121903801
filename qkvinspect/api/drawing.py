"""Results as rows, as DataFrames and as HTML: ``Tabular`` offers them, and here it is known what each result has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qkvinspect.analysis import Analysis
from qkvinspect.api.checkpoints import OpenCheckpoint, inspect
from qkvinspect.api.findings import Findings
from qkvinspect.api.layers import Layer
from qkvinspect.checkpoint import Checkpoint
from qkvinspect.checks.result import Checked
from qkvinspect.diff.difference import Difference
from qkvinspect.errors import UsageError
from qkvinspect.inspection import Options
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.render.document import Cell, Document
from qkvinspect.render.results import analyze, check, diff, show
from qkvinspect.tabular import Tabular

if TYPE_CHECKING:
    from pandas import DataFrame


def records(result: Tabular, *, per_head: bool) -> Iterator[dict[str, object]]:
    """The rows of ``--format csv`` by the names of their columns."""
    columns, rows = _table(result, per_head=per_head)
    for row in rows:
        yield dict(zip(columns, row, strict=True))


def frame(result: Tabular, *, per_head: bool) -> DataFrame:
    """The same as a DataFrame, with its columns where there are no rows, too.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        hint = "pip install pandas; .records() gives the same rows as dicts"
        raise UsageError("a DataFrame needs pandas, which is not installed", hint=hint) from error
    columns, rows = _table(result, per_head=per_head)
    return pandas.DataFrame([tuple(row) for row in rows], columns=columns)


def _table(result: Tabular, *, per_head: bool) -> tuple[list[str], list[Sequence[Cell]]]:
    """The names of the columns, and the rows."""
    columns, *rows = _document(result, per_head=per_head).records()
    return [str(column) for column in columns], rows


def html(result: Tabular) -> str:
    """What a notebook shows, in light and in dark: everything from a file is text in it."""
    from qkvinspect.render.html import embedded

    match result:
        case OpenCheckpoint():
            return embedded.report(inspect(result, Options(norms=False)))
        case Report():
            return embedded.report(result)
        case Layer():
            return embedded.layer(result.report, result.checkpoint)
        case Attention():
            return embedded.layer(result, None)
        case Difference():
            return embedded.difference(result)
        case _:
            return embedded.document(_document(result, per_head=False))


def _document(result: Tabular, *, per_head: bool) -> Document:
    match result:
        case Report():
            return show.document(result, per_head=per_head)
        case OpenCheckpoint():
            return show.document(inspect(result, Options(norms=False)), per_head=per_head)
        case Layer():
            return show.document(_alone(result.report), per_head=per_head)
        case Attention():
            return show.document(_alone(result), per_head=per_head)
        case Difference():
            return diff.document(result, per_head=per_head)
        case Analysis():
            return analyze.document(result, per_head=per_head)
        case Findings():
            return check.document([Checked(result.path, tuple(result), result.num_attentions)])
        case _:
            raise UsageError(f"a {type(result).__name__} has no rows")


def _alone(attention: Attention) -> Report:
    return Report(Checkpoint("", "", 0, {}), (attention,), ())
