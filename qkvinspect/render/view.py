"""Properties of the place where a result is shown."""

from __future__ import annotations

from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What the reader looks at.

    Attributes:
        width: columns of the terminal; None where there is none, and nothing may be cut or wrapped.
        colour: whether escape sequences for colour are wanted.
    """

    width: int | None = None
    colour: bool = False
