"""Files on this machine, read with pread and never mapped: a file that shrinks is an error, not a SIGBUS."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from qkvinspect.errors import CheckpointError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)
_MAX_READ = 1 << 30


class LocalFile:
    """A regular file, opened for reading.

    Raises:
        CheckpointError: it does not exist, may not be read, or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(
                f"cannot be opened: {error.strerror}", file=self.name, hint="check the path and its permissions"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"is not a path: {error}", file=self.name) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
            raise CheckpointError(
                "is not a file that can be inspected", file=self.name, expected="a regular file", found=kind
            )
        self._size = status.st_size

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise CheckpointError(
                "is shorter than its own header says",
                file=self.name,
                expected=f"{length} bytes at offset {offset}",
                found=f"{self._size} bytes in all",
                hint="the file is truncated: copy or download it again",
            )
        pieces: list[bytes] = []
        while length:
            try:
                piece = os.pread(self._fd, min(length, _MAX_READ), offset)
            except OSError as error:
                raise CheckpointError(f"cannot be read: {error.strerror}", file=self.name) from error
            if not piece:
                raise CheckpointError(
                    "became shorter while it was read",
                    file=self.name,
                    expected=f"{self._size} bytes",
                    found=f"the end at {offset}",
                    hint="something is writing to it: wait until that is finished",
                )
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def relative(self, name: str) -> LocalFile:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise CheckpointError(
                "names a file outside its own folder",
                file=self.name,
                expected="a plain relative path",
                found=repr(name),
            )
        return LocalFile(self._path.parent / path)

    def siblings(self) -> tuple[str, ...]:
        try:
            with os.scandir(self._path.parent) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_file()))
        except OSError:
            return ()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
