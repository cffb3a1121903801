"""Which file a directory stands for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint


def fill(folder: Path, *names: str) -> None:
    """Checkpoints, each with a tensor named after its file; an index beside its only shard."""
    for name in names:
        if name.endswith(".index.json"):
            shard = f"{name.removesuffix('.index.json')}.shard"
            safetensors.torch.save_file({name: torch.ones(1)}, folder / shard)
            (folder / name).write_text(json.dumps({"weight_map": {name: shard}}))
        elif name.endswith(".safetensors"):
            safetensors.torch.save_file({name: torch.ones(1)}, folder / name)
        elif name.endswith((".pt", ".pth", ".bin", ".ckpt")):
            torch.save({name: torch.ones(1)}, folder / name)
        else:
            (folder / name).write_text("{}")


CHOSEN: dict[str, tuple[list[str], str, bool]] = {
    "the only one": (["weights.pt"], "weights.pt", False),
    "the only one, .ckpt": (["last.ckpt", "config.json", "README.md"], "last.ckpt", False),
    "the only one, .pth": (["x.pth"], "x.pth", False),
    "the usual one": (["model.safetensors", "other.safetensors"], "model.safetensors", True),
    "safetensors before bin": (["model.safetensors", "pytorch_model.bin"], "model.safetensors", True),
    "bin before optimizer": (["pytorch_model.bin", "optimizer.pt", "scheduler.pt"], "pytorch_model.bin", True),
    "diffusers": (
        ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"],
        "diffusion_pytorch_model.safetensors",
        True,
    ),
    "model before adapter": (["adapter_model.safetensors", "model.safetensors"], "model.safetensors", True),
    "index before files": (
        ["model.safetensors.index.json", "model.safetensors", "x.pt"],
        "model.safetensors.index.json",
        False,
    ),
    "safetensors' index before bin's": (
        ["model.safetensors.index.json", "pytorch_model.bin.index.json"],
        "model.safetensors.index.json",
        False,
    ),
    "bin's index": (["pytorch_model.bin.index.json"], "pytorch_model.bin.index.json", False),
}


@pytest.mark.parametrize(("names", "chosen", "others"), CHOSEN.values(), ids=CHOSEN)
def test_chosen(names: list[str], chosen: str, others: bool, tmp_path: Path) -> None:
    fill(tmp_path, *names)
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == [chosen]
        found = [finding for finding in checkpoint.findings if finding.code == "other-files"]
        assert bool(found) == others
        for finding in found:
            assert finding.message.startswith(chosen)
            assert all(name in finding.message for name in names)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "holds no checkpoint"),
        (["config.json", "README.md"], "holds no checkpoint"),
        (["a.pt", "b.pt"], "holds several checkpoints"),
        (["epoch1.ckpt", "epoch2.ckpt", "config.json"], "holds several checkpoints"),
        (["unet.safetensors.index.json", "vae.safetensors.index.json"], "holds several checkpoints"),
    ],
)
def test_no_way_to_tell(names: list[str], match: str, tmp_path: Path, refused: Any) -> None:
    fill(tmp_path, *names)
    error = refused(tmp_path, match)
    assert error.hint == "name the file itself"
    if "several" in match:
        assert all(name in str(error.found) for name in names if name != "config.json")


def test_folders_and_pipes_of_such_names_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path, "real.pt")
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nowhere")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["real.pt"]


def test_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    fill(tmp_path / "real", "x.pt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with open_checkpoint(tmp_path / "link") as checkpoint:
        assert list(checkpoint.tensors) == ["x.pt"]


def test_text_paths_will_do(tmp_path: Path) -> None:
    fill(tmp_path, "x.pt")
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.path == str(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="No such file"):
        open_checkpoint(str(tmp_path / "y.pt"))
