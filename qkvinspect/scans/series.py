"""Read the rows of a scan as series: one figure of one part or head, from step to step."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import TextIO, TypeGuard

from qkvinspect.analysis.columns import BY_KEY
from qkvinspect.errors import UsageError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.parsed import is_mapping
from qkvinspect.scans.rows import FLOATS, HEAD
from qkvinspect.small_files import opened

_LINE = 1 << 20
"""Characters that no line of a scan has."""

_GREATEST = 1e100
"""Whose square and sums are still numbers; a norm of float32 values is below 1e45."""

_HINT = "trend reads what `qkvinspect scan -o FILE.jsonl` wrote"

_PARTS = ("q", "k", "v", HEAD)


class Key(NamedTuple):
    """Whose figure it is.

    Attributes:
        head: None for the whole part.
    """

    layer: str
    part: str
    head: int | None
    column: str


@dataclass(slots=True)
class Series:
    """A figure at each step, in the order of the steps; only finite values."""

    key: Key
    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def sort(self) -> None:
        """Order by step; of two values at a step the first stays."""
        if all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            return
        known: dict[int, float] = {}
        for step, value in zip(self.steps, self.values, strict=True):
            known.setdefault(step, value)
        self.steps = array("q", sorted(known))
        self.values = array("d", (known[step] for step in self.steps))


@dataclass(slots=True)
class TrainingRun:
    """All that rows tell of a training run.

    Attributes:
        layers: in the order of the files.
        steps: of all checkpoints.
        origins: kinds of sources of steps, such as "checkpoint:global_step" or "name:".
        nonfinite: of (layer, part): the first step with values that are not finite, and how many.
        errors: checkpoints that could not be read, with why.
        stepless: checkpoints without a step.
        twice: steps that several checkpoints have.
    """

    series: dict[Key, Series] = field(default_factory=dict[Key, Series])
    layers: dict[str, None] = field(default_factory=dict[str, None])
    steps: dict[int, str] = field(default_factory=dict[int, str])
    origins: dict[str, int] = field(default_factory=dict[str, int])
    nonfinite: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict[tuple[str, str], tuple[int, int]])
    errors: dict[str, str] = field(default_factory=dict[str, str])
    stepless: dict[str, None] = field(default_factory=dict[str, None])
    twice: dict[int, None] = field(default_factory=dict[int, None])

    @property
    def columns(self) -> list[str]:
        """The figures that there are."""
        return [key for key in ("norm", "bias_norm", *BY_KEY) if any(one.column == key for one in self.series)]

    def of(self, column: str, *, heads: bool) -> Iterator[Series]:
        """Series of a figure, by layer and part: those of heads, or those of whole parts."""
        order = {layer: number for number, layer in enumerate(self.layers)}
        chosen = [key for key in self.series if key.column == column and (key.head is not None) == heads]
        chosen.sort(key=lambda key: (order[key.layer], _PARTS.index(key.part), key.head or 0))
        yield from (self.series[key] for key in chosen)


def read(paths: Sequence[Path], layers: Sequence[str] = ()) -> TrainingRun:
    """The rows of all these files together.

    Args:
        layers: globs; only these layers. Empty: all.

    Raises:
        UsageError: a file cannot be read, a line is no row of a scan, or no row has a step.
    """
    run = TrainingRun()
    for path in paths:
        try:
            with TextIOWrapper(opened(path, hint=_HINT), encoding="utf-8") as file:
                for number, row in _rows(file, path):
                    _add(run, row, f"{path}: line {number}", layers)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise UsageError(f"cannot be read: {reason}", file=str(path), hint=_HINT) from error
    if layers and not (run.steps or run.stepless or run.errors):
        raise UsageError(f"no layer is called {' or '.join(layers)}", file=", ".join(map(str, paths)))
    if not run.steps:
        raise UsageError(
            "no row has a step" if run.stepless or run.errors else "holds no rows",
            file=", ".join(map(str, paths)),
            hint="name checkpoints such as step=1000.pt, or keep global_step in them",
        )
    for series in run.series.values():
        series.sort()
    return run


def _rows(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    lines = iter(lambda: file.readline(_LINE), "")  # never more of a line than any row has
    for number, line in enumerate(lines, 1):
        try:
            row: object = json.loads(line) if len(line) < _LINE else None
        except (ValueError, RecursionError):
            row = None
        if not is_mapping(row):
            raise UsageError("is no row of a scan", file=f"{path}: line {number}", found=line.strip()[:60] or "nothing")
        yield number, row


def _add(run: TrainingRun, row: dict[str, object], where: str, layers: Sequence[str]) -> None:
    checkpoint, step, error = _text(row, "checkpoint", where), row.get("step"), row.get("error")
    if checkpoint is None:
        raise UsageError("has no checkpoint", file=where)
    if step is not None and not _is_count(step):
        raise _wrong("step", where, step)
    if isinstance(error, str):
        run.errors[checkpoint] = error
        return
    if step is None:
        run.stepless[checkpoint] = None
        return
    layer, part, head = _text(row, "layer", where), _text(row, "part", where), row.get("head")
    if layer is None or part not in _PARTS:
        raise _wrong("part" if layer is not None else "layer", where, part if layer is not None else layer)
    if (head is not None or part == HEAD) and not _is_count(head):
        raise _wrong("head", where, head)
    if layers and not any(fnmatchcase(layer, glob) for glob in layers):
        return
    if run.steps.setdefault(step, checkpoint) != checkpoint:
        run.twice[step] = None
    run.layers.setdefault(layer)
    origin = _text(row, "step_from", where) or ""
    run.origins[_kind(origin)] = run.origins.get(_kind(origin), 0) + 1
    _take(run, row, step, (layer, part, head), where)


def _take(run: TrainingRun, row: dict[str, object], step: int, place: tuple[str, str, int | None], where: str) -> None:
    count = row.get("nonfinite")
    if count is not None and not _is_count(count):
        raise _wrong("nonfinite", where, count)
    if count and place[2] is None:
        first = run.nonfinite.get(place[:2])
        if first is None or step < first[0]:
            run.nonfinite[place[:2]] = step, count
    for column in FLOATS & row.keys():
        value = _number(row[column], column, where)
        if value is not None and place[1] == HEAD and column not in BY_KEY:
            raise UsageError(f"{column} is no figure of a head's row", file=where, found=repr(value)[:60])
        if value is not None and isfinite(value):
            key = Key(*place, column)
            series = run.series.get(key) or run.series.setdefault(key, Series(key))
            series.steps.append(step)
            series.values.append(value)


def _kind(origin: str) -> str:
    """Names have their number left out; epochs are no steps."""
    return ("epochs" if "epoch" in origin.lower() else "steps") if origin else "unknown"


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 62


def _number(value: object, column: str, where: str) -> float | None:
    if value is None or value in ("nan", "inf", "-inf"):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(column, where, value)
    if isinstance(value, float) and not isfinite(value):
        return None
    if abs(value) > _GREATEST:
        raise UsageError(f"{column} is too large to be summed up", file=where, expected=f"at most {_GREATEST:g}")
    return float(value)


def _text(row: dict[str, object], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(key, where, value)
    return value


def _wrong(key: str, where: str, value: object) -> UsageError:
    return UsageError(f"{key} is not what a scan writes", file=where, found=repr(value)[:60])
