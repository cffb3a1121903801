"""Of quantised weights: a head that lost more than its peers, and a config that says another way than the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.some import those
from tests.weights.encodings.test_models import EACH

MODELS = Path(__file__).parent.parent / "weights" / "encodings" / "models"


def one_scale(small: float, part: str = "k") -> dict[str, torch.Tensor]:
    """int8 with one scale for all; the values of head 2 of a part are smaller."""
    state: dict[str, torch.Tensor] = {}
    for name in "qkvo":
        weight = torch.randn(64, 64)
        if name == part:
            weight[32:48] *= small
        scale = (weight.abs().max() / 127).reshape(1)
        prefix = f"l.0.self_attn.{name}_proj.weight"
        state |= {prefix: (weight / scale).round().to(torch.int8), f"{prefix}_scale": scale}
    return state


@pytest.mark.parametrize(("small", "said"), [(1.0, False), (0.1, False), (0.02, True), (0.0, False), (1e-4, False)])
def test_a_head_that_lost_more_than_its_peers(small: float, said: bool, tmp_path: Path, run) -> None:
    """Of a head that is zero throughout, ``zero-head`` tells."""
    save_file(one_scale(small), tmp_path / "m.safetensors")
    found = run("check", tmp_path / "m.safetensors", "--heads", "4", "--no-evidence")
    assert ("coarse-head" in found.out) == said, found.out
    assert ("K lost more in head 2 than its peers when it was quantised: about" in found.out) == said
    assert ("zero-head" in found.out) == (small < 1e-3)


def test_what_is_expected_to_be_lost_is_what_was_lost(tmp_path: Path) -> None:
    from qkvinspect.checks.faults.coarse_head import _expected_error
    from qkvinspect.formats import open_checkpoint
    from qkvinspect.inspection import Options, inspect

    weight = torch.randn(64, 256) * torch.logspace(-1, 0.3, 4).repeat_interleave(16)[:, None]
    scale = (weight.abs().max() / 127).reshape(1)
    codes = (weight / scale).round().to(torch.int8)
    state = {f"l.0.self_attn.{part}_proj.weight{leaf}": value for part in "qkv" for leaf, value in
             (("", codes.clone()), ("_scale", scale.clone()))}  # fmt: skip
    save_file(state, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        part = inspect(checkpoint, Options("4", evidence="none")).attentions[0].parts[0]
        for rows in part.heads:
            mine = weight[rows.start : rows.stop]
            lost = float((codes[rows.start : rows.stop] * scale - mine).norm() / mine.norm())
            assert _expected_error(part, rows) == pytest.approx(lost, rel=0.05)


@pytest.mark.parametrize("name", those(EACH.__contains__, sorted(path.stem for path in MODELS.glob("*.json"))))
def test_sound_files_are_not_accused(name: str, tmp_path: Path, run) -> None:
    said(name, tmp_path)
    found = run(
        "check", tmp_path, "--heads", "8", "--no-evidence", "--select", "coarse-head", "--select", "quantised-otherwise"
    )
    assert "0 errors, 0 warnings" in found.out, found.out


def said(name: str, folder: Path, **change: Any) -> None:
    source = MODELS / f"{name}.safetensors"
    with safe_open(source, "pt") as file:
        config = {**json.loads(file.metadata()["quantization_config"]), **change}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    (folder / "model.safetensors").symlink_to(source)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "bnb_nf4",
            {"bnb_4bit_quant_type": "fp4"},
            "says bnb_4bit_quant_type fp4, and the tensors are bitsandbytes nf4",
        ),
        ("bnb_nf4", {"bnb_4bit_use_double_quant": True}, "says bnb_4bit_use_double_quant True"),
        ("bnb_nf4", {"load_in_4bit": False, "load_in_8bit": True}, "says load_in_8bit"),
        ("bnb_int8", {"load_in_8bit": False, "load_in_4bit": True}, "says load_in_4bit"),
        ("ct_float8_row", {"quant_method": "gptq"}, "says gptq, and the tensors are float8_e4m3fn"),
        ("modelopt_nvfp4", {"quant_method": "fp8"}, "says fp8, and the tensors are NVFP4"),
        ("original", {"quant_method": "fp8"}, "says that weights are quantised (fp8), and no tensor is"),
        (
            "ct_int8_channel",
            {"config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}}},
            "says float of 8 bits, and the tensors are int8",
        ),
        ("original", {"quant_method": "something new"}, ""),
        ("gptq_4bit_act_order", {"desc_act": False}, "says desc_act False (loaders that go by it ignore g_idx"),
        ("gptq_v2_3bit_act_order", {"desc_act": False}, "says desc_act False"),
        ("gptq_4bit_act_order", {"desc_act": True}, ""),
        ("gptq_8bit", {"desc_act": True}, ""),  # static groups
        ("gptq_8bit", {"desc_act": False}, ""),
        ("gptq_8bit", {"group_size": -1}, "says group_size -1, and the tensors are GPTQ v1, 8 bit, groups of 32"),
        ("awq", {"group_size": 32}, ""),
    ],
)
def test_a_config_that_says_another_way(name: str, change: dict[str, Any], told: str, tmp_path: Path, run) -> None:
    if name == "original":
        (tmp_path / "model.safetensors").symlink_to(MODELS / "original.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": change}))
    else:
        said(name, tmp_path, **change)
    found = run("check", tmp_path, "--heads", "8", "--no-evidence", "--select", "quantised-otherwise")
    assert told in found.out
    assert ("quantised-otherwise" in found.out) == bool(told)


@pytest.mark.parametrize(("size", "told"), [(16, True), (32, True), (64, False), (128, False), (-1, False)])
def test_a_group_size_that_the_scales_contradict(size: int, told: bool, tmp_path: Path, run) -> None:
    """GPTQ with one group for 64 inputs, which larger groups and -1 give too (GPTQModel, BaseQuantLinear)."""
    state = load_file(MODELS / "gptq_8bit.safetensors")
    for name, tensor in state.items():
        if name.endswith(("scales", "qzeros")):
            state[name] = tensor[:1].clone()
        elif name.endswith("g_idx"):
            state[name] = torch.zeros_like(tensor)
    save_file(state, tmp_path / "model.safetensors")
    with safe_open(MODELS / "gptq_8bit.safetensors", "pt") as file:
        config = {**json.loads(file.metadata()["quantization_config"]), "group_size": size}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    found = run("check", tmp_path, "--heads", "8", "--no-evidence", "--select", "quantised-otherwise")
    assert (f"says group_size {size}, and the tensors are GPTQ v1, 8 bit, a scale for each row" in found.out) == told
    assert ("quantised-otherwise" in found.out) == told


def test_a_config_that_says_nothing(tmp_path: Path, run) -> None:
    save_file(load_file(MODELS / "ct_float8_row.safetensors"), tmp_path / "model.safetensors")  # no metadata
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    found = run("check", tmp_path, "--heads", "8", "--no-evidence", "--select", "quantised-otherwise")
    assert "the config says nothing of quantisation, and the tensors are float8" in found.out


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "weight_scale_inv"),
        ({"quant_method": "fbgemm_fp8"}, "weight_scale"),
    ],
)
def test_float8_whose_scales_are_all_gone(config: dict[str, Any], scale: str, tmp_path: Path, run) -> None:
    state = {f"l.0.self_attn.{part}_proj.weight": torch.randn(64, 64).to(torch.float8_e4m3fn) for part in "qkvo"}
    save_file(state, tmp_path / "model.safetensors")
    found = run("check", tmp_path, "--heads", "4")
    assert found.code == 0, "by itself float8 is a dtype like any other"
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    found = run("check", tmp_path, "--heads", "4")
    assert found.code == 1
    assert f"has no values: its scale is missing: l.0.self_attn.q_proj.{scale}" in found.out


@pytest.mark.parametrize("beside", ["q_norm.weight", "mem_k", ""])
def test_words_of_unknown_width_are_said_to_be_that(beside: str, tmp_path: Path, run) -> None:
    """MLX without its config: the same words may hold numbers of 2, 4 or 8 bits. What stands beside is no matter."""
    state: dict[str, torch.Tensor] = {}
    for part in "qkvo":
        name = f"l.0.self_attn.{part}_proj"
        state[f"{name}.weight"] = torch.zeros(256, 32, dtype=torch.uint32)
        state |= {f"{name}.{leaf}": torch.ones(256, 4, dtype=torch.float16) for leaf in ("scales", "biases")}
    if beside:
        state[f"l.0.self_attn.{beside}"] = torch.ones((1, 1, 64) if beside == "mem_k" else (64,))
        state["l.0.self_attn.mem_v"] = torch.ones(1, 1, 64)
    save_file(state, tmp_path / "model.safetensors")
    found = run("check", tmp_path)
    assert found.code == 1
    assert "its words may be read in several ways (expected quantization in config.json" in found.out
    assert "no-attention  the attention that its names speak of cannot be decoded" in found.out
