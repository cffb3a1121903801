"""The numbers of a report as flat rows, for every format that has columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.inspection.report import Attention, Measure, Part
from qkvinspect.layouts.packing import Geometry
from qkvinspect.render import text

PART_COLUMNS = ("part", "shape", "rows", "norm", "bias norm", "non-finite")


def part_rows(attention: Attention) -> Iterator[tuple[str, ...]]:
    """One row each for Q, K and V, under PART_COLUMNS."""
    for part in attention.parts:
        yield (
            part.name.upper(),
            text.shape(part.shape),
            text.ranges(part.rows, part.axis),
            text.norm(part.measured),
            "no bias" if part.bias is None else text.norm(part.bias_measured),
            nonfinite(part.measured, part.bias_measured),
        )


def head_columns(attention: Attention) -> tuple[str, ...]:
    """The columns of ``head_rows``."""
    parts = [f"{part.name.upper()} {what}" for part in attention.parts for what in ("rows", "norm")]
    grouped = attention.heads is not None and attention.heads.num_kv_heads != attention.heads.num_heads
    rank = ("rank",) if _of_ranks(attention) else ()
    return ("head", *(("kv head",) if grouped else ()), *rank, *parts, "non-finite")


def head_rows(attention: Attention) -> Iterator[tuple[str, ...]]:
    """One row a query head; the K and V of a shared kv head stand in the row of each head that uses it."""
    geometry = attention.heads
    if geometry is None:
        return
    grouped = geometry.num_kv_heads != geometry.num_heads
    for head in range(geometry.num_heads):
        kv = geometry.kv_head(head)
        either = sorted({kv, head % geometry.num_kv_heads}) if geometry.tiled is None else [kv]
        picked = [head_of(part, geometry, head) for part in attention.parts]
        cells = [
            cell
            for part, (run, measure) in zip(attention.parts, picked, strict=True)
            for cell in (
                (text.ranges([run], part.axis), text.norm(measure))
                if part.name == "q" or len(either) == 1
                else ("not told", "-")
            )
        ]
        first = attention.parts[0]
        held = first.head_ranks[head if first.name == "q" else kv] if _of_ranks(attention) else ()
        rank = (", ".join(map(str, held)),) if held else ()
        yield (
            str(head),
            *((" or ".join(map(str, either)),) if grouped else ()),
            *rank,
            *cells,
            nonfinite(*(m for _, m in picked)),
        )


def _of_ranks(attention: Attention) -> bool:
    """Whether it was joined from the files of ranks."""
    return bool(attention.parts and attention.parts[0].head_ranks)


def head_of(part: Part, geometry: Geometry, head: int) -> tuple[range, Measure | None]:
    """The rows and measure of the head of a part that query head ``head`` uses."""
    index = head if part.name == "q" else geometry.kv_head(head)
    return part.heads[index], part.head_measures[index] if part.head_measures else None


def nonfinite(*measures: Measure | None) -> str:
    known: Sequence[Measure] = [measure for measure in measures if measure is not None]
    return str(sum(measure.nonfinite for measure in known)) if known else "-"
