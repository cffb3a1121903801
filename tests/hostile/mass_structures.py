"""A million small changes to structure, in small files that each go through one command.

    python -m tests.hostile.mass_structures --mutations 1000000

Shapes, strides, dtypes, names, offsets, counts, nesting and configs of one model in every format; opcodes, headers and
indexes of the seeds (mutants.py); the parts of quantised weights; and the files that stand beside a checkpoint or come
of earlier runs (side_files.py). What was tried is kept in mass_structures.json, so that a run goes on where the last
one ended, and STRUCTURES.md says it. A fault names the seed that makes it again: ``--again SEED``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.here import kept_commands, scans_here
from tests.hostile import mutants, side_files
from tests.hostile.memory import MemoryFile
from tests.hostile.structures import COMMANDS, DTYPES, NAMES, SIZES, tried
from tests.hostile.test_quantised_mutations import MODELS, written
from tests.hostile.writers import models

STATE = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_name("STRUCTURES.md")
BEGIN = "<!-- mass_structures.py writes what follows -->\n"

CONFIG = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "hidden_size": 8}
LAYERS: tuple[dict[str, list[int]], ...] = (
    {f"model.layers.0.self_attn.{part}_proj.weight": [8, 8] for part in "qkvo"},
    {"h.0.attn.c_attn.weight": [8, 24], "h.0.attn.c_attn.bias": [24], "h.0.attn.c_proj.weight": [8, 8]},
    {"x.0.attn.in_proj_weight": [24, 8], "x.0.attn.in_proj_bias": [24], "x.0.attn.out_proj.weight": [8, 8]},
    {"gpt_neox.layers.0.attention.query_key_value.weight": [24, 8], "gpt_neox.layers.0.attention.dense.weight": [8, 8]},
    {f"bert.encoder.layer.0.attention.self.{part}.weight": [8, 8] for part in ("query", "key", "value")},
    {f"blk.0.attn_{part}.weight": [rows, 8] for part, rows in (("q", 8), ("k", 4), ("v", 4), ("output", 8))},
    {"m.0.attn.to_q.weight": [8, 8], "m.0.attn.to_kv.weight": [16, 8], "m.0.attn.to_out.0.weight": [8, 8]},
)  # fmt: skip

SLOW = {"report", "lineage", "scan", "trend"}
"""Commands that come in one of ten cases in which another would: they take ten times as long."""
ASKING = {"show", "explain", "analyze", "check", "diff", "export", "convert", "lineage", "scan", "report"}
"""Commands that ask the weights, unless they are told not to, as 29 of 30 times here: that takes ten times as long."""
_WEIGHTS = [0.1 if words[0] in SLOW else 1.0 for words in COMMANDS]

PIECE = 10_000
"""Mutations after which it is kept what was tried."""

BYTES = 1 << 30
SECONDS = 20.0
"""Of the processor, after which a command on a file of some kB counts as one that hangs."""


@dataclass
class Tally:
    """What was tried, and what came of it."""

    next: int = 0
    mutations: int = 0
    cases: int = 0
    seconds: float = 0.0
    most_memory: int = 0
    slowest: float = 0.0
    slowest_seed: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    mended: int = 0

    def add(self, other: Tally) -> None:
        self.next = max(self.next, other.next)
        self.mutations += other.mutations
        self.cases += other.cases
        self.seconds += other.seconds
        self.most_memory = max(self.most_memory, other.most_memory)
        self.slowest, self.slowest_seed = max((self.slowest, self.slowest_seed), (other.slowest, other.slowest_seed))
        for mine, more in ((self.commands, other.commands), (self.kinds, other.kinds), (self.codes, other.codes)):
            mine.update(more)
        self.faults |= other.faults


@dataclass(frozen=True)
class Case:
    """Files that were written, and a command on them."""

    words: tuple[str, ...]
    mutations: int = 1


def model(chance: random.Random, layers: int = 1) -> models.Tree:
    """A sound model of no layer or some, each in one of the conventions."""
    dtype = chance.choice(("F32", "F32", "F32", "F16", "BF16"))
    tensors = [
        models.described(name.replace(".0.", f".{number}.", 1), dtype, list(shape))
        for number in range(layers)
        for name, shape in chance.choice(LAYERS).items()
    ]
    return {
        "tensors": tensors,
        "above": chance.choice(([], [], ["state_dict"], ["model"])),
        "beside": {"format": "pt", "heads": "2"},
        "config": dict(CONFIG),
    }


def sound(chance: random.Random) -> tuple[models.Tree, list[bytes]]:
    """A model as it should be."""
    tree = models.placed(model(chance))
    return tree, models.data(tree)


def mutated(chance: random.Random) -> tuple[models.Tree, list[bytes], int]:
    """One change a layer, so that the file is still sound, or one value that the file lies in; how many these are."""
    if chance.random() < 0.5:
        tree = model(chance, 0)
        layers = chance.choice((1, 4, 10, 16))
        for number in range(layers):
            layer = model(chance)["tensors"]
            for one in layer:
                one["name"] = one["name"].replace(".0.", f".{number}.", 1)
            _changed(layer, chance)
            tree["tensors"] += layer
        models.placed(tree)
        return tree, models.data(tree), layers
    tree, values = sound(chance)
    part = chance.choice(("tensors", "tensors", "tensors", "above", "beside", "config", "config"))
    return {**tree, part: mutants.json_value(chance, tree[part])}, values, 1


def _changed(tensors: list[models.Tree], chance: random.Random) -> None:
    """Another name, dtype or shape of one tensor, or one more or fewer; the file stays sound."""
    at = chance.randrange(len(tensors))
    one = tensors[at]
    name, dtype, shape = one["name"], one["dtype"], one["shape"]
    match chance.randrange(7):
        case 0:
            shape = [chance.choice(SIZES[:11]) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
            shape = shape if len(shape) < 4 else [min(size, 3) for size in shape]
        case 1:
            dtype = chance.choice([code for code in DTYPES if code in models.WIDTHS])
        case 2:
            del tensors[at]
            return
        case 3:
            leaf = chance.choice((".scales", ".weight_scale", "_scale_inv", ".absmax", ".g_idx", ".bias", ".weight"))
            shape = [chance.choice(SIZES[:11]) for _ in range(chance.randint(0, 2))]
            tensors.append(models.described(name + leaf, chance.choice(("F32", "U8", "I32")), shape))
            return
        case 4:
            parts = name.split(".")
            parts[chance.randrange(len(parts))] = chance.choice(
                (*NAMES, *mutants.WORDS[:12], "1", "99999999999999999999")
            )
            name = ".".join(parts)
        case 5:
            shape = chance.choice((shape[::-1], [*shape, 1, 1], [1, *shape], [0, *shape[1:]], shape[:-1]))
        case _:
            shape = [size * chance.choice((1, 2, 3)) + chance.choice((0, 0, 1)) for size in shape]
    tensors[at] = models.described(name, dtype, shape)


class Cases:
    """Makes the case of a seed in the folder that is the current one."""

    def __init__(self) -> None:
        Path("sound").mkdir()
        with contextlib.chdir("sound"):
            self.sides = side_files.prepared(Path())
        self.sound: dict[str, str] = {}
        chance = random.Random(0)
        for name, form in models.FORMATS.items():
            self.sound[name] = self._written(Path("sound", name), form(*sound(chance)))
        makers: dict[str, Callable[[random.Random], MemoryFile]] = mutants.MAKERS
        self.kinds: list[tuple[str, Callable[[random.Random], Case]]] = []
        self.kinds += [(name, self._of_model(name)) for name in models.FORMATS] * 2
        self.kinds += [(f"{name} seeds", self._of_seeds(maker)) for name, maker in makers.items()]
        self.kinds += [("quantised", self._quantised)]
        self.kinds += [("beside a checkpoint", self._beside)] * 5

    def made(self, seed: int) -> tuple[str, Case]:
        """Its kind, and what was written of it."""
        chance = random.Random(seed)
        kind, make = chance.choice(self.kinds)
        return kind, make(chance)

    def _of_model(self, name: str) -> Callable[[random.Random], Case]:
        def make(chance: random.Random) -> Case:
            tree, values, mutations = mutated(chance)
            path = self._written(Path("case"), models.FORMATS[name](tree, values))
            return Case(self._command(chance, path, self.sound[name]), mutations)

        return make

    def _of_seeds(self, maker: Callable[[random.Random], MemoryFile]) -> Callable[[random.Random], Case]:
        def make(chance: random.Random) -> Case:
            file = maker(chance)
            path = self._written(Path("case"), {file.name: file.data, **file.folder})
            return Case(self._command(chance, path, self.sound["torch_zip"]))

        return make

    def _quantised(self, chance: random.Random) -> Case:
        Path("case").mkdir()
        written(chance.getrandbits(32), Path("case"))
        return Case(self._command(chance, "case", str(MODELS / "original.safetensors")))

    def _beside(self, chance: random.Random) -> Case:
        """A file of ``side_files``, in a folder of its own among links to the sound ones."""
        name = chance.choice(sorted(self.sides))
        data, commands = self.sides[name]
        Path("case").mkdir()
        for one in Path("sound").iterdir():
            if one.is_file() and one.name != name and one.name.startswith(("m.", "part.", "rows.")):
                os.link(one, Path("case") / one.name)
        Path("case/run").symlink_to(Path("sound/run").absolute())
        Path("case", name).write_bytes(side_files.mutated(data, chance))
        os.chdir("case")
        return Case(_unasked(chance, [word.replace("OUT", "out") for word in chance.choice(commands)]))

    @staticmethod
    def _written(folder: Path, files: models.Files) -> str:
        """Write them; the path of what is opened."""
        for name, data in files.items():
            path = folder / (name or ".")
            if name:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return str(folder if "" in files else folder / next(iter(files)))

    @staticmethod
    def _command(chance: random.Random, a: str, b: str) -> tuple[str, ...]:
        (command,) = chance.choices(COMMANDS, _WEIGHTS)
        if "ROWS" in command:
            command = ("scan", "A", "B", "-o", "OUT.csv", "--jobs", "1")
        words = [{"A": a, "B": b}.get(word, word.replace("OUT", "case/out")) for word in command]
        return _unasked(chance, words)


def _unasked(chance: random.Random, words: list[str]) -> tuple[str, ...]:
    """Without the weights, most times."""
    asked = words[0] not in ASKING or chance.random() < 1 / 30
    return tuple(words if asked else [*words, "--no-evidence"])


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Without what takes time and is not tried here: a scan's processes, waiting for disks, tables of options."""
    sync, os.fsync = os.fsync, lambda descriptor: None  # type: ignore[assignment]
    try:
        with scans_here(), kept_commands():
            yield
    finally:
        os.fsync = sync


