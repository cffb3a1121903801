"""The layouts that somebody may mean who gives a name that none has: of a library, of a model, or mistyped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qkvinspect.layouts.layout import PATTERN, Layout

_MOST = 4


def nearest(name: str, layouts: Sequence[Layout]) -> list[str]:
    """Their ids, the first four.

    >>> from qkvinspect.layouts import LAYOUTS
    >>> nearest("llama", LAYOUTS)
    ['qkv-proj', 'llama-original', 'gguf-permuted', 'gguf-renamed']
    >>> nearest("RoBERTa", LAYOUTS)
    ['bert']
    >>> nearest("qkv_proj", LAYOUTS)
    ['qkv-proj']
    >>> nearest("patern-blocks", LAYOUTS)
    ['pattern-blocks']
    """
    from difflib import get_close_matches

    asked = _squeezed(name)
    same = [layout.id for layout in layouts if _squeezed(layout.id) == asked]
    named = [layout.id for layout in layouts if asked in _names(layout)]
    mistyped = get_close_matches(name.lower(), [layout.id for layout in layouts])
    first, dash, how = name.lower().partition("-")
    if not (same or named) and get_close_matches(first, [PATTERN]):  # these are made as they are found
        return [f"{PATTERN}{dash}{how}"]
    within = [layout.id for layout in layouts if len(asked) > 1 and asked in _squeezed(layout.id)]
    return list(dict.fromkeys(same or named or mistyped or within))[:_MOST]


def _names(layout: Layout) -> set[str]:
    """What its libraries and models are called, squeezed: of ``transformers BERT`` the whole and each word."""
    phrases = [phrase.strip() for phrase in re.split(r"[,;:()]| and ", layout.libraries)]
    words = [word for phrase in phrases for word in phrase.split()]
    return {_squeezed(name) for name in (*phrases, *words, *layout.model_types)}


def _squeezed(name: str) -> str:
    """Without case and without what parts words."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
