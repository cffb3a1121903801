"""The error for a file that violates its format."""

from __future__ import annotations

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError


def damaged(
    source: ByteSource, code: Code, message: str, found: str | None, tensor: str | None = None
) -> CheckpointError:
    """The error for a file that was damaged in a copy or download, as no writer leaves such a file."""
    return CheckpointError(
        message,
        code=code,
        file=source.name,
        tensor=tensor,
        found=found,
        hint="the file is damaged or truncated: copy or download it again",
    )
