"""Formats that a tensor beside the codes or the metadata names: ComfyUI's order, TensorRT-LLM's scales, others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qkvinspect.errors import LayoutError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import ENCODINGS, weights_of
from qkvinspect.weights.encodings.micro_float import MicroFloat
from qkvinspect.weights.named_formats import BESIDE
from tests.weights.encodings.test_decoded import DATA, decoded


@pytest.mark.parametrize("form", ["nvfp4", "mxfp8"])
def test_metadata_says_what_a_tensor_would(form: str, tmp_path: Path) -> None:
    stored = load_file(DATA / f"comfy_{form}.safetensors")
    values = load_file(DATA / f"comfy_{form}.values.safetensors")
    layers = {name.removesuffix(".comfy_quant"): {"format": form} for name in stored if name.endswith("comfy_quant")}
    plain = {name: value for name, value in stored.items() if not name.endswith("comfy_quant")}
    said = {"format_version": "1.0", "layers": layers}
    save_file(plain, tmp_path / "old.safetensors", {"_quantization_metadata": json.dumps(said)})
    with open_checkpoint(tmp_path / "old.safetensors") as checkpoint:
        weights = weights_of(checkpoint)
        for name, value in values.items():
            np.testing.assert_array_equal(decoded(weights[name]), value.numpy())


def test_rows_are_cut_where_tiles_end(tmp_path: Path) -> None:
    """The first 128 rows with their tiles decode as before; others share their tile."""
    stored = load_file(DATA / "comfy_nvfp4.safetensors")
    name = next(key.removesuffix(".weight") for key in stored if key.endswith(".weight") and stored[key].shape[0] > 128)
    with open_checkpoint(DATA / "comfy_nvfp4.safetensors") as checkpoint:
        encoding = weights_of(checkpoint)[f"{name}.weight"].encoding
        assert isinstance(encoding, MicroFloat)
        parts = encoding.cut([range(128)])
        cut = {}
        for part in parts:
            whole = stored[f"{name}.{part.leaf}"]
            cut[f"one.{part.leaf}"] = (
                torch.cat([whole[run.start : run.stop] for run in part.runs]) if part.runs else whole
            )
        save_file(cut, tmp_path / "cut.safetensors")
        with open_checkpoint(tmp_path / "cut.safetensors") as again:
            found = weights_of(again)["one.weight"]
            np.testing.assert_array_equal(decoded(found), encoding.decode(range(128), range(encoding.shape[1])))
        with pytest.raises(LayoutError, match="tiles of 128 rows"):
            encoding.cut([range(64)])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"format": "convrot_w4a4"}, "ComfyUI's convrot_w4a4"),
        ({"format": "awq_w4a16"}, "ComfyUI's awq_w4a16"),
        ({"format": "int8_tensorwise", "convrot": True}, "int8_tensorwise convrot"),
        ({"format": "float8_e4m3fn"}, "has another dtype"),
        ({"format": ["nvfp4"]}, "is not decoded"),
        ({}, "is not decoded"),
    ],
)
def test_what_comfyui_says_otherwise_is_named(said: dict[str, object], why: str, tmp_path: Path) -> None:
    told = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
    stored = {
        "q.weight": torch.zeros(8, 32, dtype=torch.int8),
        "q.weight_scale": torch.ones(8, 1),
        "q.comfy_quant": told,
    }
    save_file(stored, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        weight = weights_of(checkpoint)["q.weight"]
    assert weight.encoding is None
    assert why in weight.why


def test_int8_of_comfyui_is_that_of_others(tmp_path: Path) -> None:
    told = torch.frombuffer(bytearray(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
    codes, scale = torch.arange(-128, 128).reshape(8, 32).to(torch.int8), torch.rand(8, 1)
    save_file({"q.weight": codes, "q.weight_scale": scale, "q.comfy_quant": told}, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        np.testing.assert_array_equal(decoded(weights_of(checkpoint)["q.weight"]), (codes.float() * scale).numpy())


def test_float8_of_tensorrt_llm(tmp_path: Path) -> None:
    codes = torch.randn(12, 8).to(torch.float8_e4m3fn)
    scale = torch.tensor([0.25 + 2**-10])
    name = "transformer.layers.0.attention.qkv"
    stored = {f"{name}.weight": codes, f"{name}.weights_scaling_factor": scale}
    save_file({**stored, f"{name}.activation_scaling_factor": torch.tensor([0.5])}, tmp_path / "rank0.safetensors")
    with open_checkpoint(tmp_path / "rank0.safetensors") as checkpoint:
        weight = weights_of(checkpoint)[f"{name}.weight"]
        np.testing.assert_array_equal(decoded(weight), codes.double().mul(scale.double()).numpy())


def test_each_name_beside_codes_is_looked_for() -> None:
    assert any(markers >= frozenset(BESIDE) for _, markers in ENCODINGS)


@pytest.mark.parametrize("beside", sorted(BESIDE))
def test_codes_of_other_libraries_are_named(beside: str, tmp_path: Path) -> None:
    leaf, what = BESIDE[beside]
    dtype = torch.int8 if leaf == "weight" else torch.int32
    stored = {f"layers.0.attn.q_proj.{leaf}": torch.zeros(8, 32, dtype=dtype)}
    save_file({**stored, f"layers.0.attn.q_proj.{beside}": torch.ones(8)}, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        weights = weights_of(checkpoint)
        weight = weights["layers.0.attn.q_proj.weight"]
    assert weight.encoding is None
    assert weight.shape == ()
    assert what in weight.why
    plain = {f"layers.0.attn.q_proj.{leaf}": torch.ones(8, 32), f"layers.0.attn.q_proj.{beside}": torch.ones(8)}
    save_file(plain, tmp_path / "b.safetensors")
    with open_checkpoint(tmp_path / "b.safetensors") as checkpoint:
        assert leaf == "qweight" or not weights_of(checkpoint).encoded


def test_a_power_of_two_for_each_16_is_no_format(tmp_path: Path) -> None:
    """Tiles of scales without a word of it have twice as many columns."""
    name = "rows128.q_proj"
    stored = {key: value for key, value in load_file(DATA / "comfy_mxfp8.safetensors").items() if key.startswith(name)}
    del stored[f"{name}.comfy_quant"]
    stored[f"{name}.weight_scale"] = stored[f"{name}.weight_scale"].view(torch.float8_e8m0fnu)
    save_file(stored, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        weight = weights_of(checkpoint)[f"{name}.weight"]
    assert weight.encoding is None
    assert "no format has a power of two for each 16" in weight.why
