"""Scales that are zero where codes are not, or negative: found with tensor, head and place, in each library's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.batches import batched
from tests.some import those
from tests.weights.encodings.test_models import EACH

MODELS = Path(__file__).parent.parent / "weights" / "encodings" / "models"
QKV = "blocks.0.attn.qkv."
"""[192, 64]: Q, K and V of 8 heads of 8 rows. Row 75 is the fourth of head 1 of K."""

State = dict[str, torch.Tensor]

IN_A_TILE = 75 % 32 * 16 + 75 // 32 * 4 + 2
"""Of the scale of row 75, columns 32:48, in cuBLAS' order: tiles of 128 rows and 4 columns, 0, 32, 64, 96, 1, ..."""

PLACES = [
    ("awq", "scales", 192 + 75, "K, head 1: row 75, columns 32:64"),
    ("bnb_fp4", "weight.absmax", 75, "K, head 1: row 75"),
    ("bnb_nf4", "weight.absmax", 75, "K, head 1: row 75"),
    ("bnb_int8", "SCB", 75, "K, head 1: row 75"),
    ("comfy_nvfp4", "weight_scale", IN_A_TILE, "K, head 1: row 75, columns 32:48"),
    ("ct_float8_block", "weight_scale", 5, "K, heads 0, 1, 2 and 3: rows 64:96, columns 32:64"),
    ("ct_float8_row", "weight_scale", 75, "K, head 1: row 75"),
    ("ct_int4_group", "weight_scale", 151, "K, head 1: row 75, columns 32:64"),
    ("ct_int4_zeros", "weight_scale", 151, "K, head 1: row 75, columns 32:64"),
    ("ct_int8_channel", "weight_scale", 75, "K, head 1: row 75"),
    ("ct_int8_packed", "weight_scale", 75, "K, head 1: row 75"),
    ("ct_nvfp4", "weight_scale", 302, "K, head 1: row 75, columns 32:48"),
    ("fp8_scale_weight", "scale_weight", 151, "K, head 1: row 75, columns 32:64"),
    ("fp8_transformers", "weight_scale_inv", 5, "K, heads 0, 1, 2 and 3: rows 64:96, columns 32:64"),
    ("gptq_8bit", "scales", 192 + 75, "K, head 1: row 75, columns 32:64"),
    ("gptq_4bit_act_order", "scales", 192 + 75, "K, head 1: row 75"),
    ("gptq_v2_4bit", "scales", 192 + 75, "K, head 1: row 75, columns 32:64"),
    ("mlx_3bit", "scales", 151, "K, head 1: row 75, columns 32:64"),
    ("mlx_nvfp4", "scales", 302, "K, head 1: row 75, columns 32:48"),
    ("modelopt_nvfp4", "weight_scale", 302, "K, head 1: row 75, columns 32:48"),
    ("modelopt_nvfp4", "weight_scale_2", 0, "Q, heads 0, 1, 2, 3, 4, 5, 6 and 7; K"),
    ("quanto_float8", "weight._scale", 75, "K, head 1: row 75"),
    ("quanto_int8", "weight._scale", 75, "K, head 1: row 75"),
    ("torchao_float8", "_weight_scale", 75, "K, head 1: row 75"),
    ("torchao_int8", "_weight_scale", 75, "K, head 1: row 75"),
]


def state_of(name: str) -> tuple[State, dict[str, str]]:
    path = MODELS / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata() or {}


def found_in(state: State, metadata: dict[str, str], folder: Path, run) -> str:
    save_file(state, folder / "model.safetensors", metadata)
    config = metadata.get("quantization_config", "{}")
    (folder / "config.json").write_text(f'{{"model_type": "llama", "quantization_config": {config}}}')
    return run("check", folder, "--heads", "8", "--no-evidence", "--select", "wrong-scales").out


def changed(name: str, leaf: str, place: int, to: str) -> tuple[State, dict[str, str]]:
    state, metadata = state_of(name)
    scales = state[QKV + leaf]
    if scales.dtype == torch.uint8 or scales.dtype == torch.float8_e4m3fn:
        flat = scales.view(torch.uint8).reshape(-1)
        flat[place] = 0 if to == "zero" else int(flat[place]) | 128
    else:
        flat = scales.reshape(-1)
        flat[place] = 0 if to == "zero" else -flat[place].abs()
    return state, metadata


