"""Files that stand beside a checkpoint, or come of earlier runs, changed as checkpoints are: bytes and structure.

Settings, configs in JSON and YAML, shard indexes, baselines, manifests, rows of a scan and its journal. Each is made by
the command that writes it, or as its reader takes it; then bytes are changed, values are replaced by ones of another
type or size, keys are dropped or doubled. ``python -m tests.hostile.side_files --count 100000`` runs as many as asked
for; a failure names the seed that makes it again.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from qkvinspect.cli import main

SETTINGS = """[heads]
"*" = "4/2"
[layouts]
"h.*" = "qkv-proj"
[[layout]]
q = "q_linear.weight"
k = "k_linear.weight"
v = "v_linear.weight"
[check]
select = ["*"]
ignore = ["norm-outlier"]
fail_on = "error"
[check.severity]
zero-head = "error"
[check.layers."decoder.*"]
ignore = ["equal-*"]
[check.expect."*"]
num_layers = 2
norm = [0.1, 50.0]
"""
CONFIG = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "hidden_size": 16,
    "text_config": {"num_attention_heads": 4, "layer_types": ["full_attention", "sliding_attention"]},
    "rope_scaling": {"factor": 2.0, "rope_type": "linear"},
}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, -(10**40), 1e308, float("nan"), "", "4", "\x1b[31m", "::error::x", "\ud800",
    [], [[]], {}, {"a": {}}, [1, "2", None], "../../x", "/dev/zero", "*" * 5000, list(range(300)),
)  # fmt: skip


def prepared(folder: Path) -> dict[str, tuple[bytes, tuple[tuple[str, ...], ...]]]:
    """By name the sound bytes of each file, and the commands that read it."""
    layer = "model.layers.{}.self_attn.{}_proj.weight"
    sizes = {"q": 16, "k": 8, "v": 8, "o": 16}
    chance = np.random.default_rng(0)
    state = {
        layer.format(number, part): chance.normal(size=(rows, 16)).astype("f4")
        for number in range(2)
        for part, rows in sizes.items()
    }
    save_file(state, folder / "m.safetensors")
    save_file(state, folder / "part.safetensors")
    (folder / "run").mkdir()
    for step in (100, 200, 300):
        save_file(state, folder / "run" / f"step{step}.safetensors")
    index = {"metadata": {"total_size": 6144}, "weight_map": dict.fromkeys(state, "part.safetensors")}
    quietly("check", "m.safetensors", "--heads", "4/2", "--write-baseline", "base.json")
    quietly("scan", "run", "-o", "rows.jsonl", "--jobs", "1", "--heads", "4/2")
    quietly("scan", "run", "-o", "rows.csv", "--jobs", "1", "--heads", "4/2")
    journals = [path.name for path in folder.iterdir() if "journal" in path.name]
    yaml = "model: &m\n  heads: 4\n  kv: 2\nencoder:\n  <<: *m\n  num_attention_heads: 4\nlist: [1, 2, {a: b}]\n"
    show = (("show", "m.safetensors"), ("explain", "m.safetensors"), ("check", "m.safetensors", "-f", "json"))
    given = tuple((*command, "--config", "given.json") for command in show)
    found: dict[str, tuple[bytes, tuple[tuple[str, ...], ...]]] = {
        "qkvinspect.toml": (SETTINGS.encode(), show),
        "config.json": (json.dumps(CONFIG).encode(), show),
        "given.json": (json.dumps(CONFIG).encode(), given),
        "hparams.yaml": (yaml.encode(), tuple((*command, "--config", "hparams.yaml") for command in show)),
        "x.safetensors.index.json": (
            json.dumps(index).encode(),
            (("show", "x.safetensors.index.json"), ("export", "x.safetensors.index.json", "-o", "OUT.safetensors")),
        ),
        "base.json": (
            (folder / "base.json").read_bytes(),
            (("check", "m.safetensors", "--heads", "4/2", "--baseline", "base.json"),),
        ),
        "sums": (
            f"{'0' * 64}  m.safetensors\nSHA256 (a b) = {'1' * 64}\n".encode(),
            (("check", "m.safetensors", "--sha256", "sums"),),
        ),
        "rows.jsonl": (
            (folder / "rows.jsonl").read_bytes(),
            (("trend", "rows.jsonl"), ("trend", "rows.jsonl", "-f", "json")),
        ),
        "rows.csv": ((folder / "rows.csv").read_bytes(), (("trend", "rows.csv"),)),
    }
    for name in journals:
        found[name] = ((folder / name).read_bytes(), (("scan", "run", "-o", "rows.jsonl", "--jobs", "1", "--resume"),))
    for name in ("qkvinspect.toml", "config.json", "given.json"):
        (folder / name).unlink(missing_ok=True)
    return found


def quietly(*words: str) -> tuple[int, str]:
    """Exit code, and all that was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(list(words))
    return code, said.getvalue()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Changed in its bytes, or in its structure where it is JSON."""
    changes: list[Callable[[bytes, random.Random], bytes]] = [in_bytes, in_words, in_structure]
    for _ in range(chance.choice((1, 1, 2, 4))):
        data = chance.choice(changes)(data, chance)
    return data


def in_bytes(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    match chance.randrange(6):
        case 0:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 1:
            return data[:place]
        case 2:
            return data[:place] + data[place // 2 : place] * chance.choice((1, 2, 50)) + data[place:]
        case 3:
            return data[:place] + chance.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"{", b"["))
        case 4:
            return data[:place] + chance.choice((b"[" * 9999, b"9" * 6000, b"{" * 300, b"a" * 100_000)) + data[place:]
        case _:
            return data[:place] + data[place + chance.randrange(30) :]


def in_words(data: bytes, chance: random.Random) -> bytes:
    """A number or a text by another."""
    words = list(re.finditer(rb'"[^"\n]*"|-?\d+(\.\d+)?', data))
    if not words:
        return data
    word = chance.choice(words)
    text = json.dumps(chance.choice(ODD)).encode()
    return data[: word.start()] + text + data[word.end() :]


def in_structure(data: bytes, chance: random.Random) -> bytes:
    """A value of a JSON file, or of one of its lines, replaced, dropped or doubled."""
    lines = data.split(b"\n")
    number = chance.randrange(len(lines))
    for whole in (True, False):
        try:
            root: Any = json.loads(data if whole else lines[number])
        except (ValueError, RecursionError):
            continue
        places = list(_containers(root))
        if not places:
            return data
        _change(chance.choice(places), chance)
        text = json.dumps(root).encode()
        return text if whole else b"\n".join([*lines[:number], text, *lines[number + 1 :]])
    return data


def _containers(root: Any) -> Iterator[Any]:
    if isinstance(root, dict | list) and root:
        yield root
        for value in root.values() if isinstance(root, dict) else root:
            yield from _containers(value)


def _change(holder: Any, chance: random.Random) -> None:
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match chance.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(("", "\x1b[2J", "layer", "a" * 3000, "..", "norm"))] = holder[key]
        case _:
            holder[key] = chance.choice(ODD)


def run(count: int, seed: int) -> list[str]:
    """Try so many changed files; what fell over, and how."""
    faults: list[str] = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            files = prepared(Path(name))
            for number in range(seed, seed + count):
                chance = random.Random(number)
                file = chance.choice(sorted(files))
                sound, commands = files[file]
                faults += _one(number, file, mutated(sound, chance), chance.choice(commands))
                if file in ("qkvinspect.toml", "config.json", "given.json"):
                    Path(file).unlink()
                else:
                    Path(file).write_bytes(sound)
        finally:
            os.chdir(before)
    return faults


def _one(seed: int, file: str, data: bytes, command: tuple[str, ...]) -> Iterator[str]:
    Path(file).write_bytes(data)
    label = f"seed {seed}: {file}: {' '.join(command)}"
    try:
        code, said = quietly(*(word.replace("OUT", f"out{seed}") for word in command))
    except Exception:
        yield f"{label}: {traceback.format_exc(limit=-3)}"
        return
    finally:
        for left in Path().glob("out*"):
            left.unlink()
    if code not in (0, 1, 2) or "fault of qkvinspect" in said:
        yield f"{label}: exit code {code}: {said[-300:]}"
    if "\x1b" in said or any(line.lstrip().startswith("::") for line in said.splitlines()):
        yield f"{label}: a line that a terminal or a runner obeys"


if __name__ == "__main__":
    warnings.simplefilter("error")
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = run(given.count, given.seed)
    print("\n".join(found))
    print(f"{given.count} files, {len(found)} faults")
    sys.exit(bool(found))
