"""Bytes after the end of a complete file: padding of a download tool, or a second file."""

from __future__ import annotations

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError


def follows(source: ByteSource, code: Code, what: str, end: int) -> CheckpointError:
    """The error for a file that is complete up to byte ``end``; it says how the rest can be cut off."""
    return CheckpointError(
        what,
        code=code,
        file=source.name,
        expected=f"the end at byte {end}",
        found=f"{source.size - end} bytes more",
        hint=f"download it again, or cut them off a copy with `truncate -s {end}`",
    )
