"""This version beside another one, such as a release: the processor time of the same commands on the same files.

    git worktree add /tmp/before 8d0a31b
    python tests/benchmarks/before.py /tmp/before [ROUNDS]

Writes BEFORE.md. Both run in turn, each with its own compiled modules, and the least of all rounds counts: other
programs make a command wait and take longer, and never make it faster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from processes import LAUNCHER, QKVINSPECT, saying
from safetensors.torch import save_file
from scale import encoder, write

HERE = Path(__file__).parents[2]
LAYERS, WIDTH, HEADS = 8, 512, 8


def make(folder: Path) -> Mapping[str, tuple[str | Path, ...]]:
    """Files of AntiBERTy's sizes, of 24 wide layers and of 10,000 layers; what is asked of them."""
    torch.manual_seed(0)
    names = ("self.query", "self.key", "self.value", "output.dense")
    state = {
        f"bert.encoder.layer.{layer}.attention.{name}.weight": torch.randn(WIDTH, WIDTH) * 0.04
        for layer in range(LAYERS)
        for name in names
    }
    small, wide, deep = folder / "small", folder / "wide.safetensors", folder / "deep.safetensors"
    small.mkdir()
    save_file(state, small / "model.safetensors")
    config = {"model_type": "bert", "num_attention_heads": HEADS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
    (small / "config.json").write_text(json.dumps(config))
    save_file({f"layers.{n}.self_attn.in_proj_weight": torch.randn(3072, 1024) for n in range(24)}, wide)
    torch.save({f"layers.{n}.self_attn.in_proj_weight": torch.randn(3072, 1024) for n in range(24)}, folder / "wide.pt")
    write(deep, {key: shape for n in range(10_000) for key, shape in encoder(n, 8).items()}, "F32")
    known = ("--heads", "16", "--no-evidence")
    return {
        "analyze, all columns (8 layers of width 512)": ("analyze", small, "--no-evidence", "-f", "csv"),
        "analyze, one column of a circuit": ("analyze", small, "--no-evidence", "--heat", "qk_norm"),
        "analyze, one column of norms": ("analyze", small, "--no-evidence", "--heat", "q_norm"),
        "show, heads known (24 layers of width 1024)": ("show", wide, *known),
        "show, heads known, .pt": ("show", folder / "wide.pt", *known),
        "show, heads known, 10,000 layers": ("show", deep, "--heads", "2", "--no-evidence"),
        "show --no-norms": ("show", wide, "--no-norms"),
        "--help": ("--help",),
    }


def processor(tree: Path, words: tuple[str | Path, ...], cache: Path) -> float:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    kept |= {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(cache / tree.name)}
    command = [sys.executable, "-I", "-S", "-c", LAUNCHER, os.devnull, *QKVINSPECT, *words]
    done = subprocess.run(command, cwd=cache, env=kept, capture_output=True, text=True, check=True)
    *_, seconds, code = map(float, done.stdout.split())
    if code:
        raise SystemExit(f"{words} failed in {tree}: {done.stderr}")
    return seconds


def main() -> None:
    before, rounds = Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as place, saying(Path(__file__).with_name("BEFORE.md")) as say:
        folder = Path(place)
        load = os.getloadavg()[0]
        say(f"Seconds of the processor, the least of {rounds} runs in turn; load of the machine {load:.1f}.\n")
        say("| work | 0.1.0 | now | ratio |\n| --- | --- | --- | --- |")
        for name, words in make(folder).items():
            taken: list[list[float]] = [[], []]
            for number in range(rounds + 1):
                for found, tree in zip(taken, (before, HERE), strict=True):
                    seconds = processor(tree, words, folder)
                    if number:
                        found.append(seconds)
            then, now = map(min, taken)
            say(f"| {name} | {then:.3f} | {now:.3f} | {now / then:.2f} |")


if __name__ == "__main__":
    main()
