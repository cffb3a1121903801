"""Weights of a table of tensors, whose descriptions are made when they are asked for.

Of a hundred thousand modules they would take a fifth of all memory, and they are asked for in two moments.
"""

from __future__ import annotations

from typing import Any

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.weight import Weight

_held: Any = Weight.info
"""The slot itself: it holds the table, or a description where one was given."""


class TableWeight(Weight):
    """A tensor of a table whose elements are the numbers: equal to any other weight that says the same."""

    __slots__ = ()

    @property
    def info(self) -> TensorInfo | None:
        held = _held.__get__(self)
        return held[self.name] if type(held) is TensorTable else held

    @info.setter
    def info(self, held: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        _held.__set__(self, held)

    @property
    def table(self) -> TensorTable | None:
        """The table that holds it; None where it was given a description."""
        held = _held.__get__(self)
        return held if type(held) is TensorTable else None

    @property
    def nbytes(self) -> int:
        table = self.table
        return Weight.nbytes.__get__(self) if table is None or self.encoding else table.kind(self.name).nbytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weight) and _said(self) == _said(other)

    def __hash__(self) -> int:
        return Weight.__hash__(self)


def table_of(weight: Weight) -> TensorTable | None:
    """The table that holds a weight; None where none does, or it was given a description."""
    return weight.table if type(weight) is TableWeight else None


def _said(one: Weight) -> tuple[object, ...]:
    return one.name, one.shape, one.dtype, one.info, one.encoding, one.why


def from_table(table: TensorTable, name: str) -> Weight:
    """The weight that a tensor is."""
    kind, held = table.kind(name), table
    return TableWeight(name, kind.shape, kind.dtype, held)  # pyright: ignore[reportArgumentType]
