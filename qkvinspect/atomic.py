"""Write files and folders that appear complete or not at all; and into devices and pipes, which have no such moment."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import signal
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

from qkvinspect import inputs
from qkvinspect.errors import QkvInspectError, UsageError

_HERE = -100
"""AT_FDCWD of <fcntl.h>: paths are as usual."""

_NO_REPLACE = 1
"""RENAME_NOREPLACE of <linux/fs.h>."""

_LOOK = 0.01
"""Seconds between two checks of how much has been written."""

_FLOW = 32 << 20
"""Bytes that are synced to disk at a time while more are written."""


@contextmanager
def new_file(target: Path, *, force: bool) -> Generator[BinaryIO]:
    """Write a file that gets its name ``target`` on success, and is removed on any failure.

    The contents are on disk before the name is, and nothing is overwritten unless ``force``. Where the system
    can, the file has no name until then, so that not even a killed process leaves it behind. A link stays, and what it
    leads to is the target. What is written to a device of characters or a pipe flows on at once.

    Raises:
        UsageError: the target exists, or its folder cannot be written to; or it can be no file.
    """
    require_free(target, force=force)
    with _stream(target) if _flows(target) else _complete(_followed(target), force=force) as file:
        yield file


@contextmanager
def _complete(target: Path, *, force: bool) -> Generator[BinaryIO]:
    temporary = _temporary(target)
    try:
        descriptor, named = _create(temporary, target)
        with os.fdopen(descriptor, "w+b") as file:
            with _flowing(file.fileno()):
                yield file
                file.flush()
            os.fsync(file.fileno())
            require_unread(target)  # which may have been read after it was asked for
            if not named:
                _give_name(file.fileno(), temporary if force else target)
        if force:
            os.replace(temporary, target)
        elif named:
            _rename(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _failed(target, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def _stream(target: Path) -> Generator[BinaryIO]:
    try:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
            yield file
    except BrokenPipeError:
        raise  # whoever reads it has enough, as of stdout
    except OSError as error:
        raise QkvInspectError(f"could not be written: {error.strerror}", file=str(target)) from error


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """Fill a folder beside ``target`` that takes that name on success, and is removed on any failure.

    Raises:
        UsageError: the target exists, or the folder that it shall be in cannot be written to.
    """
    _require_nothing(target)
    temporary = _temporary(target)
    try:
        try:
            temporary.mkdir()
        except OSError as error:
            raise _unwritable(target, error) from error
        yield temporary
        sync_folder(temporary)
        _rename(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _failed(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _flowing(descriptor: int) -> Generator[None]:
    """Sync what is written to disk while more is being written: one sync of everything at the end takes longer."""
    over = Event()
    failed: list[OSError] = []

    def flow() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
        done = 0
        while not failed and not over.wait(_LOOK):
            size = os.fstat(descriptor).st_size
            if size - done >= _FLOW:
                done = size
                try:
                    os.fsync(descriptor)
                except OSError as error:  # an error of writing, which the system reports only once
                    failed.append(error)

    thread = Thread(target=flow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def require_free(target: Path, *, force: bool, given: Iterable[Path] = ()) -> None:
    """Refuse a file that exists and may not be replaced, and, whatever ``force`` says, what is read or can be no file.

    A device of characters or a pipe is free: what is written to it replaces nothing.

    Args:
        given: what will be read, of which nothing may be noted yet.

    Raises:
        UsageError: the target is one of these.
    """
    require_unread(target, given)
    if not _flows(target):
        require_regular(target)
        if not force and _mode(target):
            raise _exists(target)


def require_regular(target: Path) -> None:
    """Refuse what is there and is no regular file.

    Raises:
        UsageError: it is a folder, a device or a pipe.
    """
    mode = _mode(target)
    if mode and not stat.S_ISREG(mode):
        raise UsageError(
            f"is {_KINDS.get(stat.S_IFMT(mode), 'no file')}", file=str(target), hint="give the name of a file"
        )


def require_unread(target: Path, given: Iterable[Path] = ()) -> None:
    """Refuse what is read.

    Raises:
        UsageError: it is, or will be, as it is ``given``.
    """
    if inputs.is_read(target) or any(_same_file(target, one) for one in given):
        raise UsageError("is what is being read", file=str(target), hint="give another name")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
"""What is no regular file."""


def _mode(target: Path) -> int:
    """Of what the name leads to; 0 where that is nothing."""
    try:
        return target.stat().st_mode
    except (OSError, ValueError):
        return 0


def _flows(target: Path) -> bool:
    return stat.S_IFMT(_mode(target)) in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)


def _followed(target: Path) -> Path:
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _require_nothing(target: Path) -> None:
    """Refuse a name that anything has."""
    require_unread(target)
    if os.path.lexists(target):
        raise _exists(target)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it are on disk."""
    with suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create(temporary: Path, target: Path) -> tuple[int, bool]:
    """A descriptor to write to, and whether the file has a name already."""
    if Path("/proc/self/fd").is_dir() and (nameless := getattr(os, "O_TMPFILE", 0)):
        with suppress(OSError):  # not every file system has such files
            return os.open(temporary.parent, os.O_RDWR | os.O_CLOEXEC | nameless, 0o666), False
    try:
        return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
    except OSError as error:
        raise _unwritable(target, error) from error


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")


def _give_name(descriptor: int, target: Path) -> None:
    """Link a nameless file, only if nothing has the name."""
    own = f"/proc/self/fd/{descriptor}"
    try:
        os.link(own, target, src_dir_fd=descriptor, follow_symlinks=True)  # else Python links the link itself
    except FileExistsError as error:
        raise _exists(target) from error


def _rename(old: Path, new: Path) -> None:
    """Rename only if nothing has the new name."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_HERE, os.fsencode(old), _HERE, os.fsencode(new), _NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EEXIST:
            raise _exists(new)
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    try:
        os.link(old, new)
    except FileExistsError as error:
        raise _exists(new) from error
    except OSError:  # a folder, or a file system that has neither: a name that is taken just now is lost
        _require_nothing(new)
        old.rename(new)


def _exists(target: Path) -> UsageError:
    return UsageError("exists already", file=str(target), hint="give another name, or --force to replace it")


def _unwritable(target: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot be written: {error.strerror}", file=str(target), hint="check the folder and its permissions"
    )


def _failed(target: Path, error: OSError) -> QkvInspectError:
    return QkvInspectError(f"could not be written: {error.strerror}", file=str(target), hint="nothing was left behind")
