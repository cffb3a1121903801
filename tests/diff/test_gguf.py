"""A GGUF file against what it was converted from: rows that llama.cpp permutes are compared in one order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from tests.long import long

HEADS, KV_HEADS, WIDTH = 4, 2, 64
NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}


def original(folder: Path) -> dict[str, torch.Tensor]:
    """A Llama layer as transformers saves it."""
    torch.manual_seed(0)
    rows = {"q": WIDTH, "k": WIDTH // 2, "v": WIDTH // 2, "o": WIDTH}
    state = {f"model.layers.0.self_attn.{part}_proj.weight": torch.randn(n, WIDTH) for part, n in rows.items()}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    return state


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """LlamaModel.permute of llama.cpp's converter."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def converted(path: Path, state: dict[str, torch.Tensor], kind: Type, heads: dict[str, int]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    for part, name in NAMES.items():
        rows = state[f"model.layers.0.self_attn.{part}_proj.weight"]
        rows = permuted(rows, heads[part]) if part in heads else rows
        data = gguf.quants.quantize(np.ascontiguousarray(rows.numpy()), kind)
        writer.add_tensor(f"blk.0.{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


RIGHT = {"q": HEADS, "k": KV_HEADS}


@pytest.mark.parametrize(
    ("kind", "status"),
    long(
        lambda case: case[0] in ("Q8_0", "MXFP4"),
        [("F32", "identical"), *((kind, "rounding") for kind in ("Q4_0", "Q8_0", "MXFP4"))],
    ),
)
def test_it_is_the_same_but_for_rounding(tmp_path: Path, run: Callable[..., Any], kind: str, status: str) -> None:
    state = original(tmp_path / "hf")
    path = converted(tmp_path / "m.gguf", state, Type[kind], RIGHT)
    for sides in ((tmp_path / "hf", path), (path, tmp_path / "hf")):
        found = run("diff", *sides, "-f", "json", *([] if kind == "Q8_0" else ["--no-evidence"]))
        difference = json.loads(found.out)
        assert {part["status"] for part in difference["layers"][0]["parts"]} == {status}
        assert found.code == 0
        assert any("as llama.cpp has them" in note for note in difference["notes"])


@pytest.mark.parametrize("heads", [{}, {"q": HEADS}, {"q": HEADS, "k": HEADS}], ids=["not", "Q alone", "K as Q"])
def test_rows_that_were_permuted_otherwise_are_changed(
    tmp_path: Path, run: Callable[..., Any], heads: dict[str, int]
) -> None:
    path = converted(tmp_path / "m.gguf", original(tmp_path / "hf"), Type.F32, heads)
    found = run("diff", tmp_path / "hf", path, "-f", "json", "--no-evidence")
    parts = {part["part"]: part["status"] for part in json.loads(found.out)["layers"][0]["parts"]}
    assert found.code == 1
    assert parts["k"] == "changed"
    assert parts["v"] == "identical"


def test_the_numbers_are_exported(tmp_path: Path, run: Callable[..., Any]) -> None:
    path = converted(tmp_path / "m.gguf", original(tmp_path / "hf"), Type.Q8_0, RIGHT)
    out = tmp_path / "out.safetensors"
    refused = run("convert", path, "--to", "torch-mha", "-o", out)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--dequantize" in refused.err
    done = run("export", "--split", path, "-o", out, "--dequantize", "float32", "--verify")
    assert done.code == 0, done.err
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_k.weight")
    expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    assert torch.equal(load_file(out)["blk.0.k_proj.weight"], expected)


def test_rows_of_v_that_were_shuffled_are_said_beside_those_that_the_converter_permuted(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    state = original(tmp_path / "hf")
    name = "model.layers.0.self_attn.v_proj.weight"
    shuffled = state | {name: state[name][torch.randperm(len(state[name]))]}
    path = converted(tmp_path / "m.gguf", shuffled, Type.F32, {"q": HEADS})
    (layer,) = json.loads(run("diff", "--no-evidence", tmp_path / "hf", path, "-f", "json").out)["layers"]
    said = {tuple(one["parts"]): one["code"] for one in layer["relations"]}
    assert said[("v",)] == "rows-permuted"
    assert sum("k" in parts for parts in said) == 1
