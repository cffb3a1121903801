"""The bound on logits holds for inputs behind the real norms, and is reached where nothing else stands between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize, rms_norm

from qkvinspect.analysis import LayerFigures, analyze
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

EMBED, HEADS, KV, DIM = 24, 4, 2, 6
LAYER = "model.layers.0.self_attn"


def llama(**more: Tensor) -> dict[str, Tensor]:
    weights = {
        "q_proj.weight": torch.randn(HEADS * DIM, EMBED),
        "k_proj.weight": torch.randn(KV * DIM, EMBED),
        "v_proj.weight": torch.randn(KV * DIM, EMBED),
        "o_proj.weight": torch.randn(EMBED, HEADS * DIM),
    }
    return {f"{LAYER}.{name}": tensor for name, tensor in (weights | more).items()}


def figures(state: dict[str, Tensor], folder: Path, config: dict[str, Any] | None = None) -> LayerFigures:
    torch.save(state, folder / "model.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with open_checkpoint(folder / "model.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options(heads=(f"{HEADS}/{KV}",), norms=False)))
    return layer


def projected(state: dict[str, Tensor], inputs: Tensor, name: str, heads: int) -> Tensor:
    """[heads, inputs, head_dim]"""
    rows = state[f"{LAYER}.{name}_proj.weight"].double()
    return (inputs @ rows.T).reshape(len(inputs), heads, DIM).transpose(0, 1)


def logits(query: Tensor, key: Tensor, scale: float = DIM**-0.5) -> Tensor:
    """The greatest of each head."""
    return (query @ key.repeat_interleave(HEADS // KV, 0).mT * scale).abs().amax((1, 2))


@pytest.mark.parametrize(("model_type", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_the_gain_of_the_norm_before(model_type: str, offset: float, tmp_path: Path) -> None:
    gain = torch.rand(EMBED) + 0.5
    state = llama() | {"model.layers.0.input_layernorm.weight": gain}
    found = figures(state, tmp_path, {"model_type": model_type})
    assert "input_layernorm" in found.bound_from
    scaled = gain.double() + offset
    for head, one in enumerate(found.heads):
        q = state[f"{LAYER}.q_proj.weight"].double().reshape(HEADS, DIM, EMBED)[head] * scaled
        k = state[f"{LAYER}.k_proj.weight"].double().reshape(KV, DIM, EMBED)[one.kv_head] * scaled
        left, values, right = torch.linalg.svd(q.T @ k)
        assert one.logit_bound == pytest.approx(float(values[0]) * EMBED / DIM**0.5, rel=1e-8)
        inputs = torch.stack([left[:, 0], right[0]]) * 7  # behind the norm these reach it
        behind = rms_norm(inputs, (EMBED,), eps=0.0) * scaled
        reached = logits(projected(state, behind, "q", HEADS), projected(state, behind, "k", KV))[head]
        assert float(reached) == pytest.approx(one.logit_bound, rel=1e-8)


def test_a_gain_that_could_be_gemmas_needs_a_config(tmp_path: Path) -> None:
    state = llama() | {"model.layers.0.input_layernorm.weight": torch.rand(EMBED)}
    assert "without a gain" in figures(state, tmp_path).bound_from


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_norms_of_q_and_k(together: bool, biased: bool, tmp_path: Path) -> None:
    sizes = {"q": HEADS * DIM if together else DIM, "k": KV * DIM if together else DIM}
    norms = {f"{name}_norm.weight": torch.randn(size) for name, size in sizes.items()}
    biases = {f"{name}_norm.bias": torch.randn(size) for name, size in sizes.items()}
    state = llama(**norms, **(biases if biased else {}))
    found = figures(state, tmp_path, {"model_type": "qwen3"})
    inputs = torch.randn(700, EMBED, dtype=torch.float64)

    def behind(name: str, heads: int) -> Tensor:
        rows = projected(state, inputs, name, heads)
        flat = rows.transpose(0, 1).reshape(len(inputs), -1) if together else rows
        gain, bias = norms[f"{name}_norm.weight"].double(), biases[f"{name}_norm.bias"].double()
        out = layer_norm(flat, (sizes[name],), gain, bias) if biased else rms_norm(flat, (sizes[name],), gain)
        return out.reshape(len(inputs), heads, DIM).transpose(0, 1) if together else out

    greatest = logits(behind("q", HEADS), behind("k", KV))
    bounds = torch.tensor([one.logit_bound for one in found.heads])
    assert "q_norm" in found.bound_from
    assert bool((greatest <= bounds).all())
    if not together:
        assert bool((greatest * 12 > bounds).all())  # it says something


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, DIM**-0.5),
        ({"query_pre_attn_scalar": 16}, 0.25),
        ({"attention_multiplier": 0.5}, 0.5),
        ({"model_type": "gpt_neo"}, 1.0),
    ],
)
def test_the_scale(config: dict[str, Any], scale: float, tmp_path: Path) -> None:
    state = llama()
    found = figures(state, tmp_path, config)
    inputs = normalize(torch.randn(700, EMBED, dtype=torch.float64), dim=1) * EMBED**0.5
    greatest = logits(projected(state, inputs, "q", HEADS), projected(state, inputs, "k", KV), scale)
    for one, most in zip(found.heads, greatest, strict=True):
        assert one.qk is not None
        assert one.logit_bound == pytest.approx(one.qk.largest * EMBED * scale, rel=1e-8)
        assert float(most) <= one.logit_bound


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"q_norm.weight": torch.ones(DIM)}, "only one of Q and K"),
        ({"logit_scale": torch.ones(HEADS)}, "scale of their own"),
        ({"q_norm.weight": torch.ones(5), "k_norm.weight": torch.ones(5)}, "neither as wide"),
    ],
)
def test_where_there_is_no_bound(more: dict[str, Tensor], why: str, tmp_path: Path) -> None:
    found = figures(llama(**more), tmp_path, {"model_type": "other"})
    assert why in found.bound_from
    assert {one.logit_bound for one in found.heads} == {None}
    assert all(one.qk for one in found.heads)


def test_t5_does_not_scale_its_logits(tmp_path: Path) -> None:
    """Its layout says so where no config does: T5Attention multiplies Q and K and adds a bias."""
    layer = "encoder.block.0.layer.0.SelfAttention"
    state = {f"{layer}.{name}.weight": torch.randn(EMBED, EMBED) for name in "qkvo"}
    torch.save(state, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        (found,) = analyze(inspect(checkpoint, Options(heads=(str(HEADS),), norms=False)))
    assert found.bound_from == "logits not scaled (t5), inputs normalised without a gain"


def test_linear_attention_has_no_logits(tmp_path: Path) -> None:
    """An xLSTM's mLSTM layer has Q, K and V and no softmax."""
    layer = "backbone.blocks.0.mlstm_layer"
    state = {f"{layer}.{name}.weight": torch.randn(EMBED, EMBED) for name in ("q", "k", "v", "out_proj")}
    torch.save(state, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        (found,) = analyze(inspect(checkpoint, Options(heads=(str(HEADS),), norms=False)))
    assert found.bound_from == "this attention has no logits"
    assert {one.logit_bound for one in found.heads} == {None}
