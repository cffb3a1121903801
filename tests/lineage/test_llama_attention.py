"""``--align-to`` and ``--kv-heads`` against what LlamaAttention of transformers computed, where it is not installed.

``python -m tests.lineage.test_llama_attention``, with transformers, stores what it computes.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from tests.lineage.test_anew import llama, moved_llama, saved_llama

STORED = Path(__file__).parent / "llama_attention.safetensors"
KV_HEADS = {"grouped": 4, "alike": 8}
"""In ``alike`` two neighbours share what they hold of K and V."""


def weights(name: str) -> dict[str, Tensor]:
    """The state of a layer of 8 heads of 8, the same on any machine."""
    generator, kv = np.random.default_rng(8), KV_HEADS[name] * 8
    rows = {"q": 64, "k": kv, "v": kv, "o": 64}
    sizes = {f"{part}_proj.{end}": ((count, 64), (count,))[end == "bias"]
             for part, count in rows.items() for end in ("weight", "bias")}  # fmt: skip
    state = {key: torch.tensor(generator.integers(-99, 100, size) / 400, dtype=torch.float32)
             for key, size in sizes.items()}  # fmt: skip
    if name == "alike":
        for key in (one for one in state if one[0] in "kv"):
            heads = state[key].unflatten(0, (4, 2, 8))
            heads[:, 1] = heads[:, 0]
    return state


def inputs() -> Tensor:
    return torch.tensor(np.random.default_rng(9).integers(-99, 100, (1, 11, 64)) / 60, dtype=torch.float32)


def computed(state: dict[str, Tensor]) -> Tensor:
    """What Llama's attention is, written anew; proven by the stored outputs before it proves anything."""
    q, k, v = (functional.linear(inputs(), state[f"{part}_proj.weight"], state[f"{part}_proj.bias"])
               .unflatten(-1, (-1, 8)).transpose(1, 2) for part in "qkv")  # fmt: skip
    angle = torch.arange(11)[:, None] * 10000.0 ** (-torch.arange(4) / 4)
    cos, sin = angle.cos(), angle.sin()
    q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (one.chunk(2, -1) for one in (q, k)))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return functional.linear(out.transpose(1, 2).flatten(2), state["o_proj.weight"], state["o_proj.bias"])


def layer(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix("model.layers.0.self_attn."): value for name, value in load_file(path).items()}


def module(state: dict[str, Tensor]) -> Any:
    return SimpleNamespace(state_dict=lambda: state)


@pytest.mark.parametrize("name", KV_HEADS)
def test_what_is_computed_here_is_what_transformers_computed(name: str) -> None:
    assert torch.allclose(computed(weights(name)), load_file(STORED)[name], atol=1e-5)


def test_heads_in_the_order_and_basis_of_another_compute_what_transformers_did(tmp_path: Path, run) -> None:
    start = module(weights("grouped"))
    a = saved_llama(start, tmp_path / "a", 4)
    b = saved_llama(module(moved_llama(start, 4, shared=1)), tmp_path / "b", 4)
    out = tmp_path / "out.safetensors"
    result = run("convert", b, "--align-to", a, "-o", out)
    assert result.code == 0, result.err
    assert not torch.allclose(
        layer(b / "model.safetensors")["k_proj.weight"], start.state_dict()["k_proj.weight"], atol=0.1
    )
    assert torch.allclose(layer(out)["k_proj.weight"], start.state_dict()["k_proj.weight"], atol=1e-5)
    assert torch.allclose(computed(layer(out)), load_file(STORED)["grouped"], atol=1e-5)


def test_half_as_many_heads_compute_what_transformers_did_where_two_are_alike_but_turned(tmp_path: Path, run) -> None:
    a = saved_llama(module(moved_llama(module(weights("alike")), 8, shared=2)), tmp_path / "a", 8)
    out = tmp_path / "out.safetensors"
    result = run("convert", a, "--kv-heads", 4, "-o", out)
    assert result.code == 0, result.err
    assert len(layer(out)["k_proj.weight"]) == 32
    assert torch.allclose(computed(layer(out)), load_file(STORED)["alike"], atol=1e-5)


def main() -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    mask, found = torch.full((11, 11), -torch.inf).triu(1)[None, None], {}
    for name, kv_heads in KV_HEADS.items():
        attention: Any = llama(kv_heads)
        attention.load_state_dict(weights(name))
        turns = LlamaRotaryEmbedding(attention.config)(inputs(), torch.arange(11)[None])
        with torch.no_grad():
            found[name] = attention(hidden_states=inputs(), position_embeddings=turns, attention_mask=mask)[
                0
            ].contiguous()
    save_file(found, STORED)


if __name__ == "__main__":
    main()
