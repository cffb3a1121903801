"""A module of each file that a library wrote, as Q, K and V of one layer, through every command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import qkvinspect
from tests.some import those
from tests.weights.encodings.test_decoded import DATA, NAMES, decoded, opened, pairs

LAYER = "model.layers.0.self_attn"
SOME = {"bnb_nf4_nested", "gptq_v1_4bit", "awq_group32", "mlx_3bit", "fp8_deepseek"}


@pytest.mark.parametrize("name", those(SOME.__contains__, [name for name in NAMES if name != "gpt_oss_mxfp4"]))
def test_every_command(name: str, tmp_path: Path, run) -> None:
    """All but gpt-oss's, which quantises experts only."""
    with opened(name) as checkpoint:
        weight = max((weight for weight, _, _ in pairs(name)), key=lambda one: (one.shape[0] % 2 == 0, one.numel))
        said = json.loads(json.dumps(checkpoint.configs[0].values))
    expected = next(decoded(one) for one, _, _ in pairs(name) if one.name == weight.name)
    module, folder = weight.name.removesuffix("weight"), tmp_path / "model"
    state = {key: value for key, value in load_file(DATA / f"{name}.safetensors").items() if key.startswith(module)}
    parts = {
        f"{LAYER}.{part}_proj.{key.removeprefix(module)}": value.clone()
        for part in "qkv"
        for key, value in state.items()
    }
    own = said["quantization_config"].pop(module.removesuffix("."), None)  # MLX's, of a module that differs
    if own is not None:
        said["quantization_config"] |= {f"{LAYER}.{part}_proj": own for part in "qkv"}
    folder.mkdir()
    save_file(parts, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(said))
    heads = ("--heads", "2" if weight.shape[0] % 2 == 0 else "1", "--no-evidence")

    shown = run("show", folder, *heads)
    assert shown.code == 0, shown.err
    assert "bits a weight" in shown.out
    twin = tmp_path / "twin.safetensors"
    assert run("export", "--split", folder, "-o", twin, "--dequantize", "float32", *heads).code == 0
    for key, value in load_file(twin).items():
        if key.endswith("bias"):
            continue
        np.testing.assert_array_equal(value.numpy(), expected.astype(np.float32))
    (layer,) = run("diff", folder, twin, *heads, "-f", "json").json()["layers"]
    assert layer["status"] in ("identical", "rounding")
    assert run("check", folder, *heads, "-f", "json").json()["checkpoints"][0]["path"] == str(folder)
    assert run("analyze", folder, *heads).code == 0
    explained = run("explain", folder, LAYER, *heads).out
    assert any(f"{LAYER}.q_proj.{key.removeprefix(module)}" in explained for key in state)
    assert run("report", folder, "-o", tmp_path / "report.html", *heads).code == 0
    split = run("export", "--split", folder, "-o", tmp_path / "split.safetensors", *heads)
    assert split.code == 0, split.err
    kept = {key for key in parts if not key.endswith(("weight_format", "input_scale"))}
    assert load_file(tmp_path / "split.safetensors").keys() >= kept
    with qkvinspect.open(folder, heads=heads[1]) as checkpoint:
        for part in "qkv":
            found = getattr(checkpoint.attentions[LAYER], part).numpy()
            np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
