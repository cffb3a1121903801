"""How each library's configs speak of heads: a module a library, and its line here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts import diffusers, open_clip, openai, timm, transformers
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection


class Library(Protocol):
    """Reads the heads of a module in a library's config as the library does."""

    def __call__(
        self, config: Config, sections: Sequence[ConfigSection], module: HeadedModule, /
    ) -> Iterable[HeadFact] | None:
        """The facts; none at all where the library does not tell; None where it is not this library's config, or the
        words of the config say as much.
        """
        ...


LIBRARIES: tuple[Library, ...] = (diffusers.facts, open_clip.facts, openai.whisper, timm.facts, transformers.facts)
