"""A number is not the one that the project's settings expect.

The ``check.expect`` tables of qkvinspect.toml or pyproject.toml give, for layers by glob, num_layers, embed_dim,
num_heads, num_kv_heads, head_dim, dtype, layout, and ranges of norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from qkvinspect.checks.policy import Expectation
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention

CODE: FindingCode = FindingCode.EXPECTED


def find(subject: Subject) -> Iterator[Fault]:
    for glob, expectation in subject.expect:
        layers = [one for one in subject.attentions if fnmatchcase(one.layer, glob)]
        if expectation.num_layers is not None and not subject.report.selected:
            if len(layers) != expectation.num_layers:
                yield None, f"{len(layers)} attention modules match {glob!r}, expected {expectation.num_layers}"
        elif not layers and not subject.report.selected:
            yield None, f"no attention module matches {glob!r}, for which numbers are expected"
        for attention in layers:
            for text in _differences(attention, expectation):
                yield attention.layer, text


def _differences(attention: Attention, expected: Expectation) -> Iterator[str]:
    heads = attention.heads
    found = {
        "embed_dim": attention.embed_dim,
        "num_heads": heads.num_heads if heads else None,
        "num_kv_heads": heads.num_kv_heads if heads else None,
        "head_dim": heads.width("q") if heads else None,
        "dtype": attention.dtype,
        "layout": attention.layout.id if attention.layout else None,
    }
    for key, value in found.items():
        wanted = getattr(expected, key)
        if wanted is not None and value != wanted:
            yield f"{key} is {'unknown' if value is None else value}, expected {wanted}"
    for part in attention.parts:
        for bounds in (expected.norm, getattr(expected, f"{part.name}_norm")):
            norm = part.measured.norm if part.measured else None
            if bounds is not None and not (norm is not None and bounds[0] <= norm <= bounds[1]):
                said = "unknown" if norm is None else f"{norm:.6g}"
                yield f"the norm of {part.name.upper()} is {said}, expected {bounds[0]:g} to {bounds[1]:g}"
