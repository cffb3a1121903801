"""Train small rotary models on text that comes with Python, to judge ``rotary-order-against-weights`` on them.

    nice -n 10 python tests/checks/rotary_models/make.py FOLDER [NAME ...]

writes FOLDER/NAME/model.safetensors and config.json, as transformers would save the attention of such a model. Each
takes a minute on one core. No threshold of the rule may be set on a model of ``HELD_OUT``: ``FOR_THRESHOLDS`` are for
that.
"""

from __future__ import annotations

import json
import math
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

LENGTH, BATCH, VOCABULARY = 64, 8, 128


class Recipe(NamedTuple):
    """One model: its shape, the base of its rotary embedding, and what it reads."""

    model_type: str
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    theta: float
    text: str
    layers: int = 2
    steps: int = 800
    rate: float = 2e-3
    deviation: float = 0.02


FOR_THRESHOLDS = {
    "a": Recipe("llama", 128, 4, 2, 32, 1e4, "sources"),
    "c": Recipe("qwen2", 64, 4, 2, 16, 1e6, "docs"),
    "llama-8-2": Recipe("llama", 256, 8, 2, 32, 1e4, "docs"),
    "llama-narrow": Recipe("llama", 96, 6, 3, 16, 1e4, "sources"),
    "llama-three-layers": Recipe("llama", 128, 8, 4, 16, 1e4, "headers", layers=3),
    "qwen2-4-2": Recipe("qwen2", 256, 4, 2, 64, 1e6, "sources"),
    "d": Recipe("llama", 128, 8, 2, 16, 1e5, "docs"),
    "mistral-16-4": Recipe("mistral", 256, 16, 4, 16, 1e4, "headers"),
    "b": Recipe("llama", 256, 8, 4, 32, 1e4, "docs"),
    "smollm3-6-2": Recipe("smollm3", 192, 6, 2, 32, 2e6, "headers"),
    "qwen3-8-4": Recipe("qwen3", 256, 8, 4, 32, 1e6, "docs"),
    "gemma-4-1": Recipe("gemma", 256, 4, 1, 64, 1e4, "docs"),
    "llama-9-3": Recipe("llama", 288, 9, 3, 32, 5e5, "sources"),
    "olmo2-4-4": Recipe("olmo2", 256, 4, 4, 64, 5e5, "docs"),
    "llama-8-8": Recipe("llama", 256, 8, 8, 32, 1e4, "headers"),
    "mistral-4-2-wide": Recipe("mistral", 256, 4, 2, 128, 1e6, "sources"),
    "cohere-8-2": Recipe("cohere", 256, 8, 2, 32, 1e4, "sources"),
    "llama-8-2-narrow": Recipe("llama", 128, 8, 2, 16, 5e4, "sources"),
    "mistral-12-3": Recipe("mistral", 192, 12, 3, 16, 1e4, "docs"),
    "llama-8-2-headers": Recipe("llama", 256, 8, 2, 32, 5e5, "headers"),
    "qwen2-16-4": Recipe("qwen2", 256, 16, 4, 16, 1e6, "sources"),
}

HELD_OUT = {
    "llama-6-2-deep": Recipe("llama", 192, 6, 2, 32, 1e4, "docs", layers=3),
    "mistral-4-1-wide": Recipe("mistral", 256, 4, 1, 64, 1e6, "headers"),
    "qwen2-14-2": Recipe("qwen2", 224, 14, 2, 16, 1e6, "docs"),
    "qwen3-8-2": Recipe("qwen3", 192, 8, 2, 32, 1e6, "sources", steps=1200),
    "gemma-8-1": Recipe("gemma", 128, 8, 1, 64, 1e4, "headers"),
    "olmo2-8-8": Recipe("olmo2", 128, 8, 8, 16, 5e5, "sources"),
    "llama-4-4-deep": Recipe("llama", 64, 4, 4, 16, 1e4, "docs", layers=4),
    "smollm3-9-3": Recipe("smollm3", 288, 9, 3, 32, 5e6, "sources", steps=600),
    "llama-4-2-wider": Recipe("llama", 256, 4, 2, 128, 1e4, "docs"),
    "llama-16-4": Recipe("llama", 256, 16, 4, 16, 5e5, "docs"),
    "mistral-8-2-narrow": Recipe("mistral", 96, 8, 2, 16, 1e4, "sources", layers=3),
    "qwen2-8-2-narrow": Recipe("qwen2", 128, 8, 2, 16, 1e6, "headers"),
    "llama-12-3-narrow": Recipe("llama", 192, 12, 3, 16, 1e5, "sources", rate=1e-3, steps=1200),
}
"""The models of an earlier hold-out are above: a statistic was chosen on them since, so that they judge nothing."""


