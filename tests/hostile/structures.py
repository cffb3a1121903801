"""Checkpoints that are whole files of nonsense: shapes, dtypes and names of no model, under names that models have.

Bytes are mutated elsewhere (fuzz/, mutants.py) and end in the readers; these get through them, to whatever works with
what was read. ``python -m tests.hostile.structures --mutations 1000000 --layers 40`` runs as many as asked for, through
every command, and prints what fell over; a failure names the seed that makes it again. A mutation changes the name, the
dtype or the shape of one tensor, or drops or adds one; a checkpoint of many layers holds many, each in its own layer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from qkvinspect.cli import main
from qkvinspect.formats.safetensors import CODES
from qkvinspect.layouts import LAYOUTS
from tests.here import kept_commands
from tests.hostile.bounds import HANG, bounded_memory, no_hang

DTYPES = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "U32": 32}
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 48, 96)
NAMES = ("", ".", "..", "\x1b[31m", "::error::x", "##[error]x", "=1+1", "[x](y)", "<b>", "a\nb", "\u202e", "'")
MOST = 1 << 18
"""Elements of a tensor: sizes that were multiplied again and again would fill the disk."""

LAYERS = ("", "h.0.attn.", "h.1.attn.", "model.layers.0.self_attn.", "model.layers.1.self_attn.", "encoder.", "x.y.")
STACKS = ("h.{}.attn.", "model.layers.{}.self_attn.", "encoder.{}.", "blocks.{}.x.", "a.{}.b.c.attention.")
BYTES = 1 << 30
"""What one command may take beyond what the process has."""

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
    ("scan", "A", "B", "-o", "OUT.jsonl", "--jobs", "1", "--force"),
    ("report", "A", "-o", "OUT.html"),
    ("report", "A", "B", "--no-analysis", "-o", "OUT.html"),
    ("lineage", "A", "B"),
    ("lineage", "A", "B", "-f", "json"),
    ("trend", "ROWS"),
    ("trend", "ROWS", "-f", "markdown", "--per-head"),
    ("show", "A", "--tensors"),
    ("show", "A", "--heat", "q_norm"),
    ("explain", "A", "-f", "markdown"),
    ("export", "A", "--names", "bert", "--undo-permute", "--dry-run", "-o", "OUT.pt"),
    ("convert", "A", "--to", "qkv-proj", "--tp", "2", "-o", "OUTfolder"),
    ("check", "A", "--write-baseline", "OUT.json"),
)


def keys() -> list[tuple[str, ...]]:
    """The names of each layout's tensors, one of several where a row allows several."""
    found: list[tuple[str, ...]] = []
    for layout in LAYOUTS:
        texts = [stored.key for stored in (*layout.weights, *layout.biases)] + [*layout.out]
        found.append(tuple(re.sub(r"\{([^,}]*)[^}]*\}|\*", lambda one: one[1] or "0", text) for text in texts))
    return found


Made = dict[str, tuple[str, list[int]]]


