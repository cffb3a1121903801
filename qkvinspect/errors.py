"""The errors of qkvinspect: every one ends as a single line on stderr and exit code 2."""

from __future__ import annotations

from qkvinspect.codes import Code


class QkvInspectError(Exception):
    """Anything that stops a command.

    Args:
        message: what is wrong, as a clause without a full stop.
        file: the file at fault.
        tensor: the tensor at fault.
        expected: what should have been there.
        found: what was there instead.
        hint: what the reader can do next, as a clause.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.tensor = tensor
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.file, self.tensor, self.message) if part)
        facts = [
            f"{word} {value}"
            for word, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        if facts:
            text += f" ({', '.join(facts)})"
        return f"{text}; {self.hint}" if self.hint else text


class CheckpointError(QkvInspectError):
    """The file is wrong: it cannot be read, or not without doubt about its bytes.

    Args:
        code: which defect it is; stands at the end of the line.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Code,
        file: str | None = None,
        tensor: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, file=file, tensor=tensor, expected=expected, found=found, hint=hint)
        self.code = code

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.code}]"


class LayoutError(QkvInspectError):
    """The file is sound but its meaning is unclear: which rows are Q, K, V, or how many heads."""


class UsageError(QkvInspectError):
    """The command or call was wrong, not the file."""
