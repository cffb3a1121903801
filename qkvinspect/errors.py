"""The errors of qkvinspect: every one ends as a single line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.error_codes import Code
from qkvinspect.late_pattern import late_pattern

_UNSAFE = late_pattern(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_COMMANDS = late_pattern(r"(^\s*|#)(:(?=:)|#(?=\[))")
_URL = late_pattern(
    r"""([A-Za-z][A-Za-z0-9+.-]+:/{1,2})([^\s/?#]*@)?([^\s?#]*)([?#](?:[^\s;:),'"]|[;:),'"](?=[^\s;:),'"]))*)?"""
)
_MAX_PART = 400


def clean(text: str) -> str:
    """Escape characters that could control a terminal or a CI runner, or reverse the reading order.

    GitHub's runner obeys a line of output that begins with ``::``, and ``##[`` wherever it stands (ActionCommand.cs).
    """
    if "##[" in text or text.lstrip().startswith("::"):
        text = _COMMANDS.sub(lambda found: f"{found[1]}\\x{ord(found[2]):02x}", text)
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clean_each(texts: Sequence[str]) -> Sequence[str]:
    """``clean`` of many texts, which mostly have nothing to be escaped, and are looked at as one."""
    whole = "".join(texts)
    if "##[" in whole or "::" in whole or not ((whole.isascii() and whole.isprintable()) or not _UNSAFE.search(whole)):
        return list(map(clean, texts))
    return texts


def without_secrets(text: str) -> str:
    """A message without what may be secret in the URLs that it names: user, password and query.

    Whoever names one shows it without them (``sources.urls.shown``); this holds where it was taken for something else:
    a path, which has one of the two slashes, a word of the command line, a message of a library.
    """
    return _URL.sub(lambda found: f"{found[1]}{found[3]}", text) if ":/" in text else text


def did_you_mean(names: Sequence[str]) -> str | None:
    """A hint with what may have been meant: ``did you mean a, b or c?``; None where nothing is near."""
    *first, last = names or [""]
    return f"did you mean {', '.join(first)}{' or ' * bool(first)}{last}?" if names else None


class QkvInspectError(Exception):
    """Anything that stops a command.

    >>> import qkvinspect
    >>> try:
    ...     qkvinspect.open("sample_checkpoints/nosuch.pt")
    ... except qkvinspect.QkvInspectError as error:
    ...     error.file, error.hint
    ('sample_checkpoints/nosuch.pt', 'check the path and its permissions')

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
        text = ": ".join(_line(part) for part in (self.file, self.tensor, self.message) if part)
        facts = [
            f"{word} {_line(value)}"
            for word, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        if facts:
            text += f" ({', '.join(facts)})"
        return without_secrets(f"{text}; {_line(self.hint)}" if self.hint else text)


def _line(value: object) -> str:
    """Make text from a file safe to print within one line."""
    text = clean(str(value))
    return text if len(text) <= _MAX_PART else f"{text[: _MAX_PART // 2]} ... {text[-_MAX_PART // 4 :]}"


class CheckpointError(QkvInspectError):
    """The file is damaged or not supported, so that its bytes cannot be read, or not reliably.

    >>> import qkvinspect
    >>> try:
    ...     qkvinspect.inspect("sample_checkpoints/generate.py")
    ... except qkvinspect.CheckpointError as error:
    ...     error.code.value
    'QKV-F721'

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
    """The file is sound but its meaning is unclear: which rows are Q, K, V, or how many heads.

    >>> import qkvinspect
    >>> try:
    ...     qkvinspect.open("sample_checkpoints/transformer.pt").layer("encoder.layers.0.self_attn").heads
    ... except qkvinspect.LayoutError as error:
    ...     print(error)
    layer 'encoder.layers.0.self_attn' has an unknown number of heads; open it with heads=
    """


class UsageError(QkvInspectError):
    """The command or call was wrong, not the file.

    >>> import qkvinspect
    >>> try:
    ...     qkvinspect.inspect("sample_checkpoints/transformer.pt", heads="many")
    ... except qkvinspect.UsageError as error:
    ...     error.message
    '--heads many is not a number of heads'
    """
