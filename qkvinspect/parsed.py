"""Type guards for values of parsed configs, headers and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard


def is_mapping(value: object) -> TypeGuard[dict[str, object]]:
    """Whether it is a mapping. Keys are taken for text: what may have others goes through ``with_text_keys``."""
    return isinstance(value, dict)


_DEEPEST = 100


def with_text_keys(values: Mapping[str, object], depth: int = 0) -> dict[str, object]:
    """A mapping with text for keys, at every depth, as JSON has it: YAML and Python keep the number of ``0: cat``.

    What a hundred mappings are around is left out: a value in memory may hold itself.
    """
    if depth > _DEEPEST:
        return {}
    return {str(key): with_text_keys(value, depth + 1) if is_mapping(value) else value for key, value in values.items()}


def is_items(value: object) -> TypeGuard[list[object]]:
    """Whether it is a list of JSON."""
    return isinstance(value, list)


def is_texts(value: object) -> TypeGuard[dict[str, str]]:
    """Whether it is an object of JSON whose values are all text."""
    return is_mapping(value) and all(isinstance(text, str) for text in value.values())


def is_integers(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers; True and False do not count."""
    return is_items(value) and _INTEGERS.issuperset(map(type, value))  # asked of every tensor


_INTEGERS = frozenset({int})


def is_size(value: object) -> TypeGuard[int]:
    """Whether it is a whole number above zero; True does not count."""
    return type(value) is int and value > 0
