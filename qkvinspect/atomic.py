"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qkvinspect.errors import QkvInspectError, UsageError


@contextmanager
def new_file(target: Path, *, force: bool) -> Generator[BinaryIO]:
    """Write a temporary file beside ``target``; on success it takes that name, on any failure it goes.

    The contents are on disk before the name is, and nothing is overwritten unless ``force``.

    Raises:
        UsageError: the target exists, or its folder cannot be written to.
    """
    if not force and os.path.lexists(target):
        raise _exists(target)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", file=str(target), hint="check the folder and its permissions"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, target)
        else:
            _link(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise QkvInspectError(
            f"could not be written: {error.strerror}", file=str(target), hint="nothing was left behind"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _link(temporary: Path, target: Path) -> None:
    """Give the file its name only if nothing has it."""
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError:  # a file system without hard links: reserve the name, then replace the reservation
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise _exists(target) from error
        os.replace(temporary, target)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(target: Path) -> UsageError:
    return UsageError("exists already", file=str(target), hint="give another name, or --force to replace it")
