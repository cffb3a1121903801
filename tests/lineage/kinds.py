"""The ways to make one model of another, each keeping account of which head came from which.

Those that train come first in any combination, then what is cut off, then rounding, then what changes nothing.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tests.lineage.tiny import Model, Recipe, State, batches, trained

Q, K, V, OUT = "q_proj", "k_proj", "v_proj", "o_proj"


@dataclass
class Made:
    """A model, and where its heads came from.

    Attributes:
        model: as long as it can be trained further.
        attention: of each layer the four weights; heads of Q lie in groups that share one of K and V.
        origins: of each layer its number in the start, and for each head the number there.
        packed: whether Q, K and V are stored as one tensor.
    """

    recipe: Recipe
    seed: int
    model: Model
    attention: list[dict[str, Tensor]] = field(default_factory=list)
    origins: list[tuple[int, list[int]]] = field(default_factory=list)
    packed: bool = False

    @property
    def group(self) -> int:
        return self.recipe.heads // self.recipe.kv_heads

    def settle(self) -> None:
        """No more training: take the weights out of the model."""
        if self.attention:
            return
        for number, layer in enumerate(self.model.layers):
            weights = {name: getattr(layer.self_attn, name).weight.detach().clone() for name in (Q, K, V, OUT)}
            self.attention.append(weights)
            self.origins.append((number, list(range(self.recipe.heads))))

    def state(self) -> State:
        self.settle()
        found = {name: value for name, value in self.model.state().items() if ".layers." not in name}
        for number, (weights, (origin, _)) in enumerate(zip(self.attention, self.origins, strict=True)):
            place = f"model.layers.{number}"
            found |= {
                name.replace(f".layers.{origin}.", f".layers.{number}."): value
                for name, value in self.model.state().items()
                if f".layers.{origin}." in name and "self_attn" not in name
            }
            if self.packed:
                found[f"{place}.self_attn.in_proj_weight"] = torch.cat([weights[name] for name in (Q, K, V)])
                found[f"{place}.self_attn.out_proj.weight"] = weights[OUT]
            else:
                found |= {f"{place}.self_attn.{name}.weight": value for name, value in weights.items()}
        return {name: value.contiguous() for name, value in found.items()}

    def config(self) -> dict[str, object]:
        self.settle()
        heads, dim = len(self.origins[0][1]), self.recipe.head_dim
        sizes = {"num_attention_heads": heads, "num_key_value_heads": heads // self.group, "head_dim": dim}
        return {**self.recipe.config(), **sizes, "num_hidden_layers": len(self.attention)}

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config()))
        return folder


def start(model: Model, seed: int) -> Made:
    return Made(model.recipe, seed, copy.deepcopy(model))


def fine_tuned(made: Made, generator: torch.Generator) -> None:
    trained(made.model, steps=60, part=1, rate=1e-3)


class LowRank(nn.Module):
    """A Linear and what an adapter adds to it."""

    def __init__(self, inner: nn.Linear, rank: int) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, inner.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(inner.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.a.T @ self.b.T

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.inner.weight += self.b @ self.a
        return self.inner.requires_grad_(True)


def low_rank(made: Made, generator: torch.Generator) -> None:
    """LoRA of rank 4 on Q and V, merged."""
    made.model.requires_grad_(False)
    for layer in made.model.layers:
        for name in (Q, V):
            setattr(layer.self_attn, name, LowRank(getattr(layer.self_attn, name), 4))
    trained(made.model, steps=60, part=1, rate=3e-3)
    for layer in made.model.layers:
        for name in (Q, V):
            setattr(layer.self_attn, name, getattr(layer.self_attn, name).merged())
    made.model.requires_grad_(True)


def distilled(made: Made, generator: torch.Generator) -> None:
    """A student that begins as the teacher began, and learns nothing but what the teacher says."""
    teacher, student = made.model, Model(made.recipe, made.seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=made.recipe.rate, weight_decay=made.recipe.decay)
    for batch in batches(made.recipe, 1, made.recipe.steps):
        with torch.no_grad():
            wanted = teacher(batch[:, :-1]).log_softmax(-1)
        loss = (
            functional.kl_div(student(batch[:, :-1]).log_softmax(-1), wanted, log_target=True, reduction="batchmean")
            / 32
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.model = student


def heads_pruned(made: Made, generator: torch.Generator) -> None:
    """A third of the groups of heads of each layer, others in each, is cut off."""
    made.settle()
    kv = len(made.attention[0][K]) // made.recipe.head_dim
    for number in range(len(made.attention)):
        kept = sorted(torch.randperm(kv, generator=generator)[: kv - max(kv // 3, 1)].tolist())
        _take_groups(made, number, kept)


def layer_pruned(made: Made, generator: torch.Generator) -> None:
    made.settle()
    gone = int(torch.randint(len(made.attention), (), generator=generator))
    del made.attention[gone], made.origins[gone]


def int8(made: Made, generator: torch.Generator) -> None:
    """Each row in steps of a 127th of its greatest value."""
    _rounded(made, lambda w: (w / (s := w.abs().amax(1, keepdim=True) / 127)).round() * s)


def q4(made: Made, generator: torch.Generator) -> None:
    """Four bits with a scale for 16 values, as GGUF's Q4_0 has one for 32."""

    def blocks(weight: Tensor) -> Tensor:
        flat = weight.reshape(-1, 16)
        scale = flat.gather(1, flat.abs().argmax(1, keepdim=True)) / -8
        return ((flat / scale).round().clamp(-8, 7) * scale).reshape(weight.shape)

    _rounded(made, blocks)


