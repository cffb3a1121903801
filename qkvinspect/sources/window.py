"""Part of a file, read as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.sources.prefetch import Foreseeing


class Window:
    """``size`` bytes of ``file`` from ``start``; closing it leaves the file open."""

    def __init__(self, file: ByteSource, start: int, size: int) -> None:
        self.file = file
        self._start = start
        self._size = size

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise CheckpointError(
                f"holds a part at byte {self._start} that is shorter than its own header says",
                code=Code.FILE_SHORT,
                file=self.name,
                expected=f"{length} bytes at offset {offset} of it",
                found=f"{self._size} bytes in all",
                hint="the file is damaged: copy or download it again",
            )
        return self.file.read(self._start + offset, length)

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        if isinstance(self.file, Foreseeing):
            self.file.expect([(self._start + start, self._start + stop) for start, stop in ranges])

    def relative(self, name: str) -> ByteSource:
        return self.file.relative(name)

    def siblings(self) -> tuple[str, ...]:
        return self.file.siblings()

    def check(self) -> None:
        self.file.check()

    def close(self) -> None:
        pass
