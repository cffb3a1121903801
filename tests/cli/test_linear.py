"""Twice the input is twice the work, line by line of the code: no line runs four times as often.

Steps are lines that run, which a busy machine does not change. A line that runs for each pair of layers, tensors, keys
or rows is found by its own count, however little it is of the whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_options import COMMANDS
from tests.conftest import Run
from tests.counted import counted
from tests.hostile.mass_structures import quick
from tests.long import long
from tests.some import those

FEW = 12
OURS = {"A", "B", "shards", "ranks"}
LINES: dict[str, tuple[str, ...]] = {
    "show": ("show", "A", "--per-head", "--full"),
    "show --tensors": ("show", "A", "--tensors"),
    "explain": ("explain", "A"),
    "analyze": ("analyze", "A", "--values"),
    "check": ("check", "A", "-f", "sarif"),
    "check --baseline": ("check", "A", "--baseline", "base.json"),
    "diff": ("diff", "A", "B", "--per-head"),
    "lineage": ("lineage", "A", "B"),
    "export": ("export", "A", "--all", "-o", "o.safetensors", "--force"),
    "export --split": ("export", "A", "--heads-split", "-o", "o.pt", "--force"),
    "export shards": ("export", "A", "--all", "--max-shard-size", "1KB", "-o", "shards"),
    "pack": ("pack", "A", "--to", "torch-mha", "-o", "o.pt", "--force"),
    "convert": ("convert", "A", "--to", "gpt-neox", "-o", "o.safetensors", "--force"),
    "convert --tp": ("convert", "A", "--to", "megatron-core", "--tp", "2", "--whole", "x*", "-o", "ranks"),
    "scan": ("scan", "A", "B", "--jobs", "1", "-o", "o.jsonl", "--force"),
    "trend": ("trend", "rows.jsonl"),
    "report": ("report", "A", "B", "-o", "o.html", "--force"),
    "layouts": ("layouts",),
}
WITHOUT_EVIDENCE = {"show", "explain", "analyze", "check", "diff", "lineage", "export", "convert", "scan", "report"}


def layers(count: int) -> dict[str, torch.Tensor]:
    """One stack, and what stands beside its attention."""
    chance = torch.Generator().manual_seed(0)
    names = [f"model.layers.{n}.self_attn.{part}_proj.weight" for n in range(count) for part in "qkvo"]
    norms = [f"model.layers.{n}.input_layernorm.weight" for n in range(count)]
    return {
        **{name: torch.randn(8, 8, generator=chance) for name in names},
        **{name: torch.randn(8, generator=chance) for name in norms},
    }


def modules(count: int) -> dict[str, torch.Tensor]:
    """As many modules of other names, each a layer of its own, and tensors of names that nobody knows."""
    chance = torch.Generator().manual_seed(0)
    names = [
        f"{'abcdefgh'[n % 8] * (n + 1)}.attn.{part}.weight"
        for n in range(count)
        for part in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    return {
        **{name: torch.randn(8, 8, generator=chance) for name in names},
        **{f"x{n}.attention.w{n}": torch.randn(8, 8, generator=chance) for n in range(count)},
    }


def keys(count: int) -> dict[str, object]:
    """A config of many keys, more than are listened to in one section, and of parts within parts."""
    found: dict[str, object] = {"num_attention_heads": 2, "hidden_size": 8}
    for number in range(count):
        found[f"part_{number}_config"] = {"num_attention_heads": 2, "layer_types": ["full_attention"] * 3}
        found[f"heads_{number}"] = 2
    return {**found, "layer_types": ["full_attention"] * count}


Made = Callable[[int], tuple[dict[str, torch.Tensor], dict[str, object]]]
INPUTS: dict[str, Made] = {
    "layers": lambda count: (layers(count), {"num_attention_heads": 2, "hidden_size": 8}),
    "modules": lambda count: (modules(count), {"num_attention_heads": 2}),
    "keys of a config": lambda count: (layers(2), keys(8 * count)),
}


def steps(made: Made, count: int, line: tuple[str, ...], folder: Path, run: Run) -> Counter[tuple[str, int]]:
    state, config = made(count)
    folder.mkdir()
    for name, noise in (("A", 0.0), ("B", 0.01)):
        (folder / name).mkdir()
        save_file({key: value + noise for key, value in state.items()}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(config))
    words = [str(folder / word) if word in OURS or "." in word else word for word in line]
    if "base.json" in line:
        run("check", folder / "A", "--no-evidence", "--write-baseline", folder / "base.json")
    if "rows.jsonl" in line:
        runs = [folder / f"step{n}" for n in range(3)]
        for step in runs:
            step.symlink_to(folder / "A")
        run("scan", *runs, "--jobs", "1", "--no-evidence", "-o", folder / "rows.jsonl")
    words += ["--no-evidence"] if line[0] in WITHOUT_EVIDENCE else []
    run(*words)  # what is imported and kept is so now
    for left in ("shards", "ranks"):
        if (folder / left).exists():
            (folder / left).rename(folder / f"{left} before")
    with counted() as found:
        said = run(*words)
    assert said.code in (0, 1), said.err
    return found


SOME = {("diff", "modules"), ("show", "modules"), ("show", "keys of a config")}
SHORT = {"show", "show --tensors", "explain", "export", "layouts"}
CASES = long(
    lambda case: case[0] not in SHORT or case[1] != "layers",
    those(lambda case: case[1] == "layers" or case in SOME, product(LINES, INPUTS)),
)


@pytest.mark.parametrize(("line", "made"), CASES)
def test_twice_the_input_is_twice_the_steps(line: str, made: str, tmp_path: Path, run: Run) -> None:
    with quick():
        once = steps(INPUTS[made], FEW, LINES[line], tmp_path / "once", run)
        twice = steps(INPUTS[made], 2 * FEW, LINES[line], tmp_path / "twice", run)
    steep = {place: (once[place], count) for place, count in twice.items() if count > 3 * once[place] > 3 * FEW}
    if line == "lineage":  # which layer is which is told by holding each against each
        steep = {place: runs for place, runs in steep.items() if not place[0].startswith("/lineage/")}
    assert not steep


def test_every_command_is_measured() -> None:
    assert {line[0] for line in LINES.values()} == {*COMMANDS} - {"browse"}
