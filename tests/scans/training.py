"""Training runs of small transformers, and what is done to them: shared by tests and the benchmark.

The task is to copy what stood some tokens before, which attention learns in a few hundred steps.

    python -m tests.scans.training       # writes tests/scans/run.jsonl, the run of the README
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from pathlib import Path

import torch
from torch import nn

WIDTH, HEADS, LAYERS, TOKENS, LENGTH = 32, 4, 3, 24, 24
Q, K, V = range(3)


class Model(nn.Module):
    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.place = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.1)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.out(self.encoder(self.embed(tokens) + self.place, mask=mask, is_causal=True))


def train(
    seed: int, steps: int, *, every: int = 10, rate: float = 3e-3, optimizer: str = "adamw", norm_first: bool = True
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """The state_dict of every so many steps: a warm-up, then a falling learning rate."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = Model(norm_first=norm_first)
    kinds = {
        "adamw": lambda: torch.optim.AdamW(model.parameters(), rate, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam(model.parameters(), rate),
        "sgd": lambda: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    }
    chosen = kinds[optimizer]()
    warm = steps // 10
    plan = torch.optim.lr_scheduler.LambdaLR(
        chosen, lambda step: min((step + 1) / warm, 0.05 + 0.95 * (steps - step) / (steps - warm))
    )
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps + 1):
        if step % every == 0:
            yield step, {name: value.detach().clone() for name, value in model.state_dict().items()}
        tokens = torch.randint(TOKENS, (16, LENGTH), generator=draw)
        loss = nn.functional.cross_entropy(model(tokens)[:, 3:].flatten(0, 1), tokens[:, :-3].flatten())
        chosen.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        chosen.step()
        plan.step()


def save(folder: Path, run: Iterator[tuple[int, dict[str, torch.Tensor]]], suffix: str = ".pt") -> Path:
    """Checkpoints as a trainer keeps them: some tell their step by name, all .pt inside."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for step, state in run:
        if suffix == ".pt":
            torch.save({"model": state, "global_step": step, "nhead": HEADS}, folder / f"step={step}.pt")
        else:
            save_file(state, folder / f"step-{step}.safetensors")
    return folder


def ruined(run: Iterator[tuple[int, dict[str, torch.Tensor]]]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """One checkpoint whose K has four times its size, and a head whose V dies away."""
    for step, state in run:
        if step == 120:
            rows_of(state, 1, K).mul_(4)
        if step > 60:
            rows_of(state, 2, V, 3).mul_(exp(-(((step - 60) / 90) ** 2)))
        yield step, state


def rows_of(state: dict[str, torch.Tensor], layer: int, part: int, head: int | None = None) -> torch.Tensor:
    """The rows of a part, or of one of its heads, to be changed where they are."""
    weight = state[f"encoder.layers.{layer}.self_attn.in_proj_weight"]
    width = WIDTH // HEADS
    first = part * WIDTH + (head or 0) * width
    return weight[first : first + (WIDTH if head is None else width)]


def name(layer: int) -> str:
    """As it is in the file."""
    return f"encoder.layers.{layer}.self_attn"


def main() -> None:
    import contextlib
    import tempfile

    from qkvinspect.cli import main as qkvinspect

    out = Path(__file__).with_name("run.jsonl")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        save(Path("run"), ruined(train(0, 200, every=20)))
        qkvinspect(["scan", "run", "-o", str(out), "--force", "--layer", "*.1.*", "--layer", "*.2.*"])
    out.with_name("run.jsonl.journal").unlink()


if __name__ == "__main__":
    main()
