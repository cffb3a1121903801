"""Train small transformers on a CPU and keep their attention weights as they change.

    python tests/evidence/train.py OUT [--only GLOB] [--steps N]

OUT/<model>-<optimizer>/step-<n>.safetensors hold attention and its norms under the model's own names; run.json says
what was trained. Runs that are complete are skipped.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from models import MODELS
from safetensors.torch import load_file, save_file
from torch import nn, optim

SNAPSHOTS = (0, 50, 200, 500, 1000, 2000, 5000)
KEPT = re.compile(r"attn|attention|norm|ln_", re.IGNORECASE)
FIRST = ("torch-encoder", "llama-gqa", "vit", "gpt2")


@dataclass(frozen=True)
class Optimizer:
    make: Callable[[nn.Module], list[optim.Optimizer]]
    after: str = ""
    steps: int | None = None
    models: tuple[str, ...] = tuple(MODELS)


def adamw(module: nn.Module, lr: float = 1e-3, decay: float = 0.1) -> list[optim.Optimizer]:
    return [optim.AdamW(module.parameters(), lr, weight_decay=decay)]


def sgd(module: nn.Module) -> list[optim.Optimizer]:
    return [optim.SGD(module.parameters(), 0.1, momentum=0.9)]


def muon(module: nn.Module) -> list[optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, heads and vectors."""
    rest = dict(module.named_parameters())
    hidden = [rest.pop(name) for name in list(rest) if rest[name].ndim == 2 and re.search(r"\.\d+\.", name)]
    return [
        optim.Muon(hidden, 1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        optim.AdamW(rest.values(), 1e-3, weight_decay=0.1),
    ]


OPTIMIZERS = {
    "adamw": Optimizer(adamw),
    "sgd": Optimizer(sgd),
    "adam": Optimizer(lambda module: adamw(module, decay=0)),
    "muon": Optimizer(muon),
    "adamw-late": Optimizer(lambda module: adamw(module, lr=1e-5), after="adamw", steps=200, models=FIRST[:3]),
}


def train(out: Path, model_name: str, optimizer_name: str, steps: int) -> None:
    model, optimizer = MODELS[model_name], OPTIMIZERS[optimizer_name]
    folder = out / f"{model_name}-{optimizer_name}"
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "model": model_name,
        "optimizer": optimizer_name,
        "embed_dim": model.width,
        "num_heads": model.heads,
        "num_kv_heads": model.kv_heads or model.heads,
        "head_dim": model.width // model.heads,
        "layers": model.layers,
        "packing": model.packing,
        "rotary": model.rotary,
    }
    torch.manual_seed(0)
    module = model.build(model).train()
    if optimizer.after:
        module.load_state_dict(load_file(out / f"{model_name}-{optimizer.after}" / "model.safetensors"))
    draw = torch.Generator().manual_seed(1)
    optimizers = optimizer.make(module)
    warmups = [optim.lr_scheduler.LinearLR(each, 0.02, total_iters=50) for each in optimizers]
    losses: dict[int, float] = {}
    recent: list[float] = []
    began = time.perf_counter()
    for step in range(steps + 1):
        loss = model.task(module, draw, bool(optimizer.after))
        recent = [*recent[-19:], loss.item()]
        if step in SNAPSHOTS or step == steps:
            losses[step] = round(sum(recent) / len(recent), 4)
            weights = {name: weight.detach() for name, weight in module.named_parameters()}
            kept = {name: weight for name, weight in weights.items() if KEPT.search(name)}
            save_file(kept, folder / f"step-{step}.safetensors")
            save_file(weights, folder / "model.safetensors")
            seconds = round(time.perf_counter() - began, 1)
            (folder / "run.json").write_text(json.dumps({**about, "losses": losses, "seconds": seconds}, indent=1))
            print(folder.name, step, losses[step], f"{seconds} s", flush=True)
        module.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1)
        for each in (*optimizers, *warmups):
            each.step()
    with (out / "LOG").open("a") as log:
        log.write(f"{folder.name} {steps} steps, loss {losses[0]} -> {losses[steps]}, {seconds} s\n")


def complete(folder: Path, steps: int) -> bool:
    run = folder / "run.json"
    return run.exists() and str(steps) in json.loads(run.read_text())["losses"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="*", help="<model>-<optimizer>, with * and ?")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [(model, name) for name, optimizer in OPTIMIZERS.items() for model in optimizer.models]
    runs.sort(key=lambda run: (run[1] != "adamw", run[0] not in FIRST))
    for model, name in runs:
        steps = OPTIMIZERS[name].steps or options.steps
        if fnmatch(f"{model}-{name}", options.only) and not complete(options.out / f"{model}-{name}", steps):
            train(options.out, model, name, steps)


if __name__ == "__main__":
    main()
