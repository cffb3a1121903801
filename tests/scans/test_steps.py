"""The step of a checkpoint: from what it holds, else from its name, else none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.scans.steps import in_name, step_of

WEIGHTS = {"a.in_proj_weight": torch.zeros(12, 4)}


@pytest.mark.parametrize(
    ("path", "step", "text"),
    [
        ("run/step=1000.ckpt", 1000, "step=1000"),
        ("run/epoch=3-step=1000.ckpt", 1000, "step=1000"),
        ("run/checkpoint-1000", 1000, "checkpoint-1000"),
        ("run/checkpoint-1000/model.safetensors", 1000, "checkpoint-1000"),
        ("run/checkpoint-1000/pytorch_model-00001-of-00003.bin", 1000, "checkpoint-1000"),
        ("run/global_step42", 42, "global_step42"),
        ("iter_0001000/model.pt", 1000, "iter_0001000"),
        ("run/00012.pt", 12, "00012"),
        ("00012.pt", 12, "00012"),
        ("run/epoch_3.pth", 3, "epoch_3"),
        ("run/Epoch3.pth", 3, "Epoch3"),
        ("gs://bucket/run/step_7.pt?generation=5", 7, "step_7"),
        (r"C:\run\step_7.pt", 7, "step_7"),
    ],
)
def test_names_that_tell(path: str, step: int, text: str) -> None:
    assert in_name(path) == (step, f"name:{text}")


@pytest.mark.parametrize(
    "path",
    [
        "model.pt",
        "model-00001-of-00002.safetensors",
        "llama-7b/model.safetensors",
        "vit_base_patch16_224.pt",
        "step=1-step=2.pt",
        "step=1k.pt",
        "step=1.5.pt",
        "best.pt",
        "laststep.pt",
        "footstep-3.pt",
        "checkpoint-1000/a/b/model.pt",
        f"step={'9' * 40}.pt",
    ],
)
def test_names_that_tell_nothing(path: str) -> None:
    assert in_name(path) is None


@pytest.mark.parametrize(
    ("held", "step", "origin"),
    [
        ({"global_step": 5, "epoch": 1}, 5, "checkpoint:global_step"),
        ({"iteration": 5}, 5, "checkpoint:iteration"),
        ({"step": 5.0}, 5, "checkpoint:step"),
        ({"epoch": 2}, 77, "name:step=77"),
        ({"step": True}, 77, "name:step=77"),
        ({"step": -1}, 77, "name:step=77"),
        ({"step": float("nan")}, 77, "name:step=77"),
        ({"step": "five"}, 77, "name:step=77"),
        ({"step": 10**30}, 77, "name:step=77"),
        ({"step": torch.tensor(5)}, 77, "name:step=77"),
    ],
)
def test_what_a_file_holds(tmp_path: Path, held: dict[str, object], step: int, origin: str) -> None:
    path = tmp_path / "step=77.pt"
    torch.save({"model": WEIGHTS, **held}, path)
    with open_checkpoint(path) as checkpoint:
        assert step_of(checkpoint, str(path)) == (step, origin)


def test_epochs_are_the_last_resort_and_nothing_is_nothing(tmp_path: Path) -> None:
    for held, expected in (({"epoch": 2}, (2, "checkpoint:epoch")), ({}, (None, None))):
        torch.save({"model": WEIGHTS, **held}, tmp_path / "model.pt")
        with open_checkpoint(tmp_path / "model.pt") as checkpoint:
            assert step_of(checkpoint, "x/model.pt") == expected


def test_metadata_and_what_the_trainer_wrote_beside(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"step": "12"})
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert step_of(checkpoint, "checkpoint-9/model.safetensors") == (12, "metadata:step")
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 13, "epoch": 0.5}))
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert step_of(checkpoint, "checkpoint-9/model.safetensors") == (13, "config:trainer_state.json:global_step")
