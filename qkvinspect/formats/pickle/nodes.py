"""What an inert reader builds instead of objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle would have made by calling ``function`` with ``arguments``.

    Attributes:
        state: what BUILD would have set on it; None if nothing.
        items: what would have been appended or added to it.
        entries: what would have been set by key.
    """

    function: object
    arguments: object
    state: object = None
    items: list[object] = field(default_factory=list[object])
    entries: dict[object, object] = field(default_factory=dict[object, object])


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    id: object


def is_dict(node: object) -> TypeGuard[dict[object, object]]:
    """Whether a node is a dict, of anything."""
    return isinstance(node, dict)


def is_sequence(node: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether a node is a list or tuple, of anything."""
    return isinstance(node, (list, tuple))
