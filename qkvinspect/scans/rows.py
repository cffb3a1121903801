"""Scan one checkpoint into rows, one for each layer, part and head, as lines of JSON."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from qkvinspect.analysis.columns import BY_KEY
from qkvinspect.errors import QkvInspectError, UsageError, clean, without_secrets
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.as_stored import stored_axis, stored_runs
from qkvinspect.inspection.json_values import number, number_or_none
from qkvinspect.inspection.report import Attention, Measure, Part, Report
from qkvinspect.layouts.packing import span
from qkvinspect.scans.files import stamp
from qkvinspect.scans.steps import in_name, step_of
from qkvinspect.sources import is_remote
from qkvinspect.sources.urls import shown

HEAD = "head"
"""The part of rows that hold figures of ``analyze``: those of a query head, and of the K and V that it uses."""

FIRST = ("checkpoint", "step", "step_from", "layer", "part", "head", "norm", "nonfinite")
LAST = "error"

Row = dict[str, object]

SHOWN: Mapping[str, Callable[[Attention, Part], object]] = {
    "bias_norm": lambda _, part: number(part.bias_measured.norm) if part.bias_measured else None,
    "bias_nonfinite": lambda _, part: part.bias_measured.nonfinite if part.bias_measured else None,
    "layout": lambda attention, _: attention.layout.id if attention.layout else None,
    "rows": lambda _, part: " ".join(map(span, stored_runs(part, part.rows))),
    "axis": lambda _, part: stored_axis(part),
    "out_features": lambda _, part: part.shape[0],
    "in_features": lambda _, part: part.shape[1],
    "dtype": lambda _, part: part.weight.dtype.name,
    "num_heads": lambda attention, _: attention.heads.num_heads if attention.heads else None,
    "num_kv_heads": lambda attention, _: attention.heads.num_kv_heads if attention.heads else None,
    "head_dim": lambda attention, part: attention.heads.width(part.name) if attention.heads else None,
    "num_heads_from": lambda attention, _: attention.heads_from,
}
"""Columns of ``show``: of whole parts."""

TEXTS = frozenset({"checkpoint", "step_from", "layer", "part", "layout", "rows", "dtype", "num_heads_from", LAST})
FLOATS = frozenset({"norm", "bias_norm", *BY_KEY})


@dataclass(frozen=True, slots=True)
class ScanJob:
    """The request for every checkpoint of a scan.

    Attributes:
        columns: beside norms; keys of SHOWN and of ``analysis.COLUMNS``.
        folder: what paths are relative to; workers elsewhere have a folder of their own.
    """

    columns: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    container: str | None = None
    config: str | None = None
    folder: str = ""
    limits: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def fields(self) -> tuple[str, ...]:
        """The keys of every row, in their order."""
        return (*FIRST, *self.columns, LAST)


@dataclass(frozen=True, slots=True)
class Scanned:
    """The result of one checkpoint.

    Attributes:
        stamp: of its files before they were read.
        lines: its rows as lines of JSON, compressed.
    """

    path: str
    stamp: str
    step: int | None
    error: str | None
    lines: bytes

    def rows(self) -> bytes:
        return zlib.decompress(self.lines)


def parse_columns(text: str | None) -> tuple[str, ...]:
    """Keys with commas between them.

    Raises:
        UsageError: there is none of that name.
    """
    keys = tuple(dict.fromkeys(key.strip() for key in (text or "").split(",") if key.strip()))
    known = [*SHOWN, *BY_KEY]
    for key in keys:
        if key not in known:
            raise UsageError(f"there is no column {key!r}", hint=f"one of {', '.join(known)}")
    return keys


def scan_one(path: str, job: ScanJob) -> Scanned:
    """Open and measure a checkpoint; whatever goes wrong is in its one row."""
    place = path if is_remote(path) else os.path.join(job.folder, path)
    before = stamp(place)
    step, origin = in_name(path) or (None, None)
    error: str | None = None
    found: list[Row] = []
    try:
        with open_checkpoint(place, container=job.container, config=job.config, limits=job.limits) as checkpoint:
            step, origin = step_of(checkpoint, path)
            report = inspect(checkpoint, job.options)
            found = list(_rows(report, job.columns))
        if not found:
            error = "no attention was found in it"
    except QkvInspectError as wrong:
        wrong.file = None if wrong.file == shown(place) else wrong.file  # which is in the row
        error = str(wrong)
    except Exception as wrong:  # one file must not end the scan of a million
        error = f"{type(wrong).__name__}: {without_secrets(clean(str(wrong)))[:300]}"
    return _scanned(path, before, (step, origin), error, [{}] if error is not None else found, job)


def lost(path: str, why: str, job: ScanJob) -> Scanned:
    """The result for a checkpoint that kills its workers."""
    return _scanned(path, "", in_name(path) or (None, None), why, [{}], job)


def _scanned(
    path: str, before: str, at: tuple[int | None, str | None], error: str | None, rows: Sequence[Row], job: ScanJob
) -> Scanned:
    always: Row = {"checkpoint": shown(path), "step": at[0], "step_from": at[1], LAST: error}
    empty = dict[str, object].fromkeys(job.fields)
    whole = (json.dumps(empty | row | always) for row in rows)
    return Scanned(path, before, at[0], error, zlib.compress("".join(f"{line}\n" for line in whole).encode(), 1))


def _rows(report: Report, columns: Sequence[str]) -> Iterator[Row]:
    from qkvinspect.analysis import LayerFigures, analyze

    shown = [key for key in columns if key in SHOWN]
    asked = [key for key in columns if key in BY_KEY]
    needed = [BY_KEY[key] for key in asked]
    figures: Iterator[LayerFigures] | None = analyze(report, columns=needed) if asked else None
    for attention in report.attentions:
        for part in attention.parts:
            first: Row = {"layer": attention.layer, "part": part.name}
            yield first | _measure(part.measured) | {key: SHOWN[key](attention, part) for key in shown}
            if attention.heads is not None:
                for head, measure in enumerate(part.head_measures):
                    yield first | {"head": head} | _measure(measure)
        for one in next(figures).heads if figures else ():
            values = {key: BY_KEY[key].of(one) for key in asked}
            place: Row = {"layer": attention.layer, "part": HEAD, "head": one.head}
            yield place | {key: number_or_none(value) for key, value in values.items()}


def _measure(measure: Measure | None) -> Row:
    return {} if measure is None else {"norm": number(measure.norm), "nonfinite": measure.nonfinite}
