"""What a format gets when it opens a source, and what it has to offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qkvinspect.checkpoint import ByteSource, Checkpoint
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.formats.limits import Limits


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """How to open a checkpoint.

    Attributes:
        container: which state_dict, where a file holds several; None for the model itself.
        open_shard: opens one more file by its content, for formats that consist of several.
        limits: what this file may ask for.
    """

    container: str | None
    open_shard: Callable[[ByteSource], Checkpoint]
    limits: Limits


class Format(Protocol):
    """What every module of FORMATS offers."""

    NAME: str
    """What ``Checkpoint.format`` and JSON call it."""

    IS_INDEX: bool
    """Whether such a file names other files that hold the tensors; then it is never one of these itself."""

    def sniff(self, head: bytes) -> bool:
        """Whether a file that begins with ``head`` is of this format."""
        ...

    def open(self, source: ByteSource, request: OpenRequest) -> Checkpoint:
        """Read what describes the tensors, not the tensors."""
        ...
