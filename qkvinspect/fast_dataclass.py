"""Dataclasses that are quick to import: methods are shared, and ``__init__`` is compiled when one is first made.

For what a short command imports: of its hundred classes it makes a few. Used as those of ``dataclasses`` are, which the
type checker takes them for, and which is imported only where its own functions are asked about such a class: it needs
``inspect``, which takes 6 ms to import. One class takes 0.02 ms instead of 0.66.
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass", "field", "replace"]

if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    from collections.abc import Callable

    T = TypeVar("T")

    _NOT_GIVEN = object()

    class field:  # noqa: N801  (a function to whoever uses it)
        """As ``dataclasses.field``, with what this package uses of it."""

        __slots__ = ("compare", "default", "default_factory", "repr")

        def __init__(
            self,
            *,
            default: object = _NOT_GIVEN,
            default_factory: object = _NOT_GIVEN,
            repr: bool = True,
            compare: bool = True,
        ) -> None:
            self.default, self.default_factory, self.repr, self.compare = default, default_factory, repr, compare

    def dataclass(*, slots: bool, frozen: bool = False) -> Callable[[type[T]], type[T]]:
        """As ``dataclasses.dataclass``: compared by value, and hashed if frozen, unless the class has its own hash.

        That nothing is assigned to a frozen one is left to the type checker.
        """

        def made(kind: type[T]) -> type[T]:
            body = dict(kind.__dict__)
            types = body.get("__annotations__", {})
            own = {name: _field(body.pop(name, _NOT_GIVEN)) for name in types}
            inherited = getattr(kind, "_fast_fields", {})
            fields = {**inherited, **own}
            body.pop("__dict__", None)
            body.pop("__weakref__", None)
            if slots:
                body["__slots__"] = tuple(name for name in own if name not in inherited)
            body["__match_args__"] = tuple(fields)
            body["__dataclass_fields__"] = _FIELDS
            body["_fast_fields"] = fields
            body["_fast_types"] = {**getattr(kind, "_fast_types", {}), **types}
            own_way = "__init__" in body or len(fields) < 2
            body["_places"] = {} if own_way else {name: place for place, name in enumerate(fields)}
            body["_every_value"] = staticmethod(attrgetter(*fields)) if fields else None
            body["_values"] = staticmethod(attrgetter(*(name for name, one in fields.items() if one.compare)))
            body["__eq__"] = _equal
            body.setdefault("__repr__", _text)
            body.setdefault("__hash__", _hash if frozen else None)
            one = type(kind)(kind.__name__, kind.__bases__, body)
            one.__qualname__ = kind.__qualname__
            if "__init__" not in body:
                one.__init__, one.__signature__ = _late_init(one), _SIGNATURE
            return one

        return made

    def replace(one: T, /, **changes: object) -> T:
        """As ``dataclasses.replace``."""
        kind = type(one)
        names = getattr(kind, "_fast_fields", None)
        if names is None:
            import dataclasses

            return dataclasses.replace(one, **changes)
        places = kind._places
        if not places or not places.keys() >= changes.keys():
            return kind(**{name: getattr(one, name) for name in names if name not in changes}, **changes)
        values = list(kind._every_value(one))  # by position, which takes a third of the time
        for name, value in changes.items():
            values[places[name]] = value
        return kind(*values)

    def _field(value: object) -> field:
        """What a class says behind the name of a field, which may be the standard library's description of one."""
        if isinstance(value, field):
            return value
        library = sys.modules.get("dataclasses")
        if library is None or not isinstance(value, library.Field):
            return field(default=value)
        given = {name: getattr(value, name) for name in field.__slots__}
        return field(**{name: one for name, one in given.items() if one is not library.MISSING})

    class _Fields:
        """What the functions of ``dataclasses`` ask a class for, made when they do."""

        def __get__(self, instance: object, kind: type) -> dict[str, object]:
            import dataclasses

            described: list[tuple[str, object, object]] = []
            for name, one in kind._fast_fields.items():
                given = {key: getattr(one, key) for key in field.__slots__ if getattr(one, key) is not _NOT_GIVEN}
                described.append((name, kind._fast_types[name], dataclasses.field(**given)))
            made = dataclasses.make_dataclass("_", described, kw_only=True).__dataclass_fields__
            for one in made.values():
                one.kw_only = False
            kind.__dataclass_fields__ = made
            return made

    _FIELDS = _Fields()

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
        for name, one in kind._fast_fields.items():
            value, default = name, ""
            if one.default_factory is not _NOT_GIVEN:
                known[f"_make_{name}"], default = one.default_factory, "=_NOT_GIVEN"
                value = f"_make_{name}() if {name} is _NOT_GIVEN else {name}"
            elif one.default is not _NOT_GIVEN:
                known[f"_default_{name}"], default = one.default, f"=_default_{name}"
            given.append(name + default)
            lines.append(f"self.{name} = {value}")
        if hasattr(kind, "__post_init__"):
            lines.append("self.__post_init__()")
        exec(f"def __init__(self, {', '.join(given)}):\n    " + "\n    ".join(lines), known)
        made: Any = known["__init__"]
        made.__annotations__ = {**kind._fast_types, "return": None}
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
        fields = (f"{name}={getattr(self, name)!r}" for name, one in self._fast_fields.items() if one.repr)
        return f"{type(self).__qualname__}({', '.join(fields)})"
