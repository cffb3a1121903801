"""Tensors outside attention whose names a converter changed are matched by what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

from qkvinspect.diff.by_values import alike
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from tests.some import crossed

MODELS = Path(__file__).parent / "llama_cpp"


@pytest.mark.parametrize(("model", "others"), [("llama", 1), ("deepseek2", 5), ("qwen3moe", 3)])
def test_a_converted_model_is_the_same_as_a_whole(run: Any, model: str, others: int) -> None:
    """Its norms and matrices of experts have other names, and the norms are wider in GGUF."""
    result = run("diff", MODELS / model, MODELS / f"{model}.gguf", "-f", "json", "--no-evidence")
    told = result.json()
    found = told["others"]
    assert (result.code, found["identical"] + found["rounding"]) == (0, others)
    assert (found["changed"], found["removed"], found["added"]) == (0, 0, 0)
    assert any("were matched by what they hold" in note for note in told["notes"])


@crossed(of=[("gemma", 1), ("gemma2", 1), ("gemma3", 3)], turned=[False, True])
def test_norms_that_hold_one_more_are_the_same(run: Any, of: tuple[str, int], turned: bool) -> None:
    model, norms = of
    files = [MODELS / model, MODELS / f"{model}.gguf"]
    result = run("diff", *(files[::-1] if turned else files), "-f", "json", "--no-evidence")
    told = result.json()
    found = told["others"]
    assert (result.code, found["identical"] + found["rounding"]) == (0, norms)
    assert (found["changed"], found["removed"], found["added"]) == (0, 0, 0)
    side = "A" if turned else "B"
    assert any(f"in {side} what the other side has and 1 more" in note for note in told["notes"])


def pairs(folder: Path, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, str]:
    for name, state in (("a", a), ("b", b)):
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    with open_checkpoint(folder / "a.safetensors") as one, open_checkpoint(folder / "b.safetensors") as other:
        return dict(alike(weights_of(one), list(a), weights_of(other), list(b)))


def test_every_tensor_finds_its_own_among_many_of_its_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a = {f"a{number}": torch.randn(40, 24) for number in range(20)}
    b = {f"b{number}": a[f"a{number}"].half().float() for number in reversed(range(20))}
    assert pairs(tmp_path, a, b) == {f"a{number}": f"b{number}" for number in range(20)}


def test_equal_ones_go_in_order(tmp_path: Path) -> None:
    a = {f"a{number}": torch.ones(24) for number in range(4)}
    assert pairs(tmp_path, a, {f"b{number}": torch.ones(24) for number in range(4)}) == {
        f"a{number}": f"b{number}" for number in range(4)
    }


def test_what_is_another_tensor_stays_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own, near = torch.randn(40, 24), torch.randn(40, 24)
    a = {"strange": own, "near": near}
    b = {"other": torch.randn(40, 24), "one": near + 0.05, "two": near - 0.05, "wide": torch.randn(24, 40)}
    assert pairs(tmp_path, a, b) == {}


def as_gguf(path: Path, architecture: str, state: dict[str, torch.Tensor], kind: str = "F32") -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(4)
    for name, values in state.items():
        numpy = values.contiguous().numpy()
        quantised = Type["F32"] if values.ndim == 1 else Type[kind]
        writer.add_tensor(name, gguf.quants.quantize(numpy, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@crossed(kind=["F32", "Q8_0"], backwards=[False, True])
def test_matrices_that_the_converter_turned_are_the_same(tmp_path: Path, run: Any, kind: str, backwards: bool) -> None:
    """GPT-2's Conv1D has [in, out] (conversion/gpt2.py): outside attention too, also where a matrix is square."""
    torch.manual_seed(0)
    a: dict[str, torch.Tensor] = {}
    b: dict[str, torch.Tensor] = {}
    shapes = {"attn.c_attn": ("attn_qkv", 32, 96), "attn.c_proj": ("attn_output", 32, 32),
              "mlp.c_fc": ("ffn_up", 32, 128), "mlp.c_proj": ("ffn_down", 128, 32),
              "mlp.square": ("ffn_gate", 32, 32)}  # fmt: skip
    for layer in range(2):
        for name, (other, rows, columns) in shapes.items():
            matrix = torch.randn(rows, columns)
            a[f"h.{layer}.{name}.weight"], b[f"blk.{layer}.{other}.weight"] = matrix, matrix.T
    (tmp_path / "hf").mkdir()
    save_file(a, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "gpt2", "n_head": 4}')
    as_gguf(tmp_path / "m.gguf", "gpt2", b, kind)
    sides = [tmp_path / "hf", tmp_path / "m.gguf"]
    told = run("diff", *(sides[::-1] if backwards else sides), "-f", "json", "--no-evidence").json()
    found = told["others"]
    assert found["identical" if kind == "F32" else "rounding"] == 6
    assert (found["changed"], found["removed"], found["added"]) == (0, 0, 0)
    assert any("6 of them lie transposed" in note for note in told["notes"])


@pytest.mark.parametrize("alike", [True, False])
def test_stacks_of_one_shape_are_told_by_v_or_by_their_names(tmp_path: Path, run: Any, alike: bool) -> None:
    """T5, whose encoder, decoder and attention to the encoder have the same shapes."""
    torch.manual_seed(0)
    a: dict[str, torch.Tensor] = {}
    b: dict[str, torch.Tensor] = {}
    stacks = {"decoder.block.{}.layer.1.EncDecAttention": "dec.blk.{}.cross_attn_",
              "encoder.block.{}.layer.0.SelfAttention": "enc.blk.{}.attn_",
              "decoder.block.{}.layer.0.SelfAttention": "dec.blk.{}.attn_"}  # fmt: skip
    for layer in range(2):
        for ours, theirs in stacks.items():
            for part in "qkvo":
                matrix = torch.randn(32, 32)
                a[f"{ours.format(layer)}.{part}.weight"] = matrix
                b[f"{theirs.format(layer)}{part}.weight"] = matrix if alike else torch.randn(32, 32)
    (tmp_path / "hf").mkdir()
    save_file(a, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "t5", "num_heads": 4, "d_kv": 8}')
    as_gguf(tmp_path / "m.gguf", "t5", b)
    told = run("diff", tmp_path / "hf", tmp_path / "m.gguf", "-f", "json", "--no-evidence").json()
    assert {layer["a"]: layer["b"] for layer in told["layers"]} == {
        ours.format(layer): theirs.format(layer).replace("cross_attn_", "cross").removesuffix(".attn_")
        for layer in range(2)
        for ours, theirs in stacks.items()
    }
    assert {layer["status"] for layer in told["layers"]} == {"identical" if alike else "changed"}
