"""Attention that is not the usual one, trained on a CPU for some seconds each: what other_attention.safetensors holds.

    python tests/evidence/other_attention.py

writes it anew: two layers of each kind, ``<kind>.<layer>.<q, k, v or o>.<weight or bias>``, in float16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

FILE = Path(__file__).with_suffix(".safetensors")
WIDTH, WORDS, STEPS = 64, 40, 350

KINDS = {"tiled": (8, 4), "channels": (4, 4), "differential": (4, 4)}
"""Heads and kv heads: of Q and K where V has fewer and wider ones."""


class Mixer(nn.Module):
    """One of the kinds of attention.

    ``tiled``: head h uses kv head h % kv heads, as in x-transformers. ``channels``: each row of Q attends to the rows
    of K over all positions, as in XCiT. ``differential``: two heads of Q and K make one attention over a V twice as
    wide.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.heads, self.kv_heads = KINDS[kind]
        rows = WIDTH // self.heads * self.kv_heads
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, rows), nn.Linear(WIDTH, rows)
        self.o, self.share = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.full((2, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        before = torch.ones(x.shape[1], x.shape[1]).tril().bool()
        q, k, v = (
            rows.unflatten(-1, (heads, -1)).transpose(1, 2)
            for rows, heads in ((self.q(x), self.heads), (self.k(x), self.kv_heads), (self.v(x), self.kv_heads))
        )
        if self.kind == "channels":
            q, k = functional.normalize(q, dim=2), functional.normalize(k, dim=2)
            read = v @ (4 * q.mT @ k).softmax(-1).mT
            return self.o(read.transpose(1, 2).flatten(2))
        repeat = self.heads // self.kv_heads
        k, v = k.repeat(1, repeat, 1, 1), v.repeat(1, repeat, 1, 1)
        seen = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~before, float("-inf")).softmax(-1)
        if self.kind == "differential":
            seen = seen[:, ::2] - self.share * seen[:, 1::2]
            v = self.v(x).unflatten(-1, (self.heads // 2, -1)).transpose(1, 2)
            return self.o(functional.rms_norm(seen @ v, v.shape[-1:]).transpose(1, 2).flatten(2))
        return self.o((seen @ v).transpose(1, 2).flatten(2))


class Model(nn.Module):
    """Two layers that learn to copy what they saw before."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.mixers = nn.ModuleList([Mixer(kind) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(4)])
        self.mlps = nn.ModuleList(
            [nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)) for _ in range(2)]
        )
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places(torch.arange(words.shape[1]))
        for mixer, mlp, first, second in zip(self.mixers, self.mlps, self.norms[::2], self.norms[1::2], strict=True):
            x = x + mixer(first(x))
            x = x + mlp(second(x))
        return self.out(x)


def train(kind: str) -> dict[str, Tensor]:
    """The projections of one kind."""
    torch.manual_seed(7)
    model = Model(kind)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.1)
    for _ in range(STEPS):
        words = torch.randint(0, WORDS, (32, 14)).repeat(1, 3)[:, :36]
        loss = functional.cross_entropy(model(words[:, :-1])[:, 13:].flatten(0, 1), words[:, 14:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        f"{kind}.{number}.{part}.{name}": value.detach().half().contiguous()
        for number, mixer in enumerate(model.mixers)
        for part in "qkvo"
        for name, value in mixer.get_submodule(part).named_parameters()
    }


def stored(kind: str, names: str) -> dict[str, Tensor]:
    """The layers of one kind as a checkpoint has them, under names as ``blocks.{layer}.attn.{part}_proj.{name}``."""
    found: dict[str, Tensor] = {}
    for key, value in load_file(FILE).items():
        own, layer, part, name = key.split(".")
        if own == kind:
            found[names.format(layer=layer, part=part, name=name)] = value
    return found


if __name__ == "__main__":
    every: dict[str, Tensor] = {}
    for one in KINDS:
        every |= train(one)
    save_file(every, FILE)
