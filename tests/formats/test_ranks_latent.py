"""Latent attention as Megatron-LM shares it among ranks, cut here as its layers cut it.

Column-parallel layers hold rows (``linear_q_up_proj``, ``linear_kv_up_proj``), the row-parallel ``linear_proj``
columns; ``linear_q_down_proj`` and ``linear_kv_down_proj`` are on every rank with Transformer Engine's layers and cut
by rows with Megatron's own (megatron/core/models/gpt/gpt_layer_specs.py).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import qkvinspect

HEADS, HIDDEN, NOPE, ROPE, V_DIM, Q_RANK, KV_RANK = 8, 64, 16, 8, 12, 24, 32
ATTENTION = "decoder.layers.0.self_attention"
Tensors = Mapping[str, torch.Tensor]


def model(lite: bool) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {
        "linear_kv_down_proj": (KV_RANK + ROPE, HIDDEN),
        "linear_kv_up_proj": (HEADS * (NOPE + V_DIM), KV_RANK),
        "linear_proj": (HIDDEN, HEADS * V_DIM),
    }
    if lite:
        shapes["linear_q_proj"] = (HEADS * (NOPE + ROPE), HIDDEN)
    else:
        shapes |= {"linear_q_down_proj": (Q_RANK, HIDDEN), "linear_q_up_proj": (HEADS * (NOPE + ROPE), Q_RANK)}
    return {f"{ATTENTION}.{name}.weight": torch.randn(shape, generator=random) for name, shape in shapes.items()}


def share(name: str, weight: torch.Tensor, ranks: int, rank: int, down_is_cut: bool) -> torch.Tensor:
    if "_down_proj" in name and not down_is_cut:
        return weight
    return weight.chunk(ranks, 1 if name.endswith("linear_proj.weight") else 0)[rank].clone()


def write(folder: Path, tensors: Tensors, ranks: int, down_is_cut: bool) -> Path:
    args = Namespace(
        num_attention_heads=HEADS,
        num_query_groups=1,
        group_query_attention=False,
        multi_latent_attention=True,
        hidden_size=HIDDEN,
        kv_channels=HIDDEN // HEADS,
        q_lora_rank=Q_RANK,
        kv_lora_rank=KV_RANK,
        qk_head_dim=NOPE,
        qk_pos_emb_head_dim=ROPE,
        v_head_dim=V_DIM,
        tensor_model_parallel_size=ranks,
    )
    for rank in range(ranks):
        held = {name: share(name, weight, ranks, rank, down_is_cut) for name, weight in tensors.items()}
        path = folder / f"mp_rank_{rank:02d}"
        path.mkdir()
        torch.save({"model": held, "args": args, "checkpoint_version": 3.0}, path / "model_optim_rng.pt")
    return folder


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("down_is_cut", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_joined(ranks: int, down_is_cut: bool, lite: bool, tmp_path: Path) -> None:
    tensors = model(lite)
    with qkvinspect.open(write(tmp_path, tensors, ranks, down_is_cut)) as checkpoint:
        report = qkvinspect.inspect(checkpoint, qkvinspect.Options(norms=False))
        attention = checkpoint.attentions[ATTENTION]
        q, k, v = (part.torch() for part in (attention.q, attention.k, attention.v))
    assert {str(finding.code) for finding in report.findings} <= {"ranks-joined"}
    (found,) = report.attentions
    assert found.heads is not None
    assert (found.heads.num_heads, found.heads.width("q"), found.heads.width("v")) == (HEADS, NOPE + ROPE, V_DIM)
    both = tensors[f"{ATTENTION}.linear_kv_up_proj.weight"].reshape(HEADS, NOPE + V_DIM, KV_RANK)
    assert torch.equal(k, both[:, :NOPE].reshape(-1, KV_RANK))
    assert torch.equal(v, both[:, NOPE:].reshape(-1, KV_RANK))
    assert torch.equal(q, tensors[f"{ATTENTION}.linear_q_{'proj' if lite else 'up_proj'}.weight"])
    joined = {name: list(weight.shape) for name, weight in tensors.items()}
    assert {name: list(report.weights[name].shape) for name in tensors} == joined
    if ranks > 1:
        each = HEADS // ranks
        q_part = found.part("q")
        assert q_part is not None
        assert q_part.head_ranks == tuple((head // each,) for head in range(HEADS))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_one_rank_alone(ranks: int, tmp_path: Path) -> None:
    write(tmp_path, model(lite=False), ranks, down_is_cut=False)
    with qkvinspect.open(tmp_path / "mp_rank_01" / "model_optim_rng.pt") as checkpoint:
        report = qkvinspect.inspect(checkpoint, qkvinspect.Options(norms=False))
    (found,) = report.attentions
    assert found.heads is not None
    assert (found.heads.num_heads, found.heads.width("q"), found.heads.width("v")) == (HEADS // ranks, 24, V_DIM)
