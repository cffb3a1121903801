"""[in, out] under names that PyTorch's libraries use for [out, in], as PaddlePaddle's Linear keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import qkvinspect
from qkvinspect.inspection.report import Attention

Shapes = dict[str, tuple[int, ...]]

GQA: Shapes = {"q_proj": (64, 64), "k_proj": (64, 16), "v_proj": (64, 16), "o_proj": (64, 64)}
WIDE: Shapes = {"q_proj": (64, 96), "k_proj": (64, 96), "v_proj": (64, 96), "o_proj": (96, 64)}
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}


def attentions(
    folder: Path, shapes: Shapes, config: dict[str, object] | None, at: str = "self_attn", norm: int = 0
) -> list[Attention]:
    state = {f"layers.{n}.{at}.{name}.weight": torch.randn(shape) for n in range(2) for name, shape in shapes.items()}
    if norm:
        state |= {f"layers.{n}.input_layernorm.weight": torch.ones(norm) for n in range(2)}
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    found = list(qkvinspect.inspect(folder).attentions)
    opened = qkvinspect.open(folder).attentions[found[0].layer]
    stored = state[f"layers.0.{at}.k_proj.weight"]
    assert opened.k is not None
    turned = found[0].parts[1].orientation == "in_out"
    assert torch.equal(opened.k.torch(), (stored.T if turned else stored).float())
    return found


@pytest.mark.parametrize(
    ("shapes", "config", "at", "norm", "heads"),
    [
        (GQA, LLAMA | {"num_key_value_heads": 1}, "self_attn", 0, (4, 1, 16)),
        (GQA, LLAMA | {"num_key_value_heads": 1}, "attention", 0, (4, 1, 16)),
        (GQA, None, "self_attn", 0, None),
        (WIDE, LLAMA | {"head_dim": 24}, "self_attn", 0, (4, 4, 24)),
        (WIDE, None, "self_attn", 64, None),
    ],
)
def test_projections_of_one_input_are_read_as_such(
    tmp_path: Path,
    shapes: Shapes,
    config: dict[str, object] | None,
    at: str,
    norm: int,
    heads: tuple[int, int, int] | None,
) -> None:
    for attention in attentions(tmp_path, shapes, config, at, norm):
        assert [part.orientation for part in attention.parts] == ["in_out"] * 3
        assert [part.shape for part in attention.parts] == [shapes[f"{part}_proj"][::-1] for part in "qkv"]
        found = attention.heads
        assert (found and (found.num_heads, found.num_kv_heads, found.head_dim)) == heads


CROSS: Shapes = {"q_proj": (64, 64), "k_proj": (64, 48), "v_proj": (64, 48), "o_proj": (64, 64)}
EAGLE: Shapes = {"q_proj": (64, 128), "k_proj": (64, 128), "v_proj": (64, 128), "o_proj": (64, 64)}


@pytest.mark.parametrize(
    ("shapes", "config", "at", "norm"),
    [
        (CROSS, None, "encoder_attn", 64),
        (CROSS, LLAMA, "encoder_attn", 64),
        (EAGLE, LLAMA, "self_attn", 64),
        (WIDE, None, "self_attn", 96),
        (WIDE, LLAMA | {"hidden_size": 96}, "self_attn", 0),
        ({**GQA, "k_proj": (16, 64), "v_proj": (16, 64)}, LLAMA, "self_attn", 64),
    ],
)
def test_those_that_read_something_else_stay_as_they_are(
    tmp_path: Path, shapes: Shapes, config: dict[str, object] | None, at: str, norm: int
) -> None:
    """Cross-attention reads a context of another width, EAGLE's draft reads two vectors at once."""
    for attention in attentions(tmp_path, shapes, config, at, norm):
        assert [part.orientation for part in attention.parts] == ["out_in"] * 3
