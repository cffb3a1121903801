"""What each rank of tensor parallelism holds, as Megatron-Core and vLLM slice; written from what they document.

Megatron-Core (tensor_parallel/layers.py): a column-parallel weight is cut into as many equal runs of rows as there are
ranks, a row-parallel one into runs of columns; with SwiGLU the first layer of the MLP is cut as two weights, since
each rank halves its own output. vLLM (model_executor/layers/linear.py, QKVParallelLinear): each rank has its heads of
Q, then of K, then of V; where there are more ranks than kv heads, neighbouring ranks have the same one.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, FEED = 64, 48


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def megatron_share(name: str, whole: Tensor, rank: int, ranks: int, *, version: float = 3.0) -> Tensor:
    """The share of a tensor of Megatron-Core, or of the older Megatron-LM."""
    if name.endswith(("linear_proj.weight", "linear_fc2.weight", ".dense.weight", "dense_4h_to_h.weight")):
        return whole.chunk(ranks, 1)[rank]
    if "linear_fc1" in name:
        return torch.cat([half.chunk(ranks)[rank] for half in whole.chunk(2)])
    if "query_key_value" in name and version == 0:
        return torch.cat([part.chunk(ranks)[rank] for part in whole.chunk(3)])
    cut = ("linear_qkv.weight", "linear_qkv.bias", "query_key_value", "dense_h_to_4h", "embeddings", "output_layer")
    if any(part in name for part in cut) and "position" not in name:
        return whole.chunk(ranks)[rank]
    return whole


def vllm_qkv(q: Tensor, k: Tensor, v: Tensor, kv_heads: int, rank: int, ranks: int) -> list[Tensor]:
    """What a rank has of Q, K and V."""
    if ranks >= kv_heads:
        copies = ranks // kv_heads
        return [q.chunk(ranks)[rank], *(part.chunk(kv_heads)[rank // copies] for part in (k, v))]
    return [part.chunk(ranks)[rank] for part in (q, k, v)]


def megatron_core(heads: int, kv_heads: int, width: int, layers: int) -> dict[str, Tensor]:
    """A whole model."""
    whole = {
        "embedding.word_embeddings.weight": draw(32, WIDTH),
        "embedding.position_embeddings.weight": draw(9, WIDTH),
    }
    for layer in range(layers):
        name = f"decoder.layers.{layer}"
        whole |= {
            f"{name}.self_attention.linear_qkv.layer_norm_weight": draw(WIDTH),
            f"{name}.self_attention.linear_qkv.weight": draw((heads + 2 * kv_heads) * width, WIDTH),
            f"{name}.self_attention.linear_qkv.bias": draw((heads + 2 * kv_heads) * width),
            f"{name}.self_attention.linear_proj.weight": draw(WIDTH, heads * width),
            f"{name}.self_attention.linear_proj.bias": draw(WIDTH),
            f"{name}.mlp.linear_fc1.weight": draw(2 * FEED, WIDTH),
            f"{name}.mlp.linear_fc2.weight": draw(WIDTH, FEED),
        }
    return whole | {"decoder.final_layernorm.weight": draw(WIDTH), "output_layer.weight": draw(32, WIDTH)}


def save_megatron(
    folder: Path, whole: dict[str, Tensor], ranks: int, stages: int = 1, *, version: float = 3.0, **args: object
) -> None:
    """``mp_rank_TT[_PPP]/model_optim_rng.pt``, each stage counting its layers from 0."""
    layers = 1 + max(int(name.split("layers.")[1].split(".")[0]) for name in whole if "layers." in name)
    each = layers // stages
    sizes = {"tensor_model_parallel_size": ranks, "pipeline_model_parallel_size": stages, "num_layers": layers}
    for stage in range(stages):
        for rank in range(ranks):
            model = {
                _in_stage(name, stage, stages, each): megatron_share(name, tensor, rank, ranks, version=version).clone()
                for name, tensor in whole.items()
                if _in_stage(name, stage, stages, each)
            }
            place = folder / (f"mp_rank_{rank:02}" if stages == 1 else f"mp_rank_{rank:02}_{stage:03}")
            place.mkdir(parents=True)
            saved = {"args": Namespace(**sizes, **args), "checkpoint_version": version, "iteration": 5, "model": model}
            torch.save(saved, place / "model_optim_rng.pt")


def _in_stage(name: str, stage: int, stages: int, each: int) -> str:
    """What a stage calls a tensor; "" where it does not hold it."""
    before, dot, after = name.partition("layers.")
    if not dot:
        return name if stage == (0 if "embedding" in name else stages - 1) else ""
    number, _, rest = after.partition(".")
    own = int(number) - stage * each
    return f"{before}layers.{own}.{rest}" if 0 <= own < each else ""


def llama(heads: int, kv_heads: int, width: int, layers: int = 2) -> dict[str, dict[str, Tensor]]:
    """The layers of a model as vLLM has them, each part apart."""
    return {
        f"model.layers.{layer}": {
            "q": draw(heads * width, WIDTH),
            "k": draw(kv_heads * width, WIDTH),
            "v": draw(kv_heads * width, WIDTH),
            "qb": draw(heads * width),
            "kb": draw(kv_heads * width),
            "vb": torch.zeros(kv_heads * width),
            "o": draw(WIDTH, heads * width),
            "gate": draw(FEED, WIDTH),
            "up": draw(FEED, WIDTH),
            "down": draw(WIDTH, FEED),
            "norm": draw(WIDTH),
        }
        for layer in range(layers)
    }


def vllm_rank(layers: dict[str, dict[str, Tensor]], kv_heads: int, rank: int, ranks: int) -> dict[str, Tensor]:
    """The state of one rank."""
    found: dict[str, Tensor] = {}
    for name, parts in layers.items():
        weights = vllm_qkv(parts["q"], parts["k"], parts["v"], kv_heads, rank, ranks)
        biases = vllm_qkv(parts["qb"], parts["kb"], parts["vb"], kv_heads, rank, ranks)
        found |= {
            f"{name}.self_attn.qkv_proj.weight": torch.cat(weights),
            f"{name}.self_attn.qkv_proj.bias": torch.cat(biases),
            f"{name}.self_attn.o_proj.weight": parts["o"].chunk(ranks, 1)[rank].contiguous(),
            f"{name}.mlp.gate_up_proj.weight": torch.cat([parts[half].chunk(ranks)[rank] for half in ("gate", "up")]),
            f"{name}.mlp.down_proj.weight": parts["down"].chunk(ranks, 1)[rank].contiguous(),
            f"{name}.input_layernorm.weight": parts["norm"],
        }
    return found


def save_vllm(folder: Path, layers: dict[str, dict[str, Tensor]], kv_heads: int, ranks: int) -> None:
    """Every rank in two files, as vLLM writes them where one would be too large."""
    for rank in range(ranks):
        held = list(vllm_rank(layers, kv_heads, rank, ranks).items())
        for part, some in enumerate((held[: len(held) // 2], held[len(held) // 2 :])):
            save_file(dict(some), folder / f"model-rank-{rank}-part-{part}.safetensors")