def nf4(made: Made, generator: torch.Generator) -> None:
    """Four bits as quantiles of a normal law, with a scale for 16 values (bitsandbytes has one for 64)."""
    code = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 16))
    code /= code.abs().max()

    def blocks(weight: Tensor) -> Tensor:
        flat = weight.reshape(-1, 16)
        scale = flat.abs().amax(1, keepdim=True)
        return (code[((flat / scale)[..., None] - code).abs().argmin(-1)] * scale).reshape(weight.shape)

    _rounded(made, blocks)


def _rounded(made: Made, how: Callable[[Tensor], Tensor]) -> None:
    made.settle()
    for weights in made.attention:
        weights |= {name: how(value.contiguous()) for name, value in weights.items()}


def permuted(made: Made, generator: torch.Generator) -> None:
    """The groups of heads of each layer in another order, and the heads in each group."""
    made.settle()
    for number, weights in enumerate(made.attention):
        kv = len(weights[K]) // made.recipe.head_dim
        _take_groups(made, number, torch.randperm(kv, generator=generator).tolist())
        heads = [
            group * made.group + at
            for group in range(kv)
            for at in torch.randperm(made.group, generator=generator).tolist()
        ]
        _take_heads(made, number, heads)


def rotated(made: Made, generator: torch.Generator) -> None:
    """Another basis inside each head: any orthonormal one, or with rotary embedding such as commute with it."""
    made.settle()
    dim = made.recipe.head_dim
    for weights in made.attention:
        for group in range(len(weights[K]) // dim):
            qk = _turn(made.recipe, generator)
            vo = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
            rows = slice(group * dim, (group + 1) * dim)
            weights[K][rows] = qk @ weights[K][rows]
            weights[V][rows] = vo @ weights[V][rows]
            for head in range(group * made.group, (group + 1) * made.group):
                its = slice(head * dim, (head + 1) * dim)
                weights[Q][its] = qk @ weights[Q][its]
                weights[OUT][:, its] = weights[OUT][:, its] @ vo.T


def _turn(recipe: Recipe, generator: torch.Generator) -> Tensor:
    dim = recipe.head_dim
    if recipe.positions != "rotary":
        return torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    half = dim // 2
    angle = torch.rand(half, generator=generator) * 6.28
    cos, sin = torch.diag(angle.cos()), torch.diag(angle.sin())
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


def rescaled(made: Made, generator: torch.Generator) -> None:
    """Q against K and V against the output, each group of heads by a factor of its own."""
    made.settle()
    dim = made.recipe.head_dim
    for weights in made.attention:
        for group in range(len(weights[K]) // dim):
            c, d = torch.exp(torch.randn(2, generator=generator)).tolist()
            rows = slice(group * dim, (group + 1) * dim)
            its = slice(group * made.group * dim, (group + 1) * made.group * dim)
            weights[K][rows] *= c
            weights[Q][its] /= c
            weights[V][rows] *= d
            weights[OUT][:, its] /= d


def packed(made: Made, generator: torch.Generator) -> None:
    """Q, K and V in one tensor, under other names."""
    made.settle()
    made.packed = True


KINDS: dict[str, Callable[[Made, torch.Generator], None]] = {
    "distilled": distilled,
    "fine-tuned": fine_tuned,
    "LoRA": low_rank,
    "heads pruned": heads_pruned,
    "layer pruned": layer_pruned,
    "int8": int8,
    "Q4": q4,
    "NF4": nf4,
    "permuted": permuted,
    "rotated": rotated,
    "rescaled": rescaled,
    "packed": packed,
}
"""In the order in which they are done."""


def every() -> Iterator[tuple[str, ...]]:
    """Each kind, and any two together."""
    yield from ((one,) for one in KINDS)
    yield from itertools.combinations(KINDS, 2)


def make(model: Model, seed: int, kinds: tuple[str, ...], chance: int) -> Made:
    """Do to a model what the kinds say."""
    first = tuple(kind for kind in kinds if kind in _TRAINING)
    made = Made(model.recipe, seed, _trained(model, seed, first))  # what follows only takes the weights out of it
    generator = torch.Generator().manual_seed(chance)
    for kind in kinds[len(first) :]:
        KINDS[kind](made, generator)
    made.settle()
    return made


_TRAINING = ("distilled", "fine-tuned", "LoRA")
"""They come first, and are the same in every combination."""


@cache
def _trained(model: Model, seed: int, kinds: tuple[str, ...]) -> Model:
    if not kinds:
        return model
    made, generator = start(model, seed), torch.Generator().manual_seed(seed)
    for kind in kinds:
        KINDS[kind](made, generator)
    return made.model


def _take_groups(made: Made, number: int, groups: list[int]) -> None:
    """Of a layer some groups of heads, in this order."""
    dim, weights = made.recipe.head_dim, made.attention[number]
    rows = _rows(groups, dim)
    weights |= {name: weights[name][rows] for name in (K, V)}
    _take_heads(made, number, [group * made.group + at for group in groups for at in range(made.group)])


def _take_heads(made: Made, number: int, heads: list[int]) -> None:
    dim, weights = made.recipe.head_dim, made.attention[number]
    rows = _rows(heads, dim)
    weights[Q], weights[OUT] = weights[Q][rows], weights[OUT][:, rows]
    layer, origins = made.origins[number]
    made.origins[number] = layer, [origins[head] for head in heads]


def _rows(heads: list[int], dim: int) -> list[int]:
    return [head * dim + row for head in heads for row in range(dim)]
