"""The 120 kinds of hostile and broken input that qkvinspect answers for, each with its cases."""

from __future__ import annotations

from dataclasses import replace

from tests.hostile.categories import pickled, safetensors, zipped
from tests.hostile.categories.case import Case

SECTIONS = (safetensors, zipped, pickled)
CASES: list[tuple[int, Case]] = [
    (number, replace(case, trusted=case.trusted or section.TRUSTED.get(number, "")))
    for section in SECTIONS
    for number, make in section.MAKERS.items()
    for case in make()
]
