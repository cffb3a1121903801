"""torch.save's zip format (torch 1.6 and later): a pickle, and one stored entry a storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qkvinspect.checkpoint import ByteSource, Checkpoint, Region
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import foreign_parts, pickle, torch_state, zipdir, zipentry
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.request import OpenRequest
from qkvinspect.formats.torch_storages import FindStorage
from qkvinspect.late_pattern import late_pattern

NAME: str = "torch-zip"
IS_INDEX: bool = False

_KNOWN = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
_MAX_VERSION = 10  # kMaxSupportedFileFormatVersion of caffe2/serialize/versions.h
_ALIGNMENT = late_pattern(rb"[1-9][0-9]{0,9}")
_MAX_OTHERS = 50
_SMALL = 1 << 12


def sniff(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04")


class Unpacked(NamedTuple):
    """A zip that torch.save wrote: its pickle, and what it takes to find the storages."""

    loaded: pickle.Loaded
    byteorder: Literal["little", "big"]
    find_storage: FindStorage
    findings: tuple[Finding, ...]


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the directory and the pickle of a checkpoint; no storage is read.

    Raises:
        CheckpointError: it is not such a file, or is damaged.
    """
    loaded, byteorder, find_storage, findings = unpack(source, request.limits)
    checkpoint = torch_state.checkpoint(source, NAME, loaded, request, byteorder, find_storage)
    return replace(checkpoint, findings=(*findings, *checkpoint.findings))


def unpack(source: ByteSource, limits: Limits) -> Unpacked:
    """Read the directory and the pickle, whatever is in it.

    Raises:
        CheckpointError: it is not a file of torch.save, or is damaged.
    """
    directory = zipdir.read_directory(source, limits)
    prefix = _prefix(source, directory)
    checked = directory.has_checksums
    small = _small_entries(source, directory, prefix, checked)
    limits.check("pickle", directory[f"{prefix}data.pkl"].size, source.name)
    data = zipentry.read(source, directory[f"{prefix}data.pkl"], has_checksum=checked)
    loaded = pickle.load_whole(data, source.name, limits)
    regions: dict[str, Region] = {}

    def find_storage(key: str) -> Region:
        if key not in regions:
            entry = directory.get(f"{prefix}data/{key}")
            if entry is None:
                raise CheckpointError(
                    "a storage is missing",
                    code=Code.STORAGE_MISSING,
                    file=source.name,
                    expected=f"entry {prefix}data/{key}",
                    found="none",
                    hint="the file is incomplete: copy or download it again",
                )
            regions[key] = zipentry.EntryRegion(source, entry, has_checksum=checked)
        return regions[key]

    return Unpacked(loaded, _byteorder(source, small), find_storage, (*_findings(small, checked), *_leaving(directory)))


def _small_entries(source: ByteSource, directory: zipdir.Directory, prefix: str, checked: bool) -> dict[str, bytes]:
    """What torch writes beside pickle and storages, by name; its bytes where it is small.

    Each is read whole, so that a name or a byte that is damaged does not pass for one that is missing.
    """
    storages, pickled = f"{prefix}data/", f"{prefix}data.pkl"
    others = [name for name in directory if not name.startswith(storages) and name != pickled and name[-1:] != "/"]
    return {
        entry.name.removeprefix(prefix) if entry.name.startswith(prefix) else f"/{entry.name}": zipentry.read(
            source, entry, has_checksum=checked
        )
        if entry.size < _SMALL
        else b""
        for entry in map(directory.__getitem__, others[:_MAX_OTHERS])
    }


def _findings(small: dict[str, bytes], checked: bool) -> Iterator[Finding]:
    if not checked:
        yield Finding(FindingCode.NO_CHECKSUMS, "it was saved without checksums: changed bytes would not be noticed")
    unknown = [name for name in small if name not in _KNOWN]
    if unknown:
        yield Finding(FindingCode.UNKNOWN_ENTRIES, f"torch.save writes no {', '.join(map(repr, unknown[:4]))}")
    alignment = small.get(".storage_alignment", b"64")
    if not _ALIGNMENT.fullmatch(alignment):
        text = f"its storage_alignment is {alignment[:20]!r}, where torch writes a number"
        yield Finding(FindingCode.BAD_ALIGNMENT, text)
    if "version" not in small:
        yield Finding(FindingCode.NO_VERSION, "it has no version entry, without which torch.load refuses it")


def _leaving(directory: zipdir.Directory) -> Iterator[Finding]:
    names = [name for name in directory if "\\" in name or (".." in name and ".." in name.split("/"))]
    if names:
        text = f"entries such as {names[0]!r} would be written outside of the folder that it is unpacked to"
        yield Finding(FindingCode.ENTRIES_LEAD_OUT, text)


def _prefix(source: ByteSource, entries: zipdir.Directory) -> str:
    """The folder inside the zip that holds ``data.pkl``."""
    found = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    prefixes = {name.partition("/")[0] for name in entries if "/" in name}
    foreign_parts.check_zip(entries, source.name)
    if len(found) != 1 or len(prefixes) != 1:
        raise CheckpointError(
            "is a zip file but not a torch checkpoint",
            code=Code.ZIP_PICKLE,
            file=source.name,
            expected="one folder with a data.pkl",
            found=f"{len(found)} such files in {len(prefixes)} folders, {len(entries)} entries",
            hint="if it is an archive of checkpoints, unpack it first",
        )
    return found[0].removesuffix("data.pkl")


def _byteorder(source: ByteSource, small: dict[str, bytes]) -> Literal["little", "big"]:
    version = small.get("version", b"3").strip()
    if not (version.isdigit() and len(version) < 3 and 1 <= int(version) <= _MAX_VERSION):
        raise CheckpointError(
            "is of an unknown version",
            code=Code.ZIP_VERSION,
            file=source.name,
            expected=f"1 to {_MAX_VERSION}",
            found=repr(version[:20]),
            hint="the file is damaged, or of a newer torch than this tool knows",
        )
    text = small.get("byteorder", b"little")
    match text:
        case b"little":
            return "little"
        case b"big":
            return "big"
        case _:
            raise CheckpointError(
                "has an unknown byte order",
                code=Code.ZIP_BYTEORDER,
                file=source.name,
                expected="little or big",
                found=repr(text[:20]),
                hint="the file is damaged: copy or download it again",
            )
