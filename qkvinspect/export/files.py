"""Write a plan to a file or to shards: complete, and verified if asked, before it has its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from qkvinspect.atomic import new_file, new_folder, require_free, require_regular, require_unread
from qkvinspect.errors import UsageError
from qkvinspect.export.compare import verify
from qkvinspect.export.manifest import Manifest, source_files
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.export.safetensors_file import require_code, write_safetensors
from qkvinspect.export.torch_file import as_torch_counts, write_torch
from qkvinspect.inspection.report import Report
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce

SUFFIXES = (".safetensors", ".pt", ".pth")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class How:
    """How to write.

    Attributes:
        force: replace an existing file.
        max_shard: bytes of tensors in one file of several; 0: one file.
        verify: read the result again and compare it before it has its name.
        hashed: put the sha256 of the sources into the metadata.
        kept: carry the source's own metadata along.
        metadata: what the result says of itself.
    """

    force: bool = False
    max_shard: int = 0
    verify: bool = False
    hashed: bool = False
    kept: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def write(
    report: Report, pieces: Sequence[OutputTensor], target: Path, how: How = How(), progress: Progress | None = None
) -> None:
    """Write the pieces to ``target``, whole or not at all; its suffix chooses the format.

    Raises:
        UsageError: the target cannot be, exists, or is the checkpoint itself, or there is no room for it.
        LayoutError: the format has no such dtype.
        QkvInspectError: it could not be written.
    """
    require_possible(report, pieces, target, how)
    total = sum(piece.nbytes for piece in pieces)
    advance = counter(total * (2 if how.verify else 1), progress)
    announce(info.region for piece in pieces for info in piece.sources)
    with Manifest(report, pieces, hashed=how.hashed, kept=how.kept, more=how.metadata) as manifest:
        if how.max_shard:
            with new_folder(target) as folder:
                _write_shards(folder, pieces, manifest, how.max_shard, advance)
                if how.verify:
                    verify(folder, pieces, target, advance)
                report.checkpoint.settle()
            return
        with new_file(target, force=how.force) as file:
            _write_file(file, target.suffix, pieces, manifest, advance)
            if how.verify:
                file.flush()
                os.fsync(file.fileno())
                _forget(file)
                verify(Path(f"/dev/fd/{file.fileno()}"), pieces, target, advance)
            report.checkpoint.settle()


def require_possible(
    report: Report, pieces: Sequence[OutputTensor], target: Path, how: How, *, by_torch: bool | None = None
) -> None:
    """Refuse before anything is written.

    Args:
        by_torch: whether it will be torch's files and not safetensors; by default what the target's suffix says.

    Raises:
        UsageError: the target cannot be, exists, or is the checkpoint itself, or there is no room for it.
        LayoutError: the format has no such dtype.
    """
    if how.max_shard and target.suffix in SUFFIXES:
        raise UsageError("is a file's name, and shards go into a folder", file=str(target), hint="leave its suffix out")
    if not how.max_shard and target.suffix not in SUFFIXES:
        raise UsageError("has a suffix that names no format", file=str(target), expected=" or ".join(SUFFIXES))
    require_unread(target, map(Path, source_files(report.checkpoint, pieces)))
    if by_torch is None:
        by_torch = target.suffix in (".pt", ".pth")
    for piece in pieces:
        as_torch_counts(piece) if by_torch else require_code(piece)
    if how.max_shard and os.path.lexists(target):
        raise UsageError("exists already", file=str(target), hint="give another name: a folder is never replaced")
    require_regular(target)  # a checkpoint is not written from its first byte to its last
    require_free(target, force=how.force)
    needed = sum(piece.nbytes for piece in pieces)
    with suppress(OSError):
        disk = os.statvfs(target.parent)
        if disk.f_bavail * disk.f_frsize < needed:
            raise UsageError(
                "there is no room for it",
                file=str(target),
                expected=f"{needed} bytes",
                found=f"{disk.f_bavail * disk.f_frsize} bytes free",
                hint="make room, or write to another disk",
            )


def shards(pieces: Sequence[OutputTensor], most: int) -> list[list[OutputTensor]]:
    """The pieces in their order, in runs of at most ``most`` bytes; a larger tensor has a file of its own."""
    found: list[list[OutputTensor]] = [[]]
    size = 0
    for piece in pieces:
        if found[-1] and size + piece.nbytes > most:
            found.append([])
            size = 0
        found[-1].append(piece)
        size += piece.nbytes
    return found


def _write_shards(
    folder: Path, pieces: Sequence[OutputTensor], manifest: Manifest, most: int, advance: Callable[[int], None]
) -> None:
    """The index comes last: without it the folder is no checkpoint."""
    parts = shards(pieces, most)
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        places |= dict.fromkeys((piece.name for piece in part), name)
        with new_file(folder / name, force=False) as file:
            write_safetensors(file, part, _shard_metadata, _shard_metadata, advance)
    metadata = {"total_size": sum(piece.nbytes for piece in pieces), **manifest.finished()}
    index = {"metadata": metadata, "weight_map": dict(sorted(places.items()))}
    with new_file(folder / INDEX, force=False) as file:
        file.write(json.dumps(index, indent=2).encode() + b"\n")


def _shard_metadata() -> dict[str, str]:
    return {"format": "pt"}


def _write_file(
    file: BinaryIO, suffix: str, pieces: Sequence[OutputTensor], manifest: Manifest, advance: Callable[[int], None]
) -> None:
    if suffix == ".safetensors":
        write_safetensors(file, pieces, manifest.texts, manifest.finished, advance)
    else:
        write_torch(file, pieces, manifest.finished, advance)


def _forget(file: BinaryIO) -> None:
    """Have the system read it from the disk again, where it can be asked to."""
    with suppress(AttributeError, OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
