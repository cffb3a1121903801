"""How a report is to be shown."""

from __future__ import annotations

from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What the reader asked for and what they look at.

    Attributes:
        per_head: one row a head.
        tensors: every tensor of the checkpoint, and where it belongs, in place of the attention modules.
        width: columns of the terminal; None where there is none, and nothing may be cut or wrapped.
        colour: whether escape sequences for colour are wanted.
    """

    per_head: bool = False
    width: int | None = None
    colour: bool = False
    tensors: bool = False
