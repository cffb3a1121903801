"""What results offer to Python: their rows as dicts, as a pandas DataFrame, and as HTML in a notebook.

Results lie far below what draws them. So the package itself, which is imported before any module of it, says
here who draws: ``drawn_by``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pandas import DataFrame


class Drawing(Protocol):
    """The module that knows how every result looks."""

    def records(self, result: Tabular, *, per_head: bool) -> Iterable[dict[str, object]]:
        """The rows that ``--format csv`` has, by the names of their columns."""
        ...

    def frame(self, result: Tabular, *, per_head: bool) -> DataFrame:
        """The same as a DataFrame."""
        ...

    def html(self, result: Tabular) -> str:
        """What a notebook shows."""
        ...


class Tabular:
    """A result that is a table, too."""

    __slots__ = ()

    def records(self, *, per_head: bool = False) -> list[dict[str, object]]:
        """The rows that ``--format csv`` prints, each as a dict.

        Args:
            per_head: one for each head rather than for each of Q, K and V, where a result has both.
        """
        return list(_drawing().records(self, per_head=per_head))

    def to_dataframe(self, *, per_head: bool = False) -> DataFrame:
        """The rows of ``records`` as a pandas DataFrame.

        Raises:
            UsageError: pandas is not installed.
        """
        return _drawing().frame(self, per_head=per_head)

    def _repr_html_(self) -> str:
        return _drawing().html(self)


_drawn_by: list[Callable[[], Drawing]] = []


def drawn_by(find: Callable[[], Drawing]) -> None:
    """Say who draws; it is imported when something is to be drawn."""
    _drawn_by[:] = [find]


def _drawing() -> Drawing:
    return _drawn_by[0]()
