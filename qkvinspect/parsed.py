"""What a parsed config, header or metadata holds, in a form that a type checker follows."""

from __future__ import annotations

from typing import TypeGuard


def is_mapping(value: object) -> TypeGuard[dict[str, object]]:
    """Whether it is an object of JSON: JSON, YAML and TOML give no other keys than text that anyone looks up."""
    return isinstance(value, dict)


def is_items(value: object) -> TypeGuard[list[object]]:
    """Whether it is a list of JSON."""
    return isinstance(value, list)


def is_texts(value: object) -> TypeGuard[dict[str, str]]:
    """Whether it is an object of JSON whose values are all text."""
    return is_mapping(value) and all(isinstance(text, str) for text in value.values())


def is_integers(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers; True is none."""
    return is_items(value) and _INTEGERS.issuperset(map(type, value))


_INTEGERS = frozenset({int})


def is_size(value: object) -> TypeGuard[int]:
    """Whether it is a whole number above zero; True is none."""
    return type(value) is int and value > 0
