"""Find the file of a directory that is its checkpoint: its index, or its only checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources.folder import LocalFolder

if TYPE_CHECKING:
    from qkvinspect.sources.locate import RemoteFile, RemoteFolder

USUAL = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "adapter_model.safetensors",
)
"""The names that transformers, diffusers and peft give a model, in order of preference."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".onnx")

_PART = late_pattern(r"(.*)-\d{5}(-of-\d{5}\.gguf)", re.DOTALL)


def _are_parts(names: Sequence[str]) -> bool:
    """Whether files are parts of one checkpoint, each of which leads to the others."""
    if all(name.startswith("shard-") and name.endswith(".safetensors") for name in names):
        return True
    parts = [_PART.fullmatch(name) for name in names]
    return None not in parts and len({part.groups() for part in parts if part}) == 1


def is_one(folder: Path) -> bool:
    """Whether a folder has the index, the usual name or the parts of one checkpoint."""
    from qkvinspect.formats.ranks.file_names import here

    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return True
    checkpoints = [name for name in names if name.endswith(SUFFIXES)]
    if here(LocalFolder(folder)) is not None:
        return True
    return (
        not names.isdisjoint((*USUAL, ".metadata"))
        or any(name.endswith(".index.json") for name in names)
        or len(checkpoints) == len(names - {"config.json"}) == 1
        or (bool(checkpoints) and all(map(_PART.fullmatch, checkpoints)) and _are_parts(checkpoints))
    )


def choose(folder: Path) -> tuple[Path, tuple[Finding, ...]]:
    """The file that a folder stands for, and a finding if there were others.

    Raises:
        CheckpointError: there is none, or no way to tell which.
    """
    try:
        entries = sorted(folder.iterdir())
        names = [entry.name for entry in entries if entry.is_file()]
        arrays = [f"{entry.name}/.zarray" for entry in entries if (entry / ".zarray").is_file()]
    except OSError as error:
        raise CheckpointError(
            f"cannot be listed: {error.strerror}",
            code=Code.FOLDER_LIST,
            file=str(folder),
            hint="check the permissions of the folder",
        ) from error
    name, findings = _pick(names, arrays, str(folder))
    return folder / name, findings


def choose_remote(folder: RemoteFolder) -> tuple[RemoteFile, tuple[Finding, ...]]:
    """The file that a remote folder stands for; where its files cannot be listed, the first of the usual names.

    Raises:
        CheckpointError: there is none, or no way to tell which.
    """
    entries = folder.entries()
    if entries is not None:
        name, findings = _pick(entries.files, (), folder.name)
        return folder.open(name), findings
    for name in (*_INDEXES, *USUAL):
        file = folder.open(name)
        try:
            if file.size:
                return file, ()
        except CheckpointError as error:
            if error.code not in (Code.FILE_MISSING, Code.FILE_PERMISSION):
                file.close()
                raise
        file.close()
    raise CheckpointError(
        "holds no checkpoint of a usual name, and a web server does not list its files",
        code=Code.FOLDER_NONE,
        file=folder.name,
        hint="name the file itself",
    )


def _pick(names: Sequence[str], arrays: Sequence[str], folder: str) -> tuple[str, tuple[Finding, ...]]:
    """Which of a folder's files stands for it."""
    from qkvinspect.formats import foreign_parts

    readable = [name for name in names if name.endswith(SUFFIXES) and not name.endswith("_states.pt")]
    foreign_parts.check_folder(arrays or (() if readable else names), folder)
    indexes = [name for name in names if name.endswith((".safetensors.index.json", ".bin.index.json"))]
    files = [name for name in names if name.endswith(SUFFIXES)]
    usual = [name for name in USUAL if name in files]
    distributed = [name for name in names if name == ".metadata" and any(n.endswith(".distcp") for n in names)]
    candidates = [n for n in indexes if ".safetensors." in n] or indexes or usual[:1] or distributed or files
    if len(candidates) > 1 and _are_parts(candidates):
        return candidates[0], ()
    if len(candidates) == 1:
        others = [name for name in files if name not in candidates]
        findings: tuple[Finding, ...] = ()
        if others and not indexes:
            note = f"{candidates[0]} was read; also here: {', '.join(others)}"
            findings = (Finding(FindingCode.OTHER_FILES, note),)
        return candidates[0], findings
    if not candidates and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            "is a torch.distributed.checkpoint without the one .metadata that describes all of it",
            code=Code.DCP,
            file=folder,
            expected=".metadata",
            found=", ".join(name for name in names if name.endswith(".metadata")) or "none",
            hint="copy the whole folder; if every rank wrote metadata of its own, save again with use_collectives=True",
        )
    raise CheckpointError(
        "holds several checkpoints" if candidates else "holds no checkpoint",
        code=Code.FOLDER_SEVERAL if candidates else Code.FOLDER_NONE,
        file=folder,
        expected="a shard index or one checkpoint file",
        found=", ".join(candidates[:8]) or f"{len(names)} other files",
        hint="name the file itself",
    )
