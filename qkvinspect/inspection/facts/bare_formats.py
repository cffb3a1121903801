"""Formats without a config, whose tensors say whose the heads are: a module a format, and its line here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from qkvinspect.inspection.facts import beside, openai, segment_anything
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import HeadedModule


class BareFormat(Protocol):
    """Reads the heads of a module where a format has no config and its tensors say whose it is."""

    def __call__(self, module: HeadedModule, /) -> Iterable[HeadFact]:
        """The facts; none where they are another model's."""
        ...


FORMATS: tuple[BareFormat, ...] = (openai.clip, beside.facts, segment_anything.facts)
