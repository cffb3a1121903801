"""Trained checkpoints by others, rewritten and written back: every tensor is the same, bit for bit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.real import wheels
from tests.real.test_checks import ALBERT
from tests.real.test_real import ANARCII, SCEPTR, VARIANTS, folder
from tests.some import crossed, those

FUSED = [("sceptr", f"{SCEPTR}/{variant}/state_dict.pt") for variant in VARIANTS]
FUSED += [("anarcii", f"anarcii/{file}") for file in ANARCII]
APART = [("sapiens", f"sapiens/models/v1/checkpoint_{kind}.pt") for kind in ("vh", "vl")]
APART += [("rxnmapper", f"{ALBERT}/pytorch_model.bin")]


def state(path: Path, container: str = "") -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(path, weights_only=True, map_location="cpu")
    for key in filter(None, container.split("/")):
        found = found[key]
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        and torch.equal(raw(one[name]), raw(other[name]))
        for name in one
    )


def original(run: Any, path: Path) -> dict[str, torch.Tensor]:
    return state(path, run("show", path, "--no-norms", "--format", "json").json()["checkpoint"]["container"])


SUFFIXES = (".pt", ".safetensors")


def by_turns(row: tuple[str, str, str]) -> bool:
    """The files of one kind each, under one name and the other by turns."""
    some = [file for _, file in FUSED if any(word in wheels.KINDS for word in file.split("/"))]
    return row[1] in some and row[2] == SUFFIXES[some.index(row[1]) % 2]


@pytest.mark.parametrize(
    ("wheel", "file", "suffix"), those(by_turns, [(*row, suffix) for row in FUSED for suffix in SUFFIXES])
)
def test_split_and_packed_again(wheel: str, file: str, suffix: str, run: Any, tmp_path: Path) -> None:
    path = folder(wheel) / file
    apart, joined = tmp_path / f"apart{suffix}", tmp_path / f"joined{suffix}"
    quick = ["--no-evidence"] if suffix == ".pt" else []  # the weights say the same of a file whatever it is split into
    assert run("export", "--split", "--all", path, "-o", apart, "--verify", *quick).code == 0
    assert not any("in_proj_weight" in name for name in state(apart))
    assert run("pack", apart, "--to", "torch-mha", "-o", joined, "--verify").code == 0
    assert same(original(run, path), state(joined))


@crossed(source=APART, to=["torch-mha", "timm-vit", "gpt2"])
def test_converted_and_back(source: tuple[str, str], to: str, run: Any, tmp_path: Path) -> None:
    wheel, file = source
    path = folder(wheel) / file
    (layout,) = {one["layout"] for one in run("show", path, "--no-norms", "-f", "json").json()["attentions"]}
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    result = run("convert", path, "--to", to, "-o", there, "--heads", 8, "--verify")
    assert result.code == 0, result.err
    own = ("--rename", r"\.o_proj\.=.out_proj.") if wheel == "sapiens" else ()  # the layout has both names
    result = run("convert", there, "--to", layout, "-o", back, "--heads", 8, "--layout", to, *own)
    assert result.code == 0, result.err
    before, after = original(run, path), state(back)
    assert same({name: before[name] for name in sorted(before)}, {name: after[name] for name in sorted(after)})
