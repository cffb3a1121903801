"""export --undo-permute: what llama.cpp's converter made of a model, and the values of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

CONVERTED = Path(__file__).parents[1] / "diff" / "llama_cpp"


def expected(name: str) -> Mapping[str, torch.Tensor]:
    """Q, K and V as the model has them: the converter permuted Q and K of 4 heads over 2, 8 rows each."""
    state = load_file(CONVERTED / name / "model.safetensors")
    if name == "internlm2":  # of each kv head: two of Q, K, V
        groups = state["model.layers.0.attention.wqkv.weight"].unflatten(0, (2, 4, 8))
        q, k, v = (part.flatten(0, 2) for part in groups.split([2, 1, 1], dim=1))
        return {"q": q, "k": k, "v": v}
    return {part: state[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"}


@pytest.mark.parametrize("name", ["llama", "internlm2", "deci", "mistral"])
@pytest.mark.parametrize("everything", [False, True])
def test_the_values_are_those_of_the_model(
    name: str, everything: bool, tmp_path: Path, run: Callable[..., Any]
) -> None:
    out = tmp_path / "out.safetensors"
    more = ["--all"] if everything else []
    done = run("export", "--split", *more, CONVERTED / f"{name}.gguf", "-o", out, "--undo-permute", "--verify")
    assert done.code == 0, done.err
    found = load_file(out)
    for part, values in expected(name).items():
        assert torch.equal(found[f"blk.0.{part}_proj.weight"], values)


def test_biases_and_heads_apart(tmp_path: Path, run: Callable[..., Any]) -> None:
    out, apart = tmp_path / "out.safetensors", tmp_path / "apart.safetensors"
    for file, more in ((out, ["--split"]), (apart, ["--heads-split"])):
        done = run("export", *more, CONVERTED / "llama.gguf", "-o", file, "--undo-permute")
        assert done.code == 0, done.err
    state = load_file(CONVERTED / "llama" / "model.safetensors")
    whole, heads = load_file(out), load_file(apart)
    for part, count in (("q", 4), ("k", 2), ("v", 2)):
        bias = state[f"model.layers.0.self_attn.{part}_proj.bias"]
        assert torch.equal(whole[f"blk.0.{part}_proj.bias"].half(), bias)
        for kind in ("weight", "bias"):
            joined = [heads[f"blk.0.{part}_proj.heads.{head}.{kind}"] for head in range(count)]
            assert torch.equal(torch.cat(joined), whole[f"blk.0.{part}_proj.{kind}"])


def test_codes_are_decoded_first(tmp_path: Path, run: Callable[..., Any]) -> None:
    import gguf

    path, out = CONVERTED / "llama-q8_0.gguf", tmp_path / "out.safetensors"
    refused = run("export", "--split", path, "-o", out, "--undo-permute")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--dequantize" in refused.err
    done = run("export", "--split", path, "-o", out, "--undo-permute", "--dequantize", "float32", "--verify")
    assert done.code == 0, done.err
    (tensor,) = (one for one in gguf.GGUFReader(path).tensors if one.name == "blk.0.attn_k.weight")
    stored = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    put_back = stored.reshape(2, 4, 2, 32).swapaxes(1, 2).reshape(16, 32)
    assert torch.equal(load_file(out)["blk.0.k_proj.weight"], put_back)


@pytest.mark.parametrize("name", ["qwen2", "falcon"])
def test_where_nothing_was_permuted_that_is_said(name: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    path = CONVERTED / f"{name}.gguf"
    found = run("export", "--split", path, "-o", tmp_path / "out.safetensors", "--undo-permute")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "finds no layer" in found.err
    assert not (tmp_path / "out.safetensors").exists()
