"""An output projection or a bias does not fit, or inputs of K and V differ.

The output projection takes the heads of V side by side: num_heads times v_head_dim columns. A bias has an entry for
every row of its weight.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.notices import about_inputs

CODE: FindingCode = FindingCode.PROJECTION_SHAPE


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.attentions:
        yield from ((attention.layer, finding.message) for finding in about_inputs(attention))
        layout, heads = attention.layout, attention.heads
        if attention.out is not None and layout is not None and heads is not None and len(attention.out.shape) > 1:
            taken = attention.out.as_shape(layout.out_orientation)[1]
            given = heads.num_heads * heads.width("v")
            if taken != given and attention.part("v") is not None:
                sizes = f"{heads.num_heads} heads of V of {heads.width('v')} give {given}"
                yield attention.layer, f"{attention.out.name} takes {taken} values, but {sizes}"
        for part in attention.parts:
            entries = sum(map(len, part.bias_heads))
            if part.bias is not None and entries != part.shape[0]:
                text = f"{part.name.upper()} has {part.shape[0]} rows, its bias {entries} entries"
                yield attention.layer, f"{text} ({part.bias.name})"
