"""Files on this machine, read with pread and never mapped: a file that shrinks is an error, not a SIGBUS."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError

_KINDS = (
    (stat.S_ISDIR, Code.FILE_DIRECTORY, "a directory"),
    (stat.S_ISFIFO, Code.FILE_PIPE, "a named pipe"),
    (stat.S_ISCHR, Code.FILE_DEVICE, "a character device"),
    (stat.S_ISBLK, Code.FILE_DEVICE, "a block device"),
    (stat.S_ISSOCK, Code.FILE_SOCKET, "a socket"),
)
_REASONS = {
    errno.ENOENT: Code.FILE_MISSING,
    errno.ENOTDIR: Code.FILE_MISSING,
    errno.EACCES: Code.FILE_PERMISSION,
    errno.EPERM: Code.FILE_PERMISSION,
    errno.ELOOP: Code.FILE_LINKS,
    errno.ENAMETOOLONG: Code.FILE_PATH,
}
_MAX_READ = 1 << 30


class LocalFile:
    """A regular file, opened for reading.

    Raises:
        CheckpointError: it does not exist, may not be read, or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _check_kind(os.stat(path).st_mode, self.name)  # before opening: to open a device can act on it
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(
                f"cannot be opened: {error.strerror}",
                code=_REASONS.get(error.errno or 0, Code.FILE_OPEN),
                file=self.name,
                hint="check the path and its permissions",
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"is not a path: {error}", code=Code.FILE_PATH, file=self.name, hint="check how the path is written"
            ) from error
        status = os.fstat(self._fd)
        try:
            _check_kind(status.st_mode, self.name)
        except CheckpointError:
            self.close()
            raise
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
                code=Code.FILE_SHORT,
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
                raise CheckpointError(
                    f"cannot be read: {error.strerror}",
                    code=Code.FILE_READ,
                    file=self.name,
                    hint="look at the disk or network that it lies on",
                ) from error
            if not piece:
                raise CheckpointError(
                    "became shorter while it was read",
                    code=Code.FILE_SHRANK,
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
                code=Code.FILE_ESCAPE,
                file=self.name,
                expected="a plain relative path",
                found=repr(name),
                hint="do not use this checkpoint, or mend its index",
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


def _check_kind(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kinds = ((code, kind) for test, code, kind in _KINDS if test(mode))
        code, kind = next(kinds, (Code.FILE_SOCKET, "something else"))
        raise CheckpointError(
            "is not a file that can be inspected",
            code=code,
            file=name,
            expected="a regular file",
            found=kind,
            hint="name the checkpoint file itself",
        )
