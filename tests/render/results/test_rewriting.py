"""What export, pack and convert say of the file that they write: a contract in JSON, with ranges that can be pasted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file

import qkvinspect

SCHEMA = json.loads((Path(qkvinspect.__file__).parent / "render/results/rewriting.schema.json").read_text())


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """Conv1D: Q, K and V are columns."""
    tensors = {"h.0.attn.c_attn.weight": torch.randn(8, 24), "h.0.attn.c_attn.bias": torch.randn(24)}
    save_file({**tensors, "h.0.attn.c_proj.weight": torch.randn(8, 8)}, tmp_path / "gpt2.safetensors")
    return tmp_path / "gpt2.safetensors"


def said(run, *argv: object) -> dict[str, Any]:
    result = run(*argv, "--format", "json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    jsonschema.validate(found, SCHEMA)
    return found


def rows_of(stored: dict[str, torch.Tensor], origin: list[dict[str, Any]]) -> torch.Tensor:
    """The rows, sliced out of the stored tensors as they are printed."""
    found = []
    for one in origin:
        tensor = stored[one["tensor"]]
        for start, stop, *step in one["rows"]:
            index = torch.tensor(range(start, stop, *step))
            taken = tensor.index_select(one["axis"], index)
            found.append(taken.T if one["axis"] else taken)
    return torch.cat(found)


@pytest.mark.parametrize("dry", [True, False])
def test_what_is_said_is_what_is_written(gpt2: Path, tmp_path: Path, run, dry: bool) -> None:
    out = tmp_path / "new.safetensors"
    found = said(run, "export", "--split", gpt2, "--heads", 2, "-o", out, *(["--dry-run"] if dry else []))
    assert (found["written"], found["num_layers"], found["num_tensors"]) == (not dry, 1, 6)
    assert out.exists() is not dry
    if dry:
        assert said(run, "export", "--split", gpt2, "--heads", 2, "-o", out)["tensors"] == found["tensors"]
    stored, written = load_file(gpt2), load_file(out)
    assert {one["name"] for one in found["tensors"]} == written.keys()
    for one in found["tensors"]:
        assert one["shape"] == list(written[one["name"]].shape)
        assert torch.equal(rows_of(stored, one["from"]), written[one["name"]])


def test_columns_are_called_columns(gpt2: Path, tmp_path: Path, run) -> None:
    result = run("export", "--split", gpt2, "--heads", 2, "-o", tmp_path / "new.safetensors", "--dry-run")
    assert "h.0.attn.k_proj.weight [8, 8] float32  from h.0.attn.c_attn.weight columns 8:16" in result.out
    assert result.out.endswith("6 tensors of 1 layer, 864 B, not written\n")


def test_ranks_zeros_and_tensors_that_stay(gpt2: Path, tmp_path: Path, run) -> None:
    save_file({**load_file(gpt2), "wte.weight": torch.randn(3, 8)}, tmp_path / "more.safetensors")
    argv = ("convert", tmp_path / "more.safetensors", "--to", "phi3", "--heads", 2, "-o", tmp_path / "out")
    found = said(run, *argv, "--tp", 2, "--whole", "wte*", "--dry-run")
    assert (found["num_ranks"], found["num_files"], found["num_tensors"]) == (2, None, 4)
    (kept,) = (one for one in found["tensors"] if one["name"] == "wte.weight")
    assert kept["from"] == [{"tensor": "wte.weight", "axis": 0, "rows": None}]
    save_file({f"a.{p}_proj.weight": torch.randn(8, 8) for p in "qkv"}, tmp_path / "apart.safetensors")
    save_file({**load_file(tmp_path / "apart.safetensors"), "a.q_proj.bias": torch.randn(8), "a.v_proj.bias":
               torch.randn(8)}, tmp_path / "apart.safetensors")  # fmt: skip
    packed = said(run, "pack", tmp_path / "apart.safetensors", "--to", "torch-mha", "--zero-bias", "-o",
                  tmp_path / "packed.safetensors")  # fmt: skip
    bias = next(one for one in packed["tensors"] if one["name"].endswith("in_proj_bias"))
    assert [one["tensor"] for one in bias["from"]] == ["a.q_proj.bias", None, "a.v_proj.bias"]
