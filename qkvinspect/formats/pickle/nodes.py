"""The nodes that the inert reader builds instead of objects."""

from __future__ import annotations

from typing import TypeGuard

from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """What a pickle would have made by calling ``function`` with ``arguments``.

    Attributes:
        state: what BUILD would have set on it; None if nothing.
        items: what would have been appended or added to it.
        entries: what would have been set by key.
    """

    __match_args__ = ("function", "arguments")
    __slots__ = ("_arguments", "_entries", "_items", "function", "state")

    def __init__(self, function: object, arguments: object) -> None:
        self.function = function
        self.state: object = None
        self._arguments = arguments
        self._items: list[object] | None = None
        self._entries: dict[object, object] | None = None

    def __repr__(self) -> str:
        """The same at every run and short, whatever the call holds; bytes as such, which protocol 2 calls."""
        match self.function, self._arguments:
            case Global("_codecs", "encode"), (str(text), str(encoding)) if encoding in ("latin1", "latin-1"):
                return repr(text.encode("latin-1", "replace"))
            case function, _:
                return f"<{function if isinstance(function, Global) else 'something'}>"

    @property
    def arguments(self) -> object:
        return self._arguments

    @property
    def items(self) -> list[object]:
        if self._items is None:
            self._items = []
        return self._items

    @property
    def entries(self) -> dict[object, object]:
        if self._entries is None:
            self._entries = {}
        return self._entries


class Persistent:
    """A reference to something outside the pickle: in torch files, a storage."""

    __slots__ = ("id",)

    def __init__(self, id: object) -> None:
        self.id = id

    def __repr__(self) -> str:
        return "<something outside the pickle>"


def is_dict(node: object) -> TypeGuard[dict[object, object]]:
    """Whether a node is a dict, of anything."""
    return isinstance(node, dict)


def is_tuple(node: object) -> TypeGuard[tuple[object, ...]]:
    """Whether a node is a tuple, of anything."""
    return isinstance(node, tuple)


def is_sequence(node: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether a node is a list or tuple, of anything."""
    return isinstance(node, (list, tuple))
