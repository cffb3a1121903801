"""Every limit on the time and memory that a file may take.

A file that is honest about its size never meets them: what describes tensors is small beside the tensors, so
most limits grow with the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.late_pattern import late_pattern

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_NUMBER = late_pattern(r"(\d+)\s*([kmgt]i?)?b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one file may ask for.

    Attributes:
        header: bytes of a safetensors header, a shard index, or a zip's directory.
        entries: files in a zip or tar.
        pickle: bytes of a pickle.
        opcodes: steps of a pickle; a tensor is one, if written as torch writes it.
        objects: lists, dicts, tuples and calls that a pickle or JSON text may make.
        memo: values that a pickle may keep to refer to again.
        stack: values that a pickle may have in hand at once.
        depth: how deeply weights may be nested.
        tensors: names that may lead to a tensor; shared parts count as often as they are reached.
        shards: files of one checkpoint.
        expansion: bytes of a tensor that is made of a smaller storage.
    """

    header: int = 100_000_000
    entries: int = 1_000_000
    pickle: int = 128_000_000
    opcodes: int = 4_000_000
    objects: int = 400_000
    memo: int = 1_000_000
    stack: int = 100_000
    depth: int = 32
    tensors: int = 20_000
    shards: int = 20_000
    expansion: int = 1 << 30

    def check(self, name: str, found: int, file: str, tensor: str | None = None) -> None:
        """Refuse a value over a limit.

        Raises:
            CheckpointError: it is over the limit; the message says which one and how to raise it.
        """
        most = getattr(self, name)
        if found > most:
            code, what = _MEANINGS[name]
            raise CheckpointError(
                f"asks for more {what} than the limit",
                code=code,
                file=file,
                tensor=tensor,
                expected=f"at most {most}",
                found=str(found) if found < 10**18 else "a number of over 18 digits",
                hint=f"if the file deserves it, allow more with --limit {name}=N",
            )


NAMES = Limits.__match_args__

_MEANINGS = {
    "header": (Code.LIMIT_HEADER, "bytes in a header"),
    "entries": (Code.LIMIT_ENTRIES, "entries"),
    "pickle": (Code.LIMIT_PICKLE, "bytes in a pickle"),
    "opcodes": (Code.LIMIT_OPCODES, "steps in a pickle"),
    "objects": (Code.LIMIT_OBJECTS, "objects"),
    "memo": (Code.LIMIT_MEMO, "memo entries in a pickle"),
    "stack": (Code.LIMIT_STACK, "values on a pickle's stack"),
    "depth": (Code.LIMIT_DEPTH, "levels of nesting (or holds its weights in a cycle)"),
    "tensors": (Code.LIMIT_TENSORS, "names of tensors"),
    "shards": (Code.LIMIT_SHARDS, "files"),
    "expansion": (Code.LIMIT_EXPANSION, "bytes, made of a smaller storage,"),
}


def limits_for(size: int, given: Mapping[str, int]) -> Limits:
    """The limits of a file of ``size`` bytes; ``given`` ones hold as they are."""
    usual = Limits()
    scaled = replace(
        usual,
        entries=max(usual.entries, size // 64),
        pickle=max(usual.pickle, size // 8),
        opcodes=max(usual.opcodes, size // 4),
        objects=max(usual.objects, size // 16),
        memo=max(usual.memo, size // 16),
        tensors=max(usual.tensors, size // 16),
    )
    return replace(scaled, **given)


def size(text: str, option: str) -> int:
    """A number of bytes as the command line gives it: ``5GB``.

    Raises:
        UsageError: it is none.
    """
    number = _NUMBER.fullmatch(text.strip())
    if number is None or not int(number[1]):
        raise UsageError(f"{option} {text} is no size", expected="a number such as 500MB or 5GB")
    return int(number[1]) * _UNITS[(number[2] or "").lower()]


def parse(texts: Iterable[str]) -> dict[str, int]:
    """Limits as the command line gives them: ``header=200MB``, ``tensors=1000000``.

    Raises:
        UsageError: there is no such limit, or it is no number.
    """
    given: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        number = _NUMBER.fullmatch(value.strip())
        if name not in NAMES or number is None:
            raise UsageError(
                f"--limit {text} is not a limit", expected="NAME=NUMBER", hint=f"the names are {', '.join(NAMES)}"
            )
        given[name] = int(number[1]) * _UNITS[(number[2] or "").lower()]
    return given
