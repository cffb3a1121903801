"""Scales of a quantised weight are zero where its codes are not, or negative.

A scale that is zero makes zeros of all values that share it, and a quantiser writes one only where all of these are. A
negative one turns their signs: no quantiser of floats or of bitsandbytes writes any; those of integers may choose the
sign, and then an eighth of the scales and more have either. The finding names the tensor of scales, the heads, and the
first place. Codes are read only of the rows in which a scale is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkvinspect.checks.damage.stored_bytes import overlap
from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.checks.damage.scale_table import OddScales, ScaleTable

CODE: FindingCode = FindingCode.WRONG_SCALES

_LISTED = 4096
"""Scales whose heads are looked up."""


def find(subject: Subject) -> Iterator[Fault]:
    seen: set[str] = set()
    for attention in subject.attentions:
        for weight in (*attention.weights, *((attention.out,) if attention.out else ())):
            if weight.encoding is None or weight.why or weight.name in seen:
                continue
            seen.add(weight.name)
            yield from ((attention.layer, text) for text in _wrong(attention, weight))


def _wrong(attention: Attention, weight: Weight) -> Iterator[str]:
    from qkvinspect.checks.damage.scale_table import scale_tables, wrong_scales

    if weight.encoding is None:
        return
    for table in scale_tables(weight.encoding):
        zero, negative = wrong_scales(table)
        if len(zero.rows):
            yield f"{_said(attention, weight, table, zero)} zero where the codes are not: these values are lost"
        if len(negative.rows):
            yield f"{_said(attention, weight, table, negative)} negative, which turns the signs of these values"


def _said(attention: Attention, weight: Weight, table: ScaleTable, odd: OddScales) -> str:
    """``2 scales of k_proj.weight_scale (K, head 0: the first for row 3, columns 48:96) are``."""
    count = len(odd.rows)
    name = table.info.name.removeprefix(f"{attention.layer}.")
    places = [table.place(int(row), int(group)) for row, group in zip(odd.rows[:_LISTED], odd.groups, strict=False)]
    heads = [
        f"{part.name.upper()}, {heads_named(some)}" if len(part.heads) > 1 else part.name.upper()
        for part in (*attention.parts, *((attention.output,) if attention.output else ()))
        if part.weight.name == weight.name and (some := _heads(part, places))
    ]
    rows, cols = places[0]
    first = f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start}:{rows.stop}"
    first += f", columns {cols.start}:{cols.stop}" if len(cols) < weight.as_shape("out_in")[1] else ""
    where = f"{'; '.join(heads)}: " if heads else ""
    more = "the first for " if count > 1 else ""
    number = f"{count} scales" if count > 1 else "a scale"
    return f"{number} of {name} ({where}{more}{first}) {'are' if count > 1 else 'is'}"


def _heads(part: Part, places: list[tuple[range, range]]) -> list[int]:
    """The heads that any of the places are of: rows, or the columns of an output projection, or the reverse."""
    reached = [cols if part.axis else rows for rows, cols in places]
    return [head for head, own in enumerate(part.heads) if any(overlap(own, some) for some in reached)]
