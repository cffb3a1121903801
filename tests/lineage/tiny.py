"""Tiny language models, trained here in about a second each: what lineage is tried on.

The text is this Python's own ``pydoc_data.topics``: it comes with the language, so nothing is fetched. A model's
state is given under the names of Llama's layers, in float32, with all that its config says.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
Positions = str
"""``learned``, ``rotary``, or ``sinusoidal``: fixed vectors that are added to the embedding."""

LETTERS = string.ascii_lowercase + " .,:`'()_-="
CONTEXT = 32


@dataclass(frozen=True)
class Recipe:
    """All that makes two models alike but for their random numbers."""

    width: int = 48
    layers: int = 3
    heads: int = 6
    kv_heads: int = 6
    hidden: int = 96
    positions: Positions = "learned"
    norm: str = "layer"
    steps: int = 150
    batch: int = 16
    rate: float = 3e-3
    decay: float = 0.01
    data_seed: int = 0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["TinyForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_hidden_layers": self.layers,
        }


@cache
def text(part: int = 0) -> Tensor:
    """Letters as numbers; part 1 is another text, for fine-tuning."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    known = {letter: number for number, letter in enumerate(LETTERS)}
    joined = " ".join(topics[name] for name in names[part::2]).lower()
    return torch.tensor([known[letter] for letter in joined if letter in known])


class Attention(nn.Module):
    """As Llama's, with rotary embedding or without."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        width, kv = recipe.width, recipe.kv_heads * recipe.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv, bias=False)
        self.v_proj = nn.Linear(width, kv, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        dim = self.recipe.head_dim
        q, k, v = (
            part(x).view(batch, length, -1, dim).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.recipe.positions == "rotary":
            q, k = rotated(q), rotated(k)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding over halves, as transformers' Llama has it."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def sinusoids(width: int) -> Tensor:
    """The fixed vectors of "Attention Is All You Need", [CONTEXT, width]."""
    angle = torch.arange(CONTEXT)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Block(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        norm = nn.LayerNorm if recipe.norm == "layer" else nn.RMSNorm
        self.input_layernorm = norm(recipe.width)
        self.self_attn = Attention(recipe)
        self.post_attention_layernorm = norm(recipe.width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("up_proj", nn.Linear(recipe.width, recipe.hidden))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("down_proj", nn.Linear(recipe.hidden, recipe.width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """A decoder of letters."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.recipe = recipe
        self.embed_tokens = nn.Embedding(len(LETTERS), recipe.width)
        self.embed_positions = nn.Embedding(CONTEXT, recipe.width) if recipe.positions == "learned" else None
        self.layers = nn.ModuleList(Block(recipe) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width) if recipe.norm == "layer" else nn.RMSNorm(recipe.width)
        self.lm_head = nn.Linear(recipe.width, len(LETTERS), bias=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.3)
        if self.embed_positions is not None:
            nn.init.normal_(self.embed_positions.weight, std=0.3)

    def forward(self, letters: Tensor) -> Tensor:
        x = self.embed_tokens(letters)
        if self.embed_positions is not None:
            x = x + self.embed_positions.weight[: letters.shape[1]]
        elif self.recipe.positions == "sinusoidal":
            x = x + sinusoids(self.recipe.width)[: letters.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))

    def state(self) -> State:
        """Its tensors as a checkpoint has them."""
        return {f"model.{name}": value.detach().clone() for name, value in self.state_dict().items()}


def batches(recipe: Recipe, part: int, steps: int) -> list[Tensor]:
    """The same letters in the same order for every model of a recipe."""
    generator = torch.Generator().manual_seed(recipe.data_seed)
    letters = text(part)
    starts = torch.randint(len(letters) - CONTEXT - 1, (steps, recipe.batch), generator=generator)
    return [torch.stack([letters[at : at + CONTEXT + 1] for at in row]) for row in starts.tolist()]


def trained(model: Model, steps: int | None = None, part: int = 0, rate: float | None = None) -> float:
    """Train a model where it stands, on all of its parameters that want it; the last loss."""
    recipe = model.recipe
    wanted = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=rate or recipe.rate, weight_decay=recipe.decay)
    loss = torch.zeros(())
    for batch in batches(recipe, part, steps or recipe.steps):
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def from_scratch(recipe: Recipe, seed: int, norms: Model | None = None) -> Model:
    """A model of its own seed, trained.

    Args:
        norms: one from whose heads it gets the norms, before any training.
    """
    model = Model(recipe, seed)
    if norms is not None:
        share_norms(model, norms)
    trained(model)
    return model


def share_norms(model: Model, other: Model) -> None:
    """Give each head of Q, K, V and the output the Frobenius norm that it has in the other."""
    dim = model.recipe.head_dim
    with torch.no_grad():
        for layer, like in zip(model.layers, other.layers, strict=True):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                ours, theirs = (getattr(one.self_attn, name).weight for one in (layer, like))
                if name == "o_proj":
                    ours, theirs = ours.T, theirs.T
                for row in range(0, ours.shape[0], dim):
                    ours[row : row + dim] *= theirs[row : row + dim].norm() / ours[row : row + dim].norm()


def other(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, **changes)  # type: ignore[arg-type]
