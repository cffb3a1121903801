"""Files on this machine, read with pread and never mapped: a file that shrinks is an error, not a SIGBUS."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from qkvinspect import inputs
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.sources import listing
from qkvinspect.sources.nearby import suggestion
from qkvinspect.sources.urls import require_plain

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

Asked = TypeVar("Asked")
Some = TypeVar("Some", bytes, int)


def changed(name: str, size: int | None, found: str) -> CheckpointError:
    """The error for a file that is no longer the one that was opened."""
    return CheckpointError(
        "was changed or replaced while it was read",
        code=Code.FILE_CHANGED,
        file=name,
        expected=f"the file of {size} bytes that was opened",
        found=found,
        hint="something is writing to it: wait until that is finished",
    )


def require_within(name: str, size: int, offset: int, length: int) -> None:
    """Refuse to read beyond the end of a file.

    Raises:
        CheckpointError: the range is not in the file: a header claims more than there is.
    """
    if offset < 0 or length < 0 or offset + length > size:
        raise CheckpointError(
            "is shorter than its own header says",
            code=Code.FILE_SHORT,
            file=name,
            expected=f"{length} bytes at offset {offset}",
            found=f"{size} bytes in all",
            hint="the file is truncated: copy or download it again",
        )


class LocalFile:
    """A regular file, opened for reading.

    Args:
        kept: whether it stays open between reads: one file of many does not, as the system limits their number.

    Raises:
        CheckpointError: it does not exist, may not be read, or is not a regular file.
    """

    def __init__(self, path: Path, *, kept: bool = True) -> None:
        self._path = path
        self._kept = kept
        self._closed = False
        self._fd, self._status = self._open()
        self._identity = _identity(self._status)
        if not kept:
            os.close(self._fd)

    def _open(self) -> tuple[int, os.stat_result]:
        try:
            _check_kind(os.stat(self._path).st_mode, self.name)  # before opening: to open a device can act on it
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            code = _REASONS.get(error.errno or 0, Code.FILE_OPEN)
            raise CheckpointError(
                f"cannot be opened: {error.strerror}",
                code=code,
                file=self.name,
                hint=(code is Code.FILE_MISSING and suggestion(self._path)) or "check the path and its permissions",
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"is not a path: {error}", code=Code.FILE_PATH, file=self.name, hint="check how the path is written"
            ) from error
        status = os.fstat(fd)
        try:
            _check_kind(status.st_mode, self.name)
        except CheckpointError:
            os.close(fd)
            raise
        inputs.note(status)
        return fd, status

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def size(self) -> int:
        return self._status.st_size

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= offset <= offset + length <= self.size:
            require_within(self.name, self.size, offset, length)
        if self._kept and not self._closed:  # as below, in a third of the time: small reads are many
            return self._read(self._fd, offset, length)
        with self._descriptor() as fd:
            return self._read(fd, offset, length)

    def copy(self, offset: int, length: int, target: int) -> int:
        """Have the system append bytes to the file of descriptor ``target``; returns how many, 0 where it cannot."""
        if not hasattr(os, "copy_file_range"):
            return 0
        with self._descriptor() as fd:
            try:
                copied = os.copy_file_range(fd, target, length, offset)
            except OSError:  # of whichever file: reading and writing tells
                return 0
            self._compare(os.fstat(fd))
            return copied

    @contextmanager
    def _descriptor(self) -> Generator[int]:
        if self._closed:
            raise CheckpointError("is closed", code=Code.FILE_READ, file=self.name, hint="open the checkpoint again")
        if self._kept:
            yield self._fd
            return
        fd, _ = self._open()
        try:
            yield fd
        finally:
            os.close(fd)

    def _read(self, fd: int, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        while length:
            piece = self._some(os.pread, fd, min(length, _MAX_READ), offset)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        self._compare(os.fstat(fd))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, offset: int, room: memoryview) -> None:
        length = len(room)
        if not 0 <= offset <= offset + length <= self.size:
            require_within(self.name, self.size, offset, length)
        if self._kept and not self._closed:  # as in ``read``
            self._read_into(self._fd, offset, room)
            return
        with self._descriptor() as fd:
            self._read_into(fd, offset, room)

    def _read_into(self, fd: int, offset: int, room: memoryview) -> None:
        at = 0
        while at < len(room):
            at += self._some(_fill, fd, room[at:], offset + at)
        self._compare(os.fstat(fd))

    def read_apart(self, offset: int, step: int, length: int, room: memoryview) -> None:
        """Pieces of ``length`` bytes, each ``step`` bytes after the one before, as many as there is room.

        With less to do for each than ``read_into`` has.
        """
        count = len(room) // length
        require_within(self.name, self.size, offset, (count - 1) * step + length)
        with self._descriptor() as fd:
            for number in range(count):
                piece = room[number * length : (number + 1) * length]
                at = self._some(_fill, fd, piece, offset + number * step)
                if at < length:
                    self.read_into(offset + number * step + at, piece[at:])
            self._compare(os.fstat(fd))

    def _some(self, read: Callable[[int, Asked, int], Some], fd: int, asked: Asked, offset: int) -> Some:
        """What one call to the system gives of what is asked for at ``offset``: bytes, or how many."""
        try:
            some = read(fd, asked, offset)
        except OSError as error:
            raise CheckpointError(
                f"cannot be read: {error.strerror}",
                code=Code.FILE_READ,
                file=self.name,
                hint="look at the disk or network that it is on",
            ) from error
        if not some:
            raise CheckpointError(
                "became shorter while it was read",
                code=Code.FILE_SHRANK,
                file=self.name,
                expected=f"{self.size} bytes",
                found=f"the end at {offset}",
                hint="something is writing to it: wait until that is finished",
            )
        return some

    def check(self) -> None:
        try:
            self._compare(os.stat(self._path))
        except OSError as error:
            raise changed(self.name, self.size, f"none: {error.strerror}") from error

    def _compare(self, now: os.stat_result) -> None:
        if _identity(now) != self._identity:
            then = self._status
            same = now.st_ino == then.st_ino and now.st_dev == then.st_dev
            found = f"one of {now.st_size} bytes, written to since" if same else "another in its place"
            raise changed(self.name, self.size, found)

    def relative(self, name: str) -> LocalFile:
        """A file beside this one or below its folder.

        A link there is followed to a file of that folder, or, where this file is a link too, to one that lies
        beside what this one leads to: so the hub's cache keeps ``snapshots/<revision>/<file>`` as links into
        ``blobs``.
        """
        require_plain(name, self.name)
        file = LocalFile(self._path.parent / name, kept=False)
        folder, place = os.path.realpath(self._path.parent), os.path.realpath(file._path)
        if os.path.commonpath((folder, place)) != folder and not (
            self._path.is_symlink() and os.path.dirname(place) == os.path.dirname(os.path.realpath(self._path))
        ):
            raise CheckpointError(
                "is a link that leads out of the checkpoint's folder",
                code=Code.FILE_LINK_OUT,
                file=file.name,
                expected=f"a file in {folder}",
                found=place,
                hint="copy the file to where the link is",
            )
        return file

    def siblings(self) -> tuple[str, ...]:
        return listing.files(str(self._path.parent))

    def close(self) -> None:
        if self._kept and not self._closed:
            os.close(self._fd)
        self._closed = True

    def __del__(self) -> None:
        """Nobody reads it any more: in a notebook, nobody closes it either."""
        if hasattr(self, "_status"):
            self.close()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What is the same of a file as long as nobody writes to it."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev


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


def _fill(fd: int, room: memoryview, offset: int) -> int:
    """Read into memory that is there; where the system cannot, by way of new memory."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [room], offset)
    piece = os.pread(fd, len(room), offset)
    room[: len(piece)] = piece
    return len(piece)
