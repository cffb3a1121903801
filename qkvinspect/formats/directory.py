"""A directory stands for the checkpoint in it: its index, or its one checkpoint file."""

from __future__ import annotations

from pathlib import Path

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.model import Finding

_USUAL = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "adapter_model.safetensors",
)
"""The names that transformers, diffusers and peft give the model, the preferred first."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def choose(folder: Path) -> tuple[Path, tuple[Finding, ...]]:
    """The file that a folder stands for, and a finding if there were others.

    Raises:
        CheckpointError: there is none, or no way to tell which.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise CheckpointError(f"cannot be listed: {error.strerror}", code=Code.FOLDER_LIST, file=str(folder)) from error
    indexes = [name for name in names if name.endswith((".safetensors.index.json", ".bin.index.json"))]
    files = [name for name in names if name.endswith(SUFFIXES)]
    usual = [name for name in _USUAL if name in files]
    candidates = ([n for n in indexes if ".safetensors." in n] or indexes or usual[:1]) or files
    if len(candidates) == 1:
        others = [name for name in files if name not in candidates]
        findings: tuple[Finding, ...] = ()
        if others and not indexes:
            note = f"{candidates[0]} was read; also here: {', '.join(others)}"
            findings = (Finding("other-files", "info", note),)
        return folder / candidates[0], findings
    if ".metadata" in names and not candidates:
        raise CheckpointError(
            "is a torch.distributed.checkpoint, which qkvinspect does not read",
            code=Code.DCP,
            file=str(folder),
            hint="convert it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch`",
        )
    raise CheckpointError(
        "holds several checkpoints" if candidates else "holds no checkpoint",
        code=Code.FOLDER_SEVERAL if candidates else Code.FOLDER_NONE,
        file=str(folder),
        expected="a shard index or one checkpoint file",
        found=", ".join(candidates[:8]) or f"{len(names)} other files",
        hint="name the file itself",
    )
