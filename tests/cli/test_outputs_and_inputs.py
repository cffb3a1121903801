"""No output takes the place of an input: every option that writes, against every one that reads, under any name.

What reads and what writes is taken from the commands themselves: an option with a file that is in neither list, or a
command that has none of the cases, fails.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_options import COMMANDS, options
from tests.conftest import Run
from tests.here import scans_here
from tests.long import long
from tests.some import covering, first

WRITES = {"--output", "--plot", "--write-baseline"}
READS = {"--config", "--base", "--baseline", "--sha256", "--align-to"}
FILES = {"FILE", "PATH", "A", "DIR", "FOLDER"}
"""Metavars of what is a path."""

LAYER = {f"model.layers.{n}.self_attn.{p}_proj.weight": (16, 16) for n in range(2) for p in "qkvo"}
LORA = {
    f"base_model.model.model.layers.0.self_attn.{part}_proj.lora_{side}.weight": shape
    for part in "qv"
    for side, shape in (("A", (2, 16)), ("B", (16, 2)))
}

LINES: dict[str, tuple[str, ...]] = {
    "show": ("show", "MODEL", "--config", "given.json"),
    "explain": ("explain", "MODEL", "--config", "given.json"),
    "analyze": ("analyze", "MODEL", "--config", "given.json"),
    "check": ("check", "MODEL", "--config", "given.json", "--sha256", "sums", "--baseline", "before.json"),
    "diff": ("diff", "MODEL", "other.safetensors", "--config", "given.json"),
    "lineage": ("lineage", "MODEL", "other.safetensors", "--config", "given.json"),
    "export": ("export", "MODEL", "--config", "given.json", "--all"),
    "pack": ("pack", "MODEL", "--to", "torch-mha", "--config", "given.json"),
    "convert": ("convert", "MODEL", "--align-to", "other.safetensors", "--config", "given.json"),
    "scan": ("scan", "MODEL", "other.safetensors", "--jobs", "1", "--config", "given.json"),
    "trend": ("trend", "rows.jsonl"),
    "report": ("report", "MODEL", "other.safetensors", "--config", "given.json", "--no-analysis"),
    "layouts": ("layouts",),
    "adapter": ("show", "adapter", "--base", "MODEL"),
}
"""A line a command, with all that reads; and one with an adapter, whose base must be given."""

ALWAYS = ("model.safetensors.index.json", "a.safetensors", "b.safetensors", "given.json")
INPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LINES, ALWAYS),
    "check": (*ALWAYS, "sums", "before.json", "qkvinspect.toml"),
    "show": (*ALWAYS, "qkvinspect.toml"),
    **dict.fromkeys(("diff", "lineage", "convert", "report", "scan"), (*ALWAYS, "other.safetensors")),
    "trend": ("rows.jsonl",),
    "layouts": (),
    "adapter": (*ALWAYS[:3], "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "config.json"),
}
SUFFIX = {"scan": ".jsonl", "report": ".html", "--plot": ".svg", "export": ".pt", "pack": ".pt", "convert": ".pt"}


def other_names(path: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Names of a file, by kind; those that get a suffix are made now."""
    if path.name.endswith(suffix):
        yield "its own", path
        yield "a way around", path.parent / ".." / path.parent.name / "." / path.name
        yield "from here", Path(os.path.relpath(path))
    link, hard = path.parent / f"link-{path.name}{suffix}", path.parent / f"hard-{path.name}{suffix}"
    link.symlink_to(path.name)
    hard.hardlink_to(path)
    yield "a symbolic link", link
    yield "a hard link", hard


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qkvinspect.cli import main

    folder = tmp_path_factory.mktemp("inputs")
    chance = torch.Generator().manual_seed(0)
    state = {name: torch.randn(*shape, generator=chance) for name, shape in LAYER.items()}
    halves = {"a.safetensors": list(state)[:4], "b.safetensors": list(state)[4:]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({name: value + 0.01 for name, value in state.items()}, folder / "other.safetensors")
    for name in ("config.json", "given.json"):
        (folder / name).write_text('{"model_type": "llama", "num_attention_heads": 2}')
    (folder / "qkvinspect.toml").write_text('[check]\nfail_on = "error"\n')
    (folder / "adapter").mkdir()
    save_file(
        {name: torch.randn(*shape, generator=chance) for name, shape in LORA.items()},
        folder / "adapter" / "adapter_model.safetensors",
    )
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    (folder / "sums").write_text(f"{'0' * 64}  a.safetensors\n")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["check", "model.safetensors.index.json", "--write-baseline", "before.json"]) in (0, 1)
        for step in (1, 2):
            shutil.copy("other.safetensors", f"step{step}.safetensors")
        with scans_here():
            assert main(["scan", "step1.safetensors", "step2.safetensors", "-o", "rows.jsonl", "--jobs", "1"]) == 0
    finally:
        os.chdir(before)
    return folder


def cases() -> Iterator[Any]:
    for name, line in LINES.items():
        for option in sorted(WRITES & options(COMMANDS[line[0]]).keys()):
            yield pytest.param(name, option, id=f"{name} {option}")


def takes_long(case: tuple[str, str]) -> bool:
    name, option = case
    return name in ("convert", "report") or (option == "--plot" and name != "show")


@pytest.mark.parametrize("every", first(1, [False, True]))
@pytest.mark.parametrize(("name", "option"), long(takes_long, cases()))
def test_no_output_takes_the_place_of_an_input(
    name: str, option: str, every: bool, prepared: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each input and each kind of name once in every run, each with each with ``-m mass``."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    line = ["model.safetensors.index.json" if word == "MODEL" else word for word in LINES[name]]
    line += (
        ["--no-evidence"]
        if "--evidence" in options(COMMANDS[line[0]]) and (name, option) != ("explain", "--plot")
        else []
    )
    suffix = SUFFIX.get(option) or SUFFIX.get(name, "")
    if option == "--plot":
        line += ["--heat", "q_norm"] if line[0] in ("show", "analyze") else []
    more = ["-o", "elsewhere" + suffix] if option != "--output" and line[0] in ("scan", "report") else []
    named = {(file, kind): target for file in INPUTS[name] for kind, target in other_names(folder / file, suffix)}
    before = contents(folder)
    assert named or not INPUTS[name]
    for file, kind in named if every else covering(named):
        said = run(*line, *more, option, named[file, kind], "--force")
        assert (said.code, said.out) == (2, ""), (file, kind)
        assert "is what is being read" in said.err or "is a part of a model" in said.err, (file, kind, said.err)
        assert contents(folder) == before, (file, kind)
    free = run(*line, *more, option, folder / f"new{suffix or '.txt'}", "--force")
    assert free.code in (0, 1), free.err


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below it, also under the names of links."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_option_with_a_file_is_known_to_read_or_to_write() -> None:
    takers = {
        name
        for command in COMMANDS.values()
        for name, param in options(command).items()
        if (param.metavar or "") in FILES or "path" in type(param.type).__name__.lower()
    }
    assert takers == WRITES | READS


def test_every_command_that_writes_has_a_case_with_all_that_it_reads() -> None:
    have: dict[str, set[str]] = {}
    for line in LINES.values():
        have.setdefault(line[0], set()).update(word for word in line if word.startswith("--"))
    for name, command in COMMANDS.items():
        if WRITES & options(command).keys():
            missing = (READS & options(command).keys()) - have[name] - {"--base"}
            assert not missing, (name, missing)