def text_of(kind: str) -> Tensor:
    """The bytes of Python's own sources, documentation or headers: int64 [n], each below 128."""
    if kind == "docs":
        from pydoc_data.topics import topics

        text = "".join(topics[name] for name in sorted(topics))
    else:
        where, pattern = ("stdlib", "*.py") if kind == "sources" else ("include", "**/*.h")
        files = sorted(Path(sysconfig.get_paths()[where]).glob(pattern))
        text = "".join(file.read_text("utf-8", "ignore") for file in files)[:3_000_000]
    return torch.tensor(list(text.encode("ascii", "ignore")))


def turned(x: Tensor, theta: float, neighbours: bool) -> Tensor:
    """apply_rotary_pos_emb of transformers: of Llama, or of Cohere where ``neighbours``. [batch, heads, length, d]"""
    width = x.shape[-1]
    angles = torch.arange(x.shape[-2])[:, None] / theta ** (torch.arange(0, width, 2) / width)
    if neighbours:
        cos, sin = angles.cos().repeat_interleave(2, -1), angles.sin().repeat_interleave(2, -1)
        other = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    else:
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        other = torch.cat((-x[..., width // 2 :], x[..., : width // 2]), -1)
    return x * cos + other * sin


class Attention(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, bias = recipe, recipe.model_type == "qwen2"
        rows, kv_rows = recipe.heads * recipe.head_dim, recipe.kv_heads * recipe.head_dim
        self.q_proj = nn.Linear(recipe.width, rows, bias)
        self.k_proj = nn.Linear(recipe.width, kv_rows, bias)
        self.v_proj = nn.Linear(recipe.width, kv_rows, bias)
        self.o_proj = nn.Linear(rows, recipe.width, False)
        sizes = {"qwen3": (recipe.head_dim,) * 2, "olmo2": (rows, kv_rows)}.get(recipe.model_type)
        self.q_norm = nn.RMSNorm(sizes[0], 1e-6) if sizes else None
        self.k_norm = nn.RMSNorm(sizes[1], 1e-6) if sizes else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.recipe.model_type == "olmo2":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.unflatten(-1, (-1, self.recipe.head_dim)).transpose(1, 2) for y in (q, k, v))
        if self.recipe.model_type == "qwen3":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (turned(y, self.recipe.theta, self.recipe.model_type == "cohere") for y in (q, k))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = nn.RMSNorm(recipe.width), Attention(recipe)
        self.post_attention_layernorm = nn.RMSNorm(recipe.width)
        self.up, self.down = nn.Linear(recipe.width, recipe.width), nn.Linear(recipe.width, recipe.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.down(functional.silu(self.up(self.post_attention_layernorm(x))))


class Model(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, recipe.width)
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(recipe.layers))
        self.norm = nn.RMSNorm(recipe.width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=recipe.deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens) * math.sqrt(self.embed_tokens.embedding_dim)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed_tokens.weight.T


def train(recipe: Recipe, seed: int) -> tuple[Model, float]:
    """The model, and the mean loss of its last 50 steps in nats a byte."""
    torch.manual_seed(seed)
    model, text = Model(recipe), text_of(recipe.text)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.rate, betas=(0.9, 0.95), weight_decay=0.1)
    losses: list[float] = []
    for step in range(recipe.steps):
        done = step / recipe.steps
        optimiser.param_groups[0]["lr"] = recipe.rate * min(1, (step + 1) / 50) * (0.1 + 0.9 * (1 - done))
        starts = torch.randint(len(text) - LENGTH - 1, (BATCH, 1))
        tokens = text[starts + torch.arange(LENGTH + 1)]
        loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return model, sum(losses[-50:]) / len(losses[-50:])


def save(folder: Path, recipe: Recipe, model: Model) -> None:
    """Only what is part of attention, named as transformers names it."""
    folder.mkdir(parents=True)
    state = {f"model.{name}": value for name, value in model.state_dict().items() if ".self_attn." in name}
    save_file(state, folder / "model.safetensors")
    config = {
        "model_type": recipe.model_type,
        "hidden_size": recipe.width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "head_dim": recipe.head_dim,
        "rope_theta": recipe.theta,
    }
    (folder / "config.json").write_text(json.dumps(config))


def main(target: str, *names: str) -> None:
    torch.set_num_threads(1)
    recipes = {**FOR_THRESHOLDS, **HELD_OUT}
    for name in names or recipes:
        if (Path(target) / name).exists():
            continue
        began = time.process_time()
        model, loss = train(recipes[name], seed=crc32(name.encode()))
        save(Path(target) / name, recipes[name], model)
        print(f"{name}: loss {loss:.3f}, {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
