"""torch.save's zip format (torch 1.6 and later): a pickle, and one stored entry a storage."""

from __future__ import annotations

from typing import Literal

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import pickle, torch_state, zipdir
from qkvinspect.formats.request import Request
from qkvinspect.model import ByteSource, Checkpoint, Region

NAME = "torch-zip"


def sniff(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04")


def open(source: ByteSource, request: Request) -> Checkpoint:
    """Read the directory and the pickle of a checkpoint; no storage is read.

    Raises:
        CheckpointError: it is not such a file, or is damaged.
    """
    entries = zipdir.read_directory(source)
    prefix = _prefix(source, entries)
    byteorder = _byteorder(source, entries.get(f"{prefix}byteorder"))
    root = pickle.load(zipdir.read_entry(source, entries[f"{prefix}data.pkl"]), source.name)
    regions: dict[str, Region] = {}

    def find_storage(key: str) -> Region:
        if key not in regions:
            entry = entries.get(f"{prefix}data/{key}")
            if entry is None:
                raise CheckpointError(
                    "a storage is missing",
                    code=Code.STORAGE_MISSING,
                    file=source.name,
                    expected=f"entry {prefix}data/{key}",
                    found="none",
                )
            regions[key] = zipdir.region(source, entry)
        return regions[key]

    return torch_state.checkpoint(source, NAME, root, request, byteorder, find_storage)


def _prefix(source: ByteSource, entries: dict[str, zipdir.Entry]) -> str:
    """The folder inside the zip that holds ``data.pkl``."""
    found = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    prefixes = {name.partition("/")[0] for name in entries if "/" in name}
    if any(name.partition("/")[2] in ("constants.pkl", "code/__torch__.py") for name in entries):
        raise CheckpointError(
            "is a TorchScript program, not a state_dict",
            code=Code.IS_TORCHSCRIPT,
            file=source.name,
            hint="save torch.jit.load(path).state_dict() with torch.save and inspect that",
        )
    if any(name.partition("/")[2] == ".data/extern_modules" for name in entries):
        raise CheckpointError(
            "is a torch.package archive, not a state_dict",
            code=Code.IS_PACKAGE,
            file=source.name,
            hint="load the model with torch.package and save its state_dict()",
        )
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


def _byteorder(source: ByteSource, entry: zipdir.Entry | None) -> Literal["little", "big"]:
    text = zipdir.read_entry(source, entry) if entry is not None else b"little"
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
            )
