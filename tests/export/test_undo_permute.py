"""export --undo-permute: what llama.cpp's converter made of a model, and the values of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from tests.some import crossed

CONVERTED = Path(__file__).parents[1] / "diff" / "llama_cpp"


SEPARATE = (
    *("llama", "mistral", "mixtral", "arcee", "smollm3", "granite", "granitehybrid", "olmo", "chameleon"),
    *("internlm3", "minicpm", "deepseek", "arctic", "deci", "llada", "llava", "xverse"),
)

EVERY = (*SEPARATE, "internlm2", "bailingmoe", "baichuan", "kimi-k25", "qwen35")
"""Models whose rows the converter puts in another order, one for each row of the table."""


def expected(name: str) -> Mapping[str, torch.Tensor]:
    """Q, K and V as the model has them, and their biases: mostly 4 heads over 2, 8 rows each."""
    state = load_file(CONVERTED / name / "model.safetensors")
    if name in SEPARATE:
        ends = {"weight": "", "bias": "_bias"}
        return {
            f"{part}{end}": values
            for part in "qkv"
            for kind, end in ends.items()
            for key, values in state.items()
            if key.endswith(f".{part}_proj.{kind}")
        }
    if name == "internlm2":  # of each kv head: two of Q, K, V
        groups = state["model.layers.0.attention.wqkv.weight"].unflatten(0, (2, 4, 8))
        return dict(zip("qkv", (part.flatten(0, 2) for part in groups.split([2, 1, 1], dim=1)), strict=True))
    if name == "bailingmoe":
        packed = state["model.layers.0.attention.query_key_value.weight"]
        return dict(zip("qkv", packed.split([32, 16, 16]), strict=True))
    if name == "qwen35":  # the first layer: 2 heads of Q and K, and 4 of V, 8 rows each
        packed = state["model.layers.0.linear_attn.in_proj_qkv.weight"]
        return dict(zip("qkv", packed.split([16, 16, 32]), strict=True))
    if name == "baichuan":
        return dict(zip("qkv", state["model.layers.0.self_attn.W_pack.weight"].chunk(3), strict=True))
    found: dict[str, torch.Tensor] = {}
    for kind, end in (("weight", ""), ("bias", "_bias")):
        packed = state[f"vision_tower.encoder.blocks.0.wqkv.{kind}"].chunk(3)
        found |= {f"{part}{end}": values for part, values in zip("qkv", packed, strict=True)}
    return found


@pytest.mark.parametrize("name", EVERY)
def test_of_each_architecture_the_rows_are_those_of_the_model(
    name: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    path, out = CONVERTED / f"{name}.gguf", tmp_path / "out.safetensors"
    done = run("export", "--split", path, "-o", out, "--undo-permute", "--verify", "--no-evidence")
    assert done.code == 0, done.err
    written = load_file(out)
    with open_checkpoint(path) as checkpoint:
        first = inspect(checkpoint).attentions[0]
        code = python(first, checkpoint)
    made: dict[str, Any] = {}
    exec("\n".join(code), made)
    for part, values in expected(name).items():
        kind = "bias" if part.endswith("_bias") else "weight"
        exported = written[f"{first.layer}.{part[0]}_proj.{kind}"]
        explained = made.get(f"{part}_original", made[part])
        assert torch.equal(exported.half(), values)
        assert torch.equal(explained.half(), values)


def test_heads_of_v_are_not_moved_alone(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The gate, the convolution and the output projection of such a layer would stay as llama.cpp has them."""
    out = tmp_path / "out.safetensors"
    refused = run("export", "--all", CONVERTED / "qwen35.gguf", "-o", out, "--undo-permute")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "another order than its other tensors" in refused.err
    assert not out.exists()


