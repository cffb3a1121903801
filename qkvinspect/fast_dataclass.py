"""Dataclasses that are quick to import: their methods are shared, not compiled anew for each of dozens.

For what a short command imports; used as ``dataclasses.dataclass`` is, which the type checker takes it for.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    from collections.abc import Callable

    T = TypeVar("T")

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """As ``dataclasses.dataclass``: compared and hashed by value, unless the class defines its own hash."""
        assert frozen

        def made(kind: type[T]) -> type[T]:
            shown = kind.__dict__.get("__repr__", _text)
            kind = dataclasses.dataclass(repr=False, eq=False, slots=slots)(kind)
            kind._values = staticmethod(attrgetter(*kind.__dataclass_fields__))
            kind.__eq__, kind.__repr__ = _equal, shown
            kind.__hash__ = _hash if kind.__hash__ is object.__hash__ else kind.__hash__
            return kind

        return made

    def _equal(self: Any, other: object) -> bool:
        return self._values(self) == self._values(other) if type(other) is type(self) else NotImplemented

    def _hash(self: Any) -> int:
        return hash(self._values(self))

    def _text(self: Any) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name, f in self.__dataclass_fields__.items() if f.repr)
        return f"{type(self).__qualname__}({', '.join(fields)})"