@pytest.mark.parametrize("name", those(EACH.__contains__, sorted(path.stem for path in MODELS.glob("*.safetensors"))))
def test_what_a_library_writes_is_sound(name: str, tmp_path: Path, run) -> None:
    assert "0 errors, 0 warnings" in found_in(*state_of(name), tmp_path, run)


@batched("name leaf place where", PLACES)
def test_a_scale_that_is_zero(name: str, leaf: str, place: int, where: str, tmp_path: Path, run) -> None:
    said = found_in(*changed(name, leaf, place, "zero"), tmp_path, run)
    assert f"a scale of qkv.{leaf} ({where}" in said, said
    assert "is zero where the codes are not" in said
    assert "negative" not in said


@batched("name leaf place where", PLACES)
def test_a_scale_that_is_negative(name: str, leaf: str, place: int, where: str, tmp_path: Path, run) -> None:
    said = found_in(*changed(name, leaf, place, "negative"), tmp_path, run)
    if name.startswith("mlx_3"):  # of which about half are
        assert "0 errors, 0 warnings" in said
        return
    assert f"a scale of qkv.{leaf} ({where}" in said, said
    assert "is negative" in said
    assert "zero" not in said


def test_scales_that_are_quantised_themselves(tmp_path: Path, run) -> None:
    said = found_in(*changed("bnb_nf4_nested", "weight.nested_absmax", 0, "negative"), tmp_path, run)
    assert "a scale of qkv.weight.nested_absmax (Q, heads 0, 1, 2, 3, 4, 5, 6 and 7; K" in said
    assert "is negative" in said


def test_all_scales_of_a_tensor_are_negative(tmp_path: Path, run) -> None:
    state, metadata = state_of("ct_int4_group")
    state[f"{QKV}weight_scale"] = -state[f"{QKV}weight_scale"]
    assert "384 scales of qkv.weight_scale" in found_in(state, metadata, tmp_path, run)


def test_signs_that_a_quantiser_chose(tmp_path: Path, run) -> None:
    """auto-round (data_type/int.py, quant_tensor_sym) gives the larger end of a group the last code."""
    state, metadata = state_of("ct_int4_group")
    signs = torch.where(torch.rand(state[f"{QKV}weight_scale"].shape) < 0.5, -1.0, 1.0)
    state[f"{QKV}weight_scale"] *= signs
    assert "0 errors, 0 warnings" in found_in(state, metadata, tmp_path, run)


@pytest.mark.parametrize(
    ("name", "codes", "leaf", "place", "zero"),
    [
        ("ct_int8_channel", "weight", "weight_scale", 75, 0),
        ("bnb_int8", "weight", "SCB", 75, 0),
        ("ct_int4_group", "weight_packed", "weight_scale", 151, -0x77777778),  # eight codes of 8
        ("modelopt_nvfp4", "weight", "weight_scale", 302, 0x80),  # zero and minus zero
    ],
)
def test_a_group_of_zeros(name: str, codes: str, leaf: str, place: int, zero: int, tmp_path: Path, run) -> None:
    state, metadata = changed(name, leaf, place, "zero")
    state[QKV + codes][75] = zero
    assert "0 errors, 0 warnings" in found_in(state, metadata, tmp_path, run)


def test_a_block_of_zeros_as_bitsandbytes_writes_it(tmp_path: Path, run) -> None:
    """0.50, quantize_4bit on the CPU: code 7 of each value; on a GPU a quotient that is NaN may become code 0."""
    for code in (0x77, 0):
        state, metadata = changed("bnb_nf4", "weight.absmax", 75, "zero")
        state[f"{QKV}weight"].reshape(-1, 32)[75] = code
        assert "0 errors, 0 warnings" in found_in(state, metadata, tmp_path, run)


def test_the_columns_of_an_output_projection(tmp_path: Path, run) -> None:
    name = "blocks.0.attn.proj.weight"
    state, metadata = state_of("ct_int4_group")
    state[f"{name}_scale"][3, 1] = 0
    said = found_in(state, metadata, tmp_path, run)
    assert "a scale of proj.weight_scale (OUT, heads 4, 5, 6 and 7: row 3, columns 32:64) is zero" in said
