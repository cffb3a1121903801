"""Random codes are no testimony, whatever groups and scales they have; those of a trained model are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

HEADS, KV, DIM = 8, 2, 32
WIDTH = HEADS * DIM
MODELS = Path(__file__).parent.parent / "weights" / "encodings" / "models"


def random_codes(folder: Path, seed: int, most: int, bits: int) -> Path:
    """A model of MLX whose words are random numbers below ``most``: with 2**31 the last code is small."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for part, rows in (("q", WIDTH), ("k", KV * DIM), ("v", KV * DIM), ("o", WIDTH)):
        name = f"model.layers.0.self_attn.{part}_proj"
        words = torch.randint(0, most, (rows, WIDTH * bits // 32), generator=generator, dtype=torch.int64)
        scales = torch.rand(rows, WIDTH // 64, generator=generator).half() * 0.01
        state |= {f"{name}.weight": words.to(torch.uint32), f"{name}.scales": scales}
        state[f"{name}.biases"] = -scales * 2 ** (bits - 1)
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    said = {"model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": KV, "hidden_size": WIDTH}
    (folder / "config.json").write_text(json.dumps({**said, "quantization": {"bits": bits, "group_size": 64}}))
    return folder


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.mass) for n in range(2, 40))])
def test_random_codes_say_nothing(seed: int, tmp_path: Path, run) -> None:
    folder = random_codes(tmp_path / "model", seed, 1 << (31 + seed % 2), (4, 8)[seed // 2 % 2])
    found = run("check", folder)
    assert "packing-against-weights" not in found.out
    assert found.code == 0, found.out
    said = run("explain", "--evidence", folder, "model.layers.0.self_attn").out
    assert "no values that could be compared, random codes for values, or zeros in blocks" in said


@pytest.mark.parametrize("name", ["mlx_4bit", "bnb_nf4", "awq", "gptq_v2_3bit_act_order", "ct_int8_channel"])
def test_codes_of_a_trained_model_are_heard(name: str, tmp_path: Path, run) -> None:
    with safe_open(MODELS / f"{name}.safetensors", "pt") as file:
        said = json.loads(file.metadata()["quantization_config"])
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    (tmp_path / "model.safetensors").symlink_to(MODELS / f"{name}.safetensors")
    said = run("explain", "--evidence", tmp_path, "model.layers.1.self_attn").out
    assert "the weights say 8 heads" in said