def run(mutations: int, start: int, step: int = 1, seconds: float = 1e9) -> Tally:
    """Try the cases of the seeds ``start``, ``start + step`` and so on."""
    tally, end = Tally(start), time.monotonic() + seconds
    before, began = Path.cwd(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, quick():
        os.chdir(folder)
        try:
            cases = Cases()
            gc.collect()
            gc.freeze()
            while tally.mutations < mutations and time.monotonic() < end:
                _one(cases, tally.next, tally, Path(folder))
                tally.next += step
                if tally.cases % 500 == 0:
                    gc.collect()
        finally:
            os.chdir(before)
            gc.unfreeze()
    tally.seconds = time.process_time() - began
    tally.most_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return tally


def tried_by(width: int, mutations: int, start: int, end: float) -> Tally:
    """The same by so many processes, the seeds of which are shared out."""
    if width == 1:
        return run(mutations, start, 1, end - time.monotonic())
    found = Tally()
    with multiprocessing.get_context("fork").Pool(width) as pool:
        each = [(mutations // width + 1, start + at, width, end - time.monotonic()) for at in range(width)]
        for one in pool.starmap(run, each):
            found.add(one)
    return found


def _one(cases: Cases, seed: int, tally: Tally, folder: Path) -> None:
    kind, case = cases.made(seed)
    began = time.process_time()
    code, faults = tried(list(case.words), f"seed {seed} ({kind})", BYTES, SECONDS)
    took = time.process_time() - began
    os.chdir(folder)
    shutil.rmtree("case")
    if took > tally.slowest:
        tally.slowest, tally.slowest_seed = took, seed
    tally.mutations += case.mutations
    tally.cases += 1
    tally.commands[case.words[0]] += case.mutations
    tally.kinds[kind] += case.mutations
    tally.codes[str(code)] += 1
    if faults:
        tally.faults[str(seed)] = "\n".join(faults)


def page(tally: Tally) -> str:
    """What STRUCTURES.md says of all that was tried."""
    left = f"{len(tally.faults)} faults are left" if tally.faults else "no fault is left"
    said = (
        f"{tally.mutations:,} mutations in {tally.cases:,} files, each through one command, of the seeds 0 to "
        f"{tally.next - 1:,}: {tally.mended} faults were found and mended, {left}. At most {tally.most_memory} MB, "
        f"{tally.seconds:,.0f} seconds of the processor in all, {tally.slowest:.1f} for the slowest command (seed "
        f"{tally.slowest_seed:,})."
    )
    rows = [
        said,
        "",
        *_table("command", tally.commands),
        *_table("what was changed", tally.kinds),
        *_table("exit code", tally.codes, "files"),
    ]
    return "\n".join(rows).rstrip() + "\n"


def _table(title: str, counted: Counter[str], counted_in: str = "mutations") -> list[str]:
    rows = [f"| {name} | {count:,} |" for name, count in sorted(counted.items())]
    return [f"| {title} | {counted_in} |", "| --- | ---: |", *rows, ""]


def loaded() -> Tally:
    """What earlier runs tried."""
    if not STATE.exists():
        return Tally()
    said = json.loads(STATE.read_text())
    counters = {name: Counter[str](said[name]) for name in ("commands", "kinds", "codes")}
    return Tally(**{**said, **counters})


def again(tally: Tally) -> Tally:
    """The same, without the faults that are no more."""
    left = {seed: text for seed, text in tally.faults.items() if run(1, int(seed)).faults}
    return replace(tally, faults=left, mended=tally.mended + len(tally.faults) - len(left))


def keep(tally: Tally) -> None:
    """Write it where the next run finds it, and into the page."""
    STATE.write_text(json.dumps(vars(tally), indent=1, sort_keys=True) + "\n")
    PAGE.write_text(PAGE.read_text().partition(BEGIN)[0] + BEGIN + "\n" + page(tally))


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=1_000_000, help="in all, with those of earlier runs")
    parser.add_argument("--seed", type=int, help="begin there, and keep nothing")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", type=int, metavar="SEED", help="only this one, with what it says")
    given = parser.parse_args()
    if given.again is not None:
        print("\n".join(run(1, given.again).faults.values()) or "no fault")
        return 0
    tally = again(loaded()) if given.seed is None else Tally(given.seed)
    found, end = Tally(), time.monotonic() + given.seconds
    while tally.mutations < given.mutations and time.monotonic() < end:
        piece = tried_by(given.processes, min(given.mutations - tally.mutations, PIECE), tally.next, end)
        tally.add(piece)
        found.add(piece)
        if given.seed is None:
            keep(tally)
    print("\n".join(found.faults.values()))
    counted = ", ".join(f"{name} {count:,}" for name, count in sorted(found.commands.items()))
    print(
        f"{found.mutations:,} mutations, {len(found.faults)} faults, {found.most_memory} MB at most, "
        f"{found.seconds:.0f} seconds of the processor, {found.slowest:.1f} the slowest (seed {found.slowest_seed}): "
        f"{counted}"
    )
    return bool(found.faults)


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.exit(_main())
