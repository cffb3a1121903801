"""Files in memory: what a format reads, without the cost of a file system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError


class MemoryFile:
    """A ByteSource over bytes; the files beside it are ``folder``."""

    def __init__(self, data: bytes, name: str = "model", folder: Mapping[str, bytes] | None = None) -> None:
        self.data = data
        self.name = name
        self.size = len(data)
        self.folder = folder or {}

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CheckpointError(
                "is shorter than its own header says", code=Code.FILE_SHORT, file=self.name, hint="copy it again"
            )
        return self.data[offset : offset + length]

    def relative(self, name: str) -> MemoryFile:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise CheckpointError(
                "names a file outside its own folder", code=Code.FILE_ESCAPE, file=self.name, hint="do not use it"
            )
        if str(path) not in self.folder:
            raise CheckpointError(
                "cannot be opened: No such file or directory",
                code=Code.FILE_MISSING,
                file=str(path),
                hint="check the path and its permissions",
            )
        return MemoryFile(self.folder[str(path)], str(path), self.folder)

    def siblings(self) -> tuple[str, ...]:
        return tuple(sorted(self.folder))

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass
