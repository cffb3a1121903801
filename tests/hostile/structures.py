"""Checkpoints that are whole files of nonsense: shapes, dtypes and names of no model, under names that models have.

Bytes are mutated elsewhere (fuzz/, mutants.py) and end in the readers; these get through them, to whatever works with
what was read. ``python -m tests.hostile.structures --count 100000 --seed 1`` runs as many as asked for, through every
command, and prints what fell over; a failure names the seed that makes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path

from qkvinspect.cli import main
from qkvinspect.formats.safetensors import CODES
from qkvinspect.layouts import LAYOUTS

DTYPES = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "U32": 32}
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 48, 96)
NAMES = ("", ".", "..", "\x1b[31m", "::error::x", "##[error]x", "=1+1", "[x](y)", "<b>", "a\nb", "\u202e", "'")
MOST = 1 << 18
"""Elements of a tensor: sizes that were multiplied again and again would fill the disk."""

LAYERS = ("", "h.0.attn.", "h.1.attn.", "model.layers.0.self_attn.", "model.layers.1.self_attn.", "encoder.", "x.y.")

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "A"),
    ("show", "A", "--per-head"),
    ("show", "A", "-f", "json"),
    ("show", "A", "-f", "csv", "--per-head"),
    ("show", "A", "-f", "markdown"),
    ("show", "A", "--heads", "2"),
    ("explain", "A"),
    ("explain", "A", "--evidence"),
    ("analyze", "A"),
    ("analyze", "A", "-f", "json"),
    ("analyze", "A", "--values"),
    ("check", "A"),
    ("check", "A", "-f", "json"),
    ("check", "A", "-f", "junit"),
    ("check", "A", "-f", "sarif"),
    ("check", "A", "-f", "github"),
    ("diff", "A", "B"),
    ("diff", "A", "B", "-f", "json"),
    ("diff", "A", "B", "-f", "markdown"),
    ("export", "--split", "A", "-o", "OUT.safetensors"),
    ("export", "--split", "--all", "A", "-o", "OUT.pt"),
    ("export", "--heads-split", "A", "-o", "OUT.safetensors", "--heads", "2"),
    ("pack", "A", "--to", "torch-mha", "-o", "OUT.pt"),
    ("convert", "A", "--to", "gpt-neox", "-o", "OUT.safetensors", "--heads", "2"),
    ("scan", "A", "-o", "OUT.jsonl", "--jobs", "1", "--force"),
)


def keys() -> list[tuple[str, ...]]:
    """The names of each layout's tensors, one of several where a row allows several."""
    found: list[tuple[str, ...]] = []
    for layout in LAYOUTS:
        texts = [stored.key for stored in (*layout.weights, *layout.biases)] + [*layout.out]
        found.append(tuple(re.sub(r"\{([^,}]*)[^}]*\}|\*", lambda one: one[1] or "0", text) for text in texts))
    return found


def tensors(random: random.Random, known: list[tuple[str, ...]]) -> dict[str, tuple[str, list[int]]]:
    """Names with a dtype and a shape: those of one or two layouts in a few layers, then mutated."""
    made: dict[str, tuple[str, list[int]]] = {}
    dtype, width = random.choice(list(DTYPES)[:4]), random.choice(SIZES[4:])
    for layer in random.sample(LAYERS, random.randint(1, 3)):
        for key in random.choice(known):
            rows = width * random.choice((1, 1, 1, 3, 2))
            made[_place(layer, key)] = dtype, [rows] if "bias" in key else [rows, width]
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        _mutate(made, random)
    return made


def _place(layer: str, key: str) -> str:
    """The name of a key below a layer, or beside it where it begins with ``../``."""
    parts = layer.split(".")[:-1]
    while key.startswith("../"):
        key, parts = key[3:], parts[:-1]
    return ".".join([*parts, key])


def _mutate(made: dict[str, tuple[str, list[int]]], random: random.Random) -> None:
    name = random.choice(list(made) or [""])
    dtype, shape = made.get(name, ("F32", [1]))
    match random.randrange(8):
        case 0:
            made[name] = dtype, [random.choice(SIZES) for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
        case 1:
            made[name] = random.choice(list(DTYPES)), shape
        case 2:
            made.pop(name, None)
        case 3:
            made[random.choice(NAMES) + name] = made.pop(name, (dtype, shape))
        case 4:
            made[name + random.choice((".scales", ".weight_scale", "_scale_inv", ".absmax", ".qweight", ".g_idx"))] = (
                random.choice(list(DTYPES)),
                [random.choice(SIZES) for _ in range(random.randint(0, 2))],
            )
        case 5:
            made[name] = dtype, [*shape, 1, 1] if random.random() < 0.5 else shape[::-1]
        case 6:
            for other in list(made):
                made[other] = made[other][0], [random.choice((0, 1)), *made[other][1][1:]]
        case _:
            made[name] = dtype, [size * random.choice((1, 2, 3)) + random.choice((0, 0, 1)) for size in shape]


def write(path: Path, made: dict[str, tuple[str, list[int]]], random: random.Random) -> None:
    """A safetensors file of them: zeros, ones, noise, or values that are not finite."""
    header: dict[str, object] = {}
    data = bytearray()
    for name, (dtype, shape) in made.items():
        if prod(shape) > MOST:
            shape = [min(size, 3) for size in shape][:6]  # noqa: PLW2901
        count = 1
        for size in shape:
            count *= size
        size = count * DTYPES[dtype] // 8
        fill = random.random()
        data_here = bytes(size) if fill < 0.2 else b"\xff" * size if fill < 0.25 else random.randbytes(size)
        if fill >= 0.4 and dtype == "F32":
            import numpy as np

            data_here = np.random.default_rng(random.getrandbits(32)).normal(size=count).astype("<f4").tobytes()
        if dtype == "BOOL":
            data_here = bytes(byte & 1 for byte in data_here)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += data_here
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def run_one(seed: int, folder: Path, known: list[tuple[str, ...]], commands: int) -> Iterator[str]:
    """Try some commands on the checkpoint of a seed; what fell over, and how."""
    chance = random.Random(seed)
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    made = tensors(chance, known)
    write(a, made, chance)
    if chance.random() < 0.5:
        _mutate(made, chance)
    write(b, made, chance)
    for command in chance.sample(COMMANDS, commands):
        out = folder / f"out{seed}"
        words = [{"A": str(a), "B": str(b)}.get(word, word.replace("OUT", str(out))) for word in command]
        said, problems = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(problems):
                code = main(words)
        except Exception:
            yield f"seed {seed}: {' '.join(command)}: {traceback.format_exc(limit=-3)}"
            continue
        finally:
            for left in folder.glob("out*"):
                left.unlink()
        if code not in (0, 1, 2):
            yield f"seed {seed}: {' '.join(command)}: exit code {code}"
        lines = [*said.getvalue().splitlines(), *problems.getvalue().splitlines()]
        if "github" not in command and any(line.lstrip().startswith("::") or "##[" in line for line in lines):
            yield f"seed {seed}: {' '.join(command)}: a line that GitHub's runner obeys"
        if "\x1b" in said.getvalue() + problems.getvalue():
            yield f"seed {seed}: {' '.join(command)}: an escape of a terminal"


def run(count: int, seed: int, commands: int) -> list[str]:
    """Try the checkpoints of so many seeds."""
    assert set(DTYPES) <= set(CODES)
    known = keys()
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return [fault for one in range(seed, seed + count) for fault in run_one(one, Path(folder), known, commands)]
        finally:
            os.chdir(before)


if __name__ == "__main__":
    warnings.simplefilter("error")
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=4)
    given = parser.parse_args()
    found = run(given.count, given.seed, given.commands)
    print("\n".join(found))
    print(f"{given.count} checkpoints, {given.count * given.commands} commands, {len(found)} faults")
    sys.exit(bool(found))