def test_heads_are_not_moved_without_their_norms(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The converter permutes those of Chameleon too, and gives every head the norm of the first."""
    out = tmp_path / "out.safetensors"
    refused = run("export", "--split", "--all", CONVERTED / "chameleon.gguf", "-o", out, "--undo-permute")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "another order than their norms" in refused.err
    assert not out.exists()


@pytest.mark.parametrize("name", ["minicpm", "olmo", "arctic", "xverse"])
def test_biases_that_the_converter_left_alone_are_left_alone(
    name: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """In heads apart too; of the others whose fixtures have biases they are put back."""
    out = tmp_path / "out.safetensors"
    done = run("export", "--heads-split", CONVERTED / f"{name}.gguf", "-o", out, "--undo-permute", "--no-evidence")
    assert done.code == 0, done.err
    assert "in biases they are left" in run("explain", CONVERTED / f"{name}.gguf").out
    written, parts = load_file(out), expected(name)
    assert "q_bias" in parts
    for part, values in parts.items():
        kind = "bias" if part.endswith("_bias") else "weight"
        start = f"blk.0.{part[0]}_proj.heads."
        heads = sum(key.startswith(start) and key.endswith(f".{kind}") for key in written)
        joined = torch.cat([written[f"{start}{head}.{kind}"] for head in range(heads)])
        assert torch.equal(joined.half(), values)


@pytest.mark.parametrize("name", ["llama", "internlm2", "deci", "mistral", "kimi-k25"])
def test_in_a_whole_checkpoint_too(name: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    out = tmp_path / "out.safetensors"
    done = run(
        "export",
        "--split",
        "--all",
        CONVERTED / f"{name}.gguf",
        "-o",
        out,
        "--undo-permute",
        "--verify",
        "--no-evidence",
    )
    assert done.code == 0, done.err
    found = load_file(out)
    layer = "v.blk.0" if name == "kimi-k25" else "blk.0"
    for part in "qkv":
        assert torch.equal(found[f"{layer}.{part}_proj.weight"], expected(name)[part])


def test_biases_and_heads_apart(tmp_path: Path, run: Callable[..., Any]) -> None:
    out, apart = tmp_path / "out.safetensors", tmp_path / "apart.safetensors"
    for file, more in ((out, ["--split"]), (apart, ["--heads-split"])):
        done = run("export", *more, CONVERTED / "llama.gguf", "-o", file, "--undo-permute", "--no-evidence")
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


@crossed(
    name=["llama", "mistral", "arcee", "olmo"],
    line=[("convert", "qkv-proj"), ("convert", "megatron-core"), ("pack", "megatron-core")],
)
def test_in_the_layout_of_another_library_rows_lie_as_in_the_model(
    name: str, line: tuple[str, str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """The same is made of the GGUF file and of what it was converted from."""
    of_model, of_gguf = tmp_path / "model.safetensors", tmp_path / "gguf.safetensors"
    for path, out in ((CONVERTED / name, of_model), (CONVERTED / f"{name}.gguf", of_gguf)):
        done = run(line[0], path, "--to", line[1], "-o", out)
        assert done.code == 0, done.err
        assert ("permuted lie in transformers' order" in done.err) == (out == of_gguf)
    parts = ("q_proj", "k_proj", "v_proj", "linear_qkv")
    packed = [
        {
            kind: values.half()
            for key, values in load_file(out).items()
            if (kind := key.rpartition("0.")[2].removeprefix("self_attn.")).split(".")[0] in parts
        }
        for out in (of_model, of_gguf)
    ]
    assert packed[0]
    assert all(torch.equal(values, packed[1][kind]) for kind, values in packed[0].items())


def test_in_llama_cpps_own_layout_rows_stay_and_are_not_made_from_others(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    out = tmp_path / "out.safetensors"
    done = run("convert", CONVERTED / "llama.gguf", "--to", "gguf-permuted", "-o", out)
    assert done.code == 0, done.err
    with open_checkpoint(CONVERTED / "llama.gguf") as checkpoint:
        stored = inspect(checkpoint).attentions[0].parts[0].weight.require_info().region
        assert load_file(out)["blk.0.attn_q.weight"].numpy().tobytes() == stored.source.read(
            stored.start, stored.nbytes
        )
    refused = run("convert", CONVERTED / "llama", "--to", "gguf-permuted", "-o", out, "--force")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "let llama.cpp's own converter write it" in refused.err


def test_rows_that_are_left_permuted_are_said_to_be(tmp_path: Path, run: Callable[..., Any]) -> None:
    done = run("export", "--split", CONVERTED / "llama.gguf", "-o", tmp_path / "out.safetensors")
    assert done.code == 0
    assert "the rows of Q and K lie as llama.cpp's converter permuted them; --undo-permute" in done.err
    done = run("export", "--split", CONVERTED / "qwen2.gguf", "-o", tmp_path / "other.safetensors")
    assert (done.code, "permute" in done.err) == (0, False)
