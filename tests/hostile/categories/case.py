"""One broken file and exactly what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from qkvinspect.error_codes import Code
from tests.hostile.memory import MemoryFile


@dataclass(frozen=True)
class Refused:
    """The file is refused under this code; ``says`` are words of the message."""

    code: Code
    says: str = ""


@dataclass(frozen=True)
class Reads:
    """Every tensor is read.

    Attributes:
        tensors: bytes by name; None where they have no rows to read.
        count: how many there are, if more than ``tensors`` names.
        findings: the codes of all warnings, in order.
    """

    tensors: Mapping[str, bytes | None]
    count: int | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A broken file.

    Attributes:
        label: what is broken, in words.
        build: makes the file.
        trusted: why torch or safetensors takes what is refused here, or reads something else, where it does.
        megabytes: the memory it may take, where it is so large that the usual is not enough.
    """

    label: str
    build: Callable[[], bytes | MemoryFile]
    outcome: Refused | Reads
    trusted: str = ""
    megabytes: int = 256

    def source(self) -> MemoryFile:
        built = self.build()
        return MemoryFile(built) if isinstance(built, bytes) else built


Makers = Mapping[int, Callable[[], Iterable[Case]]]
"""The cases of each category of a section, by its number."""


def refused(
    code: Code,
    builders: Mapping[str, Callable[[], bytes | MemoryFile]] | Iterable[tuple[str, Callable[[], bytes | MemoryFile]]],
    trusted: str | Callable[[str], str] = "",
) -> Iterator[Case]:
    """A case for each builder, all of which break the same thing; ``trusted`` may depend on the label."""
    for label, build in builders.items() if isinstance(builders, Mapping) else builders:
        yield Case(label, build, Refused(code), trusted(label) if callable(trusted) else trusted)


class Huge(MemoryFile):
    """A file that goes on with zeros, as a sparse one does."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        piece = self.data[offset : offset + length]
        return piece + bytes(length - len(piece))