def tensors(random: random.Random, known: list[tuple[str, ...]], layers: int = 3) -> tuple[Made, int]:
    """Names with a dtype and a shape: those of layouts in a few layers, mutated; and how many mutations that were."""
    names = random.sample(LAYERS, random.randint(1, 3))
    if layers > len(names):
        names = [stack.format(number) for number in range(layers // 2) for stack in random.sample(STACKS, 2)]
    whole: Made = {}
    done = 0
    dtype, width, keys_here = random.choice(list(DTYPES)[:4]), random.choice(SIZES[4:]), random.choice(known)
    for layer in names:
        if random.random() < 0.2:
            dtype, width, keys_here = random.choice(list(DTYPES)[:4]), random.choice(SIZES[4:]), random.choice(known)
        made: Made = {}
        for key in keys_here:
            rows = width * random.choice((1, 1, 1, 3, 2))
            made[_place(layer, key)] = dtype, [rows] if "bias" in key else [rows, width]
        for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            _mutate(made, random)
            done += 1
        whole |= made
    return whole, done


def _place(layer: str, key: str) -> str:
    """The name of a key below a layer, or beside it where it begins with ``../``."""
    parts = layer.split(".")[:-1]
    while key.startswith("../"):
        key, parts = key[3:], parts[:-1]
    return ".".join([*parts, key])


def _mutate(made: Made, random: random.Random) -> None:
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


def run_one(seed: int, folder: Path, known: list[tuple[str, ...]], commands: int, layers: int, tally: Tally) -> None:
    """Try some commands on the checkpoint of a seed, and note what fell over, and how."""
    chance = random.Random(seed)
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    made, done = tensors(chance, known, layers)
    write(a, made, chance)
    if chance.random() < 0.5:
        _mutate(made, chance)
        done += 1
    write(b, made, chance)
    tally.mutations += done
    for command in chance.sample(COMMANDS, commands):
        out, rows = folder / f"out{seed}", folder / f"out{seed}rows.jsonl"
        words = [
            {"A": str(a), "B": str(b), "ROWS": str(rows)}.get(word, word.replace("OUT", str(out))) for word in command
        ]
        if "ROWS" in command:
            tally.faults += tried(["scan", str(a), str(b), "-o", str(rows), "--jobs", "1"], f"seed {seed}")[1]
        tally.faults += tried(words, f"seed {seed}")[1]
        tally.commands += 1
        for left in folder.glob("out*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@dataclass
class Tally:
    """What was tried, and what fell over."""

    checkpoints: int = 0
    mutations: int = 0
    commands: int = 0
    faults: list[str] = field(default_factory=list)


def tried(words: list[str], label: str, most: int = BYTES, seconds: float = HANG) -> tuple[int | None, list[str]]:
    """Run a command: its exit code, and what is wrong with how it ended and with what it said."""
    label = f"{label}: {' '.join(Path(word).name for word in words)}"
    said, problems = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(problems),
            bounded_memory(most),
            no_hang(seconds) as within,
        ):
            code = within(main, words)
    except Exception:
        return None, [f"{label}: {traceback.format_exc(limit=-3)}"]
    return code, [f"{label}: {wrong}" for wrong in _wrong(words, code, said.getvalue(), problems.getvalue())]


def _wrong(words: list[str], code: int, said: str, problems: str) -> Iterator[str]:
    lines = [*said.splitlines(), *problems.splitlines()]
    if code not in (0, 1, 2):
        yield f"exit code {code}"
    if code == 2 and words[0] in ("scan", "check"):  # which tell of each file that cannot be read
        if not said + problems:
            yield "silent"
    elif code == 2 and (len(problems.splitlines()) != 1 or "\nerror: " not in f"\n{problems}"):
        yield f"not one line: {problems[:500]}"
    if "github" not in words and any(line.lstrip().startswith("::") or "##[" in line for line in lines):
        yield "a line that GitHub's runner obeys"
    if "\x1b" in said + problems:
        yield "an escape of a terminal"


def run(mutations: int, seed: int, commands: int, layers: int = 3, seconds: float = 1e9) -> Tally:
    """Try the checkpoints of seed after seed, until so many mutations were in them or the time is over."""
    assert set(DTYPES) <= set(CODES)
    known, tally = keys(), Tally()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            while tally.mutations < mutations and time.monotonic() < end:
                run_one(seed + tally.checkpoints, Path(folder), known, commands, layers, tally)
                tally.checkpoints += 1
                if tally.checkpoints % 100 == 0:
                    gc.collect()
        finally:
            os.chdir(before)
    return tally


if __name__ == "__main__":
    warnings.simplefilter("error")
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=4)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=600)
    given = parser.parse_args()
    with kept_commands():
        found = run(given.mutations, given.seed, given.commands, given.layers, 60 * given.minutes)
    print("\n".join(found.faults))
    peak = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{found.mutations} mutations in {found.checkpoints} checkpoints, {found.commands} commands,"
        f" {len(found.faults)} faults, {peak.ru_maxrss >> 10} MB at most, {peak.ru_utime:.0f} seconds of the processor"
    )
    sys.exit(bool(found.faults))
