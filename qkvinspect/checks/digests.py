"""Lists of SHA-256, as ``sha256sum`` writes them, and the digests of the files that a checkpoint was read from.

A name in a list is compared with those of the files, and never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePath

from qkvinspect.checkpoint import ByteSource, Checkpoint
from qkvinspect.errors import UsageError
from qkvinspect.late_pattern import late_pattern
from qkvinspect.small_files import contents

_MAX_BYTES = 64 << 20
_PIECE = 4 << 20
_LINE = late_pattern(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_TAGGED = late_pattern(r"(\\?)SHA(?:2-)?256 ?\((.+)\) ?= ([0-9a-fA-F]{64})")
_ESCAPED = late_pattern(r"\\([\\nr])")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
"""How a file begins that PowerShell wrote, and its encoding."""

_EXPECTED = "lines of 64 hexadecimal digits, two blanks and a name, as sha256sum writes them"


@dataclass(frozen=True)
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
        for count in range(len(parts), 0, -1):
            if parts[-count:] in self._named:
                return self._named[parts[-count:]]
        alike = self._alike.get(parts[-1], ())
        return alike[0] if len(alike) == 1 else None

    @cached_property
    def _named(self) -> Mapping[tuple[str, ...], str]:
        return {PurePath(name).parts: digest for name, digest in self.files.items()}

    @cached_property
    def _alike(self) -> Mapping[str, Sequence[str]]:
        """The digests by the last component of names."""
        found: dict[str, list[str]] = {}
        for parts, digest in self._named.items():
            found.setdefault(parts[-1] if parts else "", []).append(digest)
        return found


def read(path: Path) -> Digests:
    """Read a manifest.

    Raises:
        UsageError: it cannot be read, or is no manifest.
    """
    data = contents(path, "a manifest", _MAX_BYTES, expected=_EXPECTED)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding, "strict" if encoding == "utf-16" else "surrogateescape")
    except UnicodeDecodeError:
        raise UsageError("is no manifest: it is no UTF-16", file=str(path), expected=_EXPECTED) from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):  # what else divides lines may stand in a name
        line = line.removesuffix("\r")  # noqa: PLW2901
        if not line.strip() or line.startswith("#"):
            continue
        if plain := _LINE.fullmatch(line):
            escaped, digest, name = plain.groups()
        elif tagged := _TAGGED.fullmatch(line):
            escaped, name, digest = tagged.groups()
        else:
            raise UsageError(f"is no manifest: line {number}", file=str(path), expected=_EXPECTED)
        if escaped:
            name = _ESCAPED.sub(lambda one: {"n": "\n", "r": "\r"}.get(one[1], one[1]), name)
        name = str(PurePath(name))
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
