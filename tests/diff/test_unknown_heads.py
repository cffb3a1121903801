"""A GGUF file that names no number of heads, or a wrong one: its rows, and biases, against those of the other side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from tests.some import crossed

HEADS = {"q": 6, "k": 2}


def in_turn(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp, conversion/llama.py, LlamaModel.permute."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def written(folder: Path, told: tuple[int, int] | None) -> list[Path]:
    """A layer of Llama with biases, 6 heads over 2, as transformers and as llama.cpp have it.

    Args:
        told: the numbers of heads in the GGUF file's metadata.
    """
    values = np.random.default_rng(0)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    if told:
        writer.add_head_count(told[0])
        writer.add_head_count_kv(told[1])
    state = {}
    for part, rows in (("q", 96), ("k", 32), ("v", 32), ("o", 96)):
        for kind, shape in (("weight", (rows, 96)), ("bias", (rows,))):
            if (part, kind) == ("o", "bias"):
                continue
            own = values.normal(size=shape).astype(np.float32)
            state[f"model.layers.0.self_attn.{part}_proj.{kind}"] = torch.from_numpy(own)
            stored = in_turn(own, HEADS[part]) if part in HEADS else own
            writer.add_tensor(f"blk.0.attn_{'output' if part == 'o' else part}.{kind}", np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "hf").mkdir()
    save_file(state, folder / "hf" / "model.safetensors")
    config = {"model_type": "llama", "num_attention_heads": 6, "num_key_value_heads": 2}
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    return [folder / "hf", folder / "model.gguf"]


@crossed(first=["hf", "gguf"], told=[None, (5, 5)])
def test_heads_of_the_other_side_order_the_rows(
    tmp_path: Path, run: Any, first: str, told: tuple[int, int] | None
) -> None:
    sides = written(tmp_path, told)
    result = run("diff", *(sides if first == "hf" else sides[::-1]))
    assert result.code == 0, result.err
    assert "same: 1 layer (1 identical)" in result.out
    here, other = "BA" if first == "hf" else "AB"
    assert f"no number of heads is known in {here}, so those of {other} were used" in result.out


def test_a_wrong_number_of_heads_is_named(tmp_path: Path, run: Any) -> None:
    """It fits, so that llama.cpp would take it: the rows were permuted with another one."""
    sides = written(tmp_path, (3, 1))
    found = run("diff", *sides, "-f", "json").json()
    messages = [one["message"] for one in found["layers"][0]["relations"]]
    assert [message.partition(", where")[0] for message in messages] == [
        "the rows of Q of B were permuted as if there were 6 heads, and not 3",
        "the rows of K of B were permuted as if there were 2 heads, and not 1",
    ]
    assert all("the values are the same" in message for message in messages)
