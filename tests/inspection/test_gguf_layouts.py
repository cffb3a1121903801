"""GGUF files: heads by their metadata, the row by their architecture, and code that undoes the permutation."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect

HEADS = {"q": 4, "k": 2}
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def permuted(rows: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def written(path: Path, architecture: str, kv: int | list[int] = 2, quantised: bool = False) -> dict[str, Any]:
    """A model of two layers; what transformers would have of its first."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(4)
    writer.add_head_count_kv(kv)
    original = {part: rng.standard_normal((rows, 64)).astype("f4") for part, rows in (("q", 64), ("k", 32), ("v", 32))}
    for layer in range(2):
        for part, rows in original.items():
            stored = permuted(rows, HEADS[part]) if part in HEADS else rows
            data = gguf.quants.quantize(stored, Q8_0) if quantised else stored
            writer.add_tensor(f"blk.{layer}.attn_{part}.weight", data, raw_dtype=Q8_0 if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return original


@pytest.mark.parametrize(
    ("architecture", "row"),
    [("llama", "gguf-permuted"), ("qwen2", "gguf-renamed"), ("baichuan", "gguf-unpacked-permuted"), ("new", "gguf")],
)
@pytest.mark.parametrize("kv", [2, [2, 2]])
@pytest.mark.parametrize("quantised", [False, True])
def test_heads_and_row(architecture: str, row: str, kv: Any, quantised: bool, tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", architecture, kv, quantised)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        layers = inspect(checkpoint).attentions
        assert [layer.layer for layer in layers] == ["blk.0", "blk.1"]
        for layer in layers:
            assert layer.layout is not None
            assert layer.heads is not None
            assert layer.layout.id == row
            assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (4, 2, 16)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_code_gives_the_rows_of_transformers(quantised: bool, tmp_path: Path) -> None:
    original = written(tmp_path / "m.gguf", "llama", quantised=quantised)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        lines = python(inspect(checkpoint).attentions[0], checkpoint)
    found: dict[str, Any] = {"torch": torch, "gguf": gguf}
    exec(textwrap.dedent("\n".join(lines)), found)
    for part in HEADS:
        data = original[part]
        if quantised:
            stored = gguf.quants.dequantize(gguf.quants.quantize(data, Q8_0), Q8_0)
            assert np.array_equal(found[f"{part}_original"].numpy(), stored)
        else:
            assert np.array_equal(found[f"{part}_original"].numpy(), data)


def test_latent_attention_is_said_and_not_cut() -> None:
    """K and V have three axes, one of them the heads: rows 0:4 of K were shown once, as if each were a row of it."""
    with open_checkpoint(Path(__file__).parent.parent / "diff" / "llama_cpp" / "deepseek2.gguf") as checkpoint:
        report = inspect(checkpoint)
    assert report.attentions == ()
    assert report.account is not None
    (left,) = report.account.unrecognised
    assert "latent attention" in left.why
    assert {"blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"} <= {weight.name for weight in left.tensors}
