"""Dataclasses that are quick to import: methods are shared, and ``__init__`` is compiled when one is first made.

For what a short command imports: of its hundred classes it makes a few. Used as ``dataclasses.dataclass`` is, which
the type checker takes it for. One class takes 0.04 ms instead of 0.66.
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

    _NOT_GIVEN = object()

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """As ``dataclasses.dataclass``: compared and hashed by value, unless the class defines its own hash."""
        assert frozen

        def made(kind: type[T]) -> type[T]:
            shown = kind.__dict__.get("__repr__", _text)
            kind = dataclasses.dataclass(repr=False, eq=False, init=False, slots=slots)(kind)
            kind._values = staticmethod(attrgetter(*kind.__dataclass_fields__))
            kind.__eq__, kind.__repr__ = _equal, shown
            kind.__hash__ = _hash if kind.__hash__ is object.__hash__ else kind.__hash__
            if "__init__" not in kind.__dict__:
                kind.__init__, kind.__signature__ = _late_init(kind), _SIGNATURE
            return kind

        return made

    def _late_init(kind: type) -> Callable[..., None]:
        def __init__(self: Any, *args: object, **named: object) -> None:  # noqa: N807
            kind.__init__ = _init(kind)
            kind.__init__(self, *args, **named)

        return __init__

    def _init(kind: type) -> Callable[..., None]:
        """As ``dataclasses`` makes it."""
        known: dict[str, object] = {"_NOT_GIVEN": _NOT_GIVEN}
        given: list[str] = []
        lines: list[str] = []
        for one in dataclasses.fields(kind):
            assert one.init
            name, value, default = one.name, one.name, ""
            if one.default_factory is not dataclasses.MISSING:
                known[f"_make_{name}"], default = one.default_factory, "=_NOT_GIVEN"
                value = f"_make_{name}() if {name} is _NOT_GIVEN else {name}"
            elif one.default is not dataclasses.MISSING:
                known[f"_default_{name}"], default = one.default, f"=_default_{name}"
            given.append(name + default)
            lines.append(f"self.{name} = {value}")
        if hasattr(kind, "__post_init__"):
            lines.append("self.__post_init__()")
        exec(f"def __init__(self, {', '.join(given)}):\n    " + "\n    ".join(lines), known)
        made: Any = known["__init__"]
        made.__annotations__ = {one.name: one.type for one in dataclasses.fields(kind)} | {"return": None}
        made.__qualname__ = f"{kind.__qualname__}.__init__"
        return made

    class _Signature:
        """What ``inspect.signature`` and ``help`` show of such a class, before one of it is made."""

        def __get__(self, instance: object, kind: type) -> Any:
            from inspect import signature

            whole = signature(_init(kind))
            return whole.replace(parameters=list(whole.parameters.values())[1:])

    _SIGNATURE = _Signature()

    def _equal(self: Any, other: object) -> bool:
        return self._values(self) == self._values(other) if type(other) is type(self) else NotImplemented

    def _hash(self: Any) -> int:
        return hash(self._values(self))

    def _text(self: Any) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name, f in self.__dataclass_fields__.items() if f.repr)
        return f"{type(self).__qualname__}({', '.join(fields)})"
