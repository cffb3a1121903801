"""Lists of SHA-256, as ``sha256sum`` writes them, and the digests of the files that a checkpoint was read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath

from qkvinspect.checkpoint import ByteSource, Checkpoint
from qkvinspect.errors import UsageError
from qkvinspect.late_pattern import late_pattern
from qkvinspect.small_files import contents

_MAX_BYTES = 64 << 20
_PIECE = 4 << 20
_LINE = late_pattern(r"\\?([0-9a-fA-F]{64}) [ *](.+)")
_TAGGED = late_pattern(r"\\?SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_EXPECTED = "lines of 64 hexadecimal digits, two blanks and a name, as sha256sum writes them"


@dataclass(frozen=True, slots=True)
class Digests:
    """The SHA-256 that files should have.

    Attributes:
        origin: who says so: the manifest's path, or the hub's repository.
        files: SHA-256 in hexadecimal digits, by the name that is given.
    """

    origin: str
    files: Mapping[str, str]

    def of(self, path: str) -> str | None:
        """The expected digest: of the longest name that the path ends with, else of the only equal file name."""
        parts = Path(path).absolute().parts
        named = {PurePath(name.removeprefix("./")).parts: digest for name, digest in self.files.items()}
        for count in range(len(parts), 0, -1):
            if parts[-count:] in named:
                return named[parts[-count:]]
        alike = [digest for name, digest in named.items() if name and name[-1] == parts[-1]]
        return alike[0] if len(alike) == 1 else None


def read(path: Path) -> Digests:
    """Read a manifest.

    Raises:
        UsageError: it cannot be read, or is no manifest.
    """
    data = contents(path, "a manifest", _MAX_BYTES, expected=_EXPECTED)
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if plain := _LINE.fullmatch(line):
            digest, name = plain.groups()
        elif tagged := _TAGGED.fullmatch(line):
            name, digest = tagged.groups()
        else:
            raise UsageError(f"is no manifest: line {number}", file=str(path), expected=_EXPECTED)
        if found.setdefault(name, digest.lower()) != digest.lower():
            raise UsageError(f"has two digests for {name!r}", file=str(path))
    if not found:
        raise UsageError("is an empty manifest", file=str(path), expected=_EXPECTED)
    return Digests(str(path), found)


def file_digests(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Hash every file that tensors were read from: (name, SHA-256).

    Raises:
        CheckpointError: one cannot be read.
    """
    sources: dict[str, ByteSource] = {}
    if checkpoint.source is not None:
        sources[checkpoint.source.name] = checkpoint.source
    for info in checkpoint.tensors.values():
        for extent in info.region.extents:
            sources.setdefault(extent.source.name, extent.source)
    for name, source in sorted(sources.items()):
        digest = sha256()
        for start in range(0, source.size, _PIECE):
            digest.update(source.read(start, min(_PIECE, source.size - start)))
        yield name, digest.hexdigest()
