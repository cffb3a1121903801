"""qkvinspect beside what else there is, on the same files in the same run.

    python -m venv peers && peers/bin/pip install -c constraints.txt -r tests/benchmarks/peers.txt
    python tests/benchmarks/peers.py peers/bin [ROUNDS]

Makes its files (24 layers of nn.TransformerEncoder, 1024 wide), checks that all find the same norms, runs all in
turn, and writes medians to RESULTS.md. Every file is in the cache of the system when it is timed.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import bandwidths
from processes import QKVINSPECT, interleaved, printed, run, saying
from scripts import ENDING, HEADS

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "sample_checkpoints" / "transformer.pt"
SHOW = (*QKVINSPECT, "show", "--heads", str(HEADS), "--per-head")
NORMS = (*SHOW, "--no-evidence")

Command = Sequence[str | Path]


def works(files: Path, peers: Path) -> dict[str, dict[str, Command]]:
    """What is done, and by whom; the first of each is what the others are divided by."""
    stored, pickled = files / "float32.safetensors", files / "float32.pt"
    script = (peers / "python", HERE / "scripts.py")
    copy = f"cp {files / 'split.safetensors'} {files / 'copy'}"
    return {
        "norms of every head, .safetensors": {
            "qkvinspect show --no-evidence": (*NORMS, stored),
            "qkvinspect show": (*SHOW, stored),
            "qkvinspect show --no-evidence, of the .pt": (*NORMS, pickled),
            "torch: load_file and a loop": (*script, "torch_load_file", stored),
            "numpy: safe_open and a loop": (*script, "numpy_safe_open", stored),
            "sft stat --include (no heads)": (peers / "sft", "stat", stored, f"--include=*{ENDING}", "--json"),
            "cat to nowhere (the whole file)": ("cat", stored),
        },
        "heads unknown: the weights are asked": {
            "qkvinspect show, as torch made them": (*QKVINSPECT, "show", stored),
            "qkvinspect show, as training leaves them": (*QKVINSPECT, "show", files / "trained.safetensors"),
            "qkvinspect show, trained too little to tell": (*QKVINSPECT, "show", files / "faint.safetensors"),
            "torch: load_file and a loop, which is told": (*script, "torch_load_file", stored),
            "torch: the same, imported and nothing else": (peers / "python", "-c", "import torch, safetensors.torch"),
        },
        "norms of every head, .pt": {
            "qkvinspect show --no-evidence": (*NORMS, pickled),
            "torch: load(mmap=True) and a loop": (*script, "torch_load", pickled),
        },
        "norms of every head, bfloat16": {
            "qkvinspect show --no-evidence": (*NORMS, files / "bfloat16.safetensors"),
            "torch: load_file and a loop": (*script, "torch_load_file", files / "bfloat16.safetensors"),
        },
        "norms of every head, float16": {
            "qkvinspect show --no-evidence": (*NORMS, files / "float16.safetensors"),
            "torch: load_file and a loop": (*script, "torch_load_file", files / "float16.safetensors"),
        },
        "shapes, .safetensors": {
            "qkvinspect show --no-norms": (*QKVINSPECT, "show", "--no-norms", stored),
            "safetensors-print": (peers / "safetensors-print", stored),
            "modelinfo": (peers / "modelinfo", stored),
        },
        "shapes, .pt": {
            "qkvinspect show --no-norms": (*QKVINSPECT, "show", "--no-norms", pickled),
            "ckptkit info": (peers / "ckptkit", "info", pickled),
        },
        "Q, K and V as tensors of their own": {
            "qkvinspect export --split": (*QKVINSPECT, *split(stored, files / "new.safetensors"), "--force"),
            "the same, --dry-run": (*QKVINSPECT, *split(stored, files / "new.safetensors"), "--force", "--dry-run"),
            "cp of as many bytes, and sync": ("sh", "-c", f"rm -f {files / 'copy'}; {copy}; sync {files / 'copy'}"),
            "cp of as many bytes": ("sh", "-c", f"rm -f {files / 'copy'}; {copy}"),
        },
        "start": {
            "qkvinspect --help": (*QKVINSPECT, "--help"),
            "python -c 'import typer'": (sys.executable, "-c", "import typer"),
            "python -c 'import typer, rich.console'": (sys.executable, "-c", "import typer, rich.console"),
            "python -c pass": (sys.executable, "-c", "pass"),
            "python -c 'import numpy'": (sys.executable, "-c", "import numpy"),
            "python -c 'import torch'": (sys.executable, "-c", "import torch"),
            "qkvinspect show (a small file)": (*QKVINSPECT, "show", SAMPLE),
            "qkvinspect explain (a small file)": (*QKVINSPECT, "explain", SAMPLE),
        },
    }


def split(source: Path, target: Path) -> Command:
    return ("export", "--split", "--no-evidence", source, "-o", target)


def norms(found: Any) -> dict[str, list[float]]:
    """What qkvinspect prints as JSON, in the form of scripts.py."""
    return {
        one["tensors"]["weight"]: [head["norm"] for part in "qkv" for head in one[part]["heads"]]
        for one in found["attentions"]
    }


def totals(found: Any) -> dict[str, list[float]]:
    """The norm of a whole tensor, from what sft says of it."""
    return {one["name"]: [math.sqrt(math.prod(one["shape"]) * (one["std"] ** 2 + one["mean"] ** 2))] for one in found}


def check(todo: Mapping[str, Mapping[str, Command]], cache: Path) -> None:
    """Make sure that all find the same norms before any time is compared.

    Raises:
        SystemExit: they do not.
    """
    for work, commands in todo.items():
        if not work.startswith("norms"):
            continue
        own: dict[str, list[float]] | None = None
        for name, command in commands.items():
            if name.startswith("qkvinspect"):
                found = norms(printed((*command, "--format", "json"), cache))
            elif name.startswith("sft"):
                found = totals(printed(command, cache))
            elif name.startswith("cat"):
                continue
            else:
                found: Any = printed(command, cache)
            own = own or found
            if found.keys() != own.keys() or not all(alike(own[key], found[key]) for key in own):
                raise SystemExit(f"{work}: {name} finds other norms")


def check_heads(files: Path, cache: Path) -> None:
    """Make sure that the weights tell the heads where they are to, and do not where they are not.

    Raises:
        SystemExit: they do not.
    """
    for name, expected in (("float32", None), ("trained", HEADS), ("faint", None)):
        found: Any = printed((*QKVINSPECT, "show", files / f"{name}.safetensors", "--format", "json"), cache)
        if {one["num_heads"] for one in found["attentions"]} != {expected}:
            raise SystemExit(f"{name}: the weights do not say {expected} heads")


def alike(own: list[float], other: list[float]) -> bool:
    if len(other) == 1:
        own = [math.hypot(*own)]
    return len(own) == len(other) and all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(own, other, strict=True))


def versions(peers: Path) -> str:
    asked = "sft-cli", "ckptkit", "modelinfo-cli", "safetensors-print", "safetensors", "torch", "numpy"
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {asked!r}), sep=', ')"
    return subprocess.run([peers / "python", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    peers, rounds = Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder, saying(HERE / "RESULTS.md") as say:
        files, cache = Path(folder), Path(folder, "cache")
        run((peers / "python", HERE / "scripts.py", "make", files), cache)
        run((*QKVINSPECT, *split(files / "float32.safetensors", files / "split.safetensors")), cache)
        todo = works(files, peers)
        check(todo, cache)
        check_heads(files, cache)
        say(f"{os.cpu_count()} cores, Python {platform.python_version()}; {versions(peers)}.")
        say(f"{rounds} runs in turn, all files in the system's cache: the median by the clock, the least of the")
        say(f"processor, the most memory. Load of the machine when it began: {os.getloadavg()[0]:.1f}.\n")
        say("| work | by | seconds | of the processor | times the first | peak MB |")
        say("| --- | --- | --- | --- | --- | --- |")
        for work, commands in todo.items():
            taken = interleaved(commands, rounds, cache)
            first = next(iter(taken.values())).processor
            for number, (name, one) in enumerate(taken.items()):
                cells = work if number == 0 else "", f"`{name}`", f"{one.seconds:.3f}", f"{one.processor:.3f}"
                say(f"| {' | '.join(cells)} | {one.processor / first:.2f} | {one.megabytes:.0f} |")
        say("\n| norms in the engine alone | GB/s | of a float32 `max` in memory |\n| --- | --- | --- |")
        for name, speed, share in bandwidths(files, rounds):
            say(f"| {name} | {speed:.1f} | {share:.2f} |")


if __name__ == "__main__":
    main()
