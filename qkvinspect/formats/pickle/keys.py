"""Which keys a pickle's dicts may have, and the error for whatever a pickle may not do."""

from __future__ import annotations

from types import NoneType

from qkvinspect.error_codes import Code
from qkvinspect.formats.pickle.nodes import Call, Global, Persistent, is_tuple

_MAX_PARTS = 200
_MAX_NUMBERS = 10_000  # their hashes can be made equal, and a dict of those takes quadratic time


class MalformedError(Exception):
    """Why a pickle cannot be read; becomes a CheckpointError that says where."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.why = code, reason


class Keys:
    """The keys of all dicts of one pickle."""

    def __init__(self) -> None:
        self._numbers = 0

    def check(self, key: object) -> None:
        """Refuse a key that has no hash, or whose hash takes long or is easily made equal to others."""
        if type(key) is int and -(1 << 63) <= key < 1 << 63:
            return
        waiting, seen, numbers = [key], 0, False
        while waiting:
            part = waiting.pop()
            seen += 1
            if is_tuple(part):
                if seen + len(waiting) + len(part) > _MAX_PARTS:
                    raise MalformedError(Code.LIMIT_KEY, f"a tuple of over {_MAX_PARTS} parts is used as a key")
                waiting.extend(part)
            elif isinstance(part, int):
                numbers = True
            elif not isinstance(part, (str, float, bytes, NoneType, Global, Call, Persistent)):
                raise MalformedError(Code.PICKLE_KEY, f"{kind(part)} is used as a key")
        self._numbers += numbers
        if self._numbers > _MAX_NUMBERS:
            raise MalformedError(Code.LIMIT_KEY, f"over {_MAX_NUMBERS} tuples or huge numbers are used as keys")


def kind(value: object) -> str:
    return f"a {type(value).__name__.lower()}"
