"""Keep fetched bytes in a file without a name, which vanishes with the process, however that ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref

from qkvinspect.errors import UsageError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.sources.range_map import Runs

_LEAST, _MOST = 256 << 20, 8 << 30


class _Volume:
    """One temporary file; it is deleted when nothing refers to it any more."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)
        self.end = 0

    def write(self, at: int, data: bytes) -> None:
        while data:
            written = os.pwrite(self._fd, data, at)
            at, data = at + written, data[written:]

    def read(self, at: int, length: int) -> bytes:
        pieces: list[bytes] = []
        while length:
            piece = os.pread(self._fd, length, at)
            if not piece:
                raise OSError(f"{length} bytes are gone")
            pieces.append(piece)
            at, length = at + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Slot(NamedTuple):
    """Space for a range in the temporary file: byte ``start`` of the remote file is at ``at``."""

    volume: _Volume
    start: int
    at: int


class Spool:
    """A cache of bounded size for the ranges of several files; when it is full, everything in it is dropped."""

    def __init__(self) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self._limit = min(max(free // 4, _LEAST), _MOST)
        self._volume = _Volume()
        self._files: list[Held] = []

    def held(self) -> Held:
        """Register one more file."""
        self._files.append(Held())
        return self._files[-1]

    def lift_limit(self, length: int | None) -> int:
        """Keep all, as a file of ``length`` bytes, or of nobody knows how many, is wanted whole; how many there may be.

        Raises:
            UsageError: there is no room for them.
        """
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if length is not None and length > free:
            raise no_room(f"{length} bytes", f"{free} bytes free")
        self._limit = 1 << 63
        return free // 2 if length is None else length

    def slot(self, start: int, length: int) -> Slot:
        """Room for the bytes of a file from ``start``."""
        if self._volume.end + length > self._limit:
            self._volume = _Volume()  # the old one lasts until what is still being written to it is forgotten too
            for file in self._files:
                file.clear()
        at = self._volume.end
        self._volume.end += length
        return Slot(self._volume, start, at)

    def whole(self) -> Slot:
        """Room for a file of which nobody knows how long it is."""
        return Slot(_Volume(), 0, 0)


class Held:
    """Which ranges of a file are held."""

    def __init__(self) -> None:
        self._runs = Runs[Slot]()

    def store(self, slot: Slot, position: int, data: bytes) -> None:
        """Keep some bytes of a slot, those from ``position`` of the file.

        Raises:
            UsageError: there is no room for them.
        """
        try:
            slot.volume.write(slot.at + position - slot.start, data)
        except OSError as error:
            raise no_room(f"{len(data)} bytes more", str(error.strerror)) from error

    def add(self, slot: Slot, start: int, stop: int) -> None:
        """These bytes of a slot are there now."""
        before = self._runs.over(start - 1, start) if start else []
        if before and before[0][2] is slot:
            self._runs.remove(before[0][0])
            start = before[0][0]
        self._runs.add(start, stop, slot)

    def over(self, start: int, stop: int) -> list[tuple[int, int, Slot]]:
        return self._runs.over(start, stop)

    def clear(self) -> None:
        self._runs.clear()


def read(pieces: list[tuple[int, int, Slot]], start: int, stop: int) -> bytes:
    """The bytes of a range that is held whole."""
    found = [
        slot.volume.read(slot.at + max(first, start) - slot.start, min(last, stop) - max(first, start))
        for first, last, slot in pieces
    ]
    return found[0] if len(found) == 1 else b"".join(found)


def no_room(expected: str, found: str) -> UsageError:
    return UsageError(
        "there is no room for what is fetched",
        file=tempfile.gettempdir(),
        expected=expected,
        found=found,
        hint="make room there, or set TMPDIR to another folder",
    )
