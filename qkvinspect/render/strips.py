"""A stored tensor as a strip: which of its rows or columns are Q, K and V, and of which head each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts.packing import span
from qkvinspect.render import text
from qkvinspect.weights.weight import Weight

_MOST_BANDS = 400
"""More of them are narrower than a pixel: then the first few are drawn, as large as they can be."""

_SAMPLE = 24
"""Bands that are drawn of those that are too many."""

NOTHING = ""
"""The part of rows that are no part's."""


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring rows (or columns) that belong to one head of a part.

    Attributes:
        part: ``q``, ``k``, ``v``, another part, or NOTHING.
        head: None where heads are unknown.
    """

    part: str
    start: int
    stop: int
    head: int | None = None

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Strip:
    """One stored tensor along the axis that its parts share.

    Attributes:
        name: of the tensor below its layer.
        parts: those that it holds.
        axis: of the stored tensor.
        size: along that axis.
        bands: in order, without gaps.
        drawn: where the last of them ends: less than ``size`` where there are too many to draw.
    """

    name: str
    weight: Weight
    parts: tuple[Part, ...]
    axis: int
    size: int
    bands: tuple[Band, ...]
    drawn: int

    @property
    def axis_name(self) -> str:
        return "columns" if self.axis else "rows"

    def runs(self) -> tuple[Band, ...]:
        """Neighbouring bands of one part as one."""
        found: list[Band] = []
        for band in self.bands:
            if found and found[-1].part == band.part:
                found[-1] = Band(band.part, found[-1].start, band.stop)
            else:
                found.append(Band(band.part, band.start, band.stop))
        return tuple(found)


def strips(attention: Attention) -> tuple[Strip, ...]:
    """The stored tensors of a layer in their order; none where the parts cannot be told."""
    found = [_strip(attention, weight) for weight in attention.weights]
    return tuple(strip for strip in found if strip is not None)


def _strip(attention: Attention, weight: Weight) -> Strip | None:
    parts = [part for part in (*attention.parts, *attention.others) if part.weight.name == weight.name]
    if not parts:
        return None
    size = weight.as_shape(parts[0].orientation)[0]
    heads = attention.heads is not None
    bands = list(_filled(sorted(_bands(parts, heads), key=lambda band: band.start), size))
    shown = bands if len(bands) <= _MOST_BANDS else bands[:_SAMPLE]
    name = weight.name.removeprefix(f"{attention.layer}.")
    return Strip(name, weight, tuple(parts), parts[0].axis, size, tuple(shown), shown[-1].stop if shown else size)


def _bands(parts: Sequence[Part], heads: bool) -> Iterator[Band]:
    for part in parts:
        for head, rows in enumerate(part.heads):
            number = head if heads else None
            if rows.step == 1:
                yield Band(part.name, rows.start, rows.stop, number)
            else:
                yield from (Band(part.name, row, row + 1, number) for row in rows)


def _filled(bands: Sequence[Band], size: int) -> Iterator[Band]:
    """With what lies between them, and without rows that two parts share."""
    end = 0
    for band in bands:
        if band.start > end:
            yield Band(NOTHING, end, band.start)
        if band.stop > end:
            yield Band(band.part, max(band.start, end), band.stop, band.head)
            end = band.stop
    if end < size:
        yield Band(NOTHING, end, size)


def title(part: str) -> str:
    """What a band is called: by its part, if it has one."""
    return text.part(part) or "other rows"


def ranges(part: Part) -> str:
    """As the stored tensor is sliced: ``[0:512]``, ``[:, 96:192]``; the first of many, and how many there are."""
    before = ":, " * part.axis
    shown = ", ".join(f"[{before}{span(run)}]" for run in part.rows[:3])
    return shown if len(part.rows) <= 3 else f"{shown}, ... {len(part.rows)} runs"


def heads(attention: Attention, part: Part) -> str:
    """Where each head of a part begins: ``8 x 64, head h at 64*h``."""
    if attention.heads is None:
        return f"unknown{_possible(attention)}"
    count, width = len(part.heads), len(part.heads[0]) if part.heads else 0
    said = f"{count} x {width}"
    if count < 2:
        return said
    steps = {other.start - one.start for one, other in pairwise(part.heads)}
    if len(steps) > 1 or {run.step for run in part.heads} != {1}:
        return f"{said}, each its own rows"
    first, step = part.heads[0].start, steps.pop()
    return f"{said}, head h at {f'{first} + ' if first else ''}{step}*h"


def _possible(attention: Attention) -> str:
    few = ", ".join(map(str, attention.possible_heads[:8]))
    return f"; possible: {few}" if few else ""


def stored(strip: Strip) -> str:
    """``in_proj_weight [1536, 512] float32``."""
    weight = strip.weight
    kept = weight.dtype.name if weight.encoding is None else weight.encoding.label
    return text.clean(f"{strip.name} {text.shape(weight.shape)} {kept}")
