"""The examples of every --help run as they stand, on small checkpoints that are called as theirs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

from qkvinspect.cli import app, main
from tests.here import scans_here
from tests.long import long
from tests.some import every_value

GROUP: Any = typer.main.get_command(app)
ELSEWHERE = ("hf://org/model", "openai-community/gpt2", "tcp://scheduler:8786")
"""What an example needs that is not on this machine: of these only the command line is read."""

LINEAGE = Path(__file__).parents[1] / "lineage" / "sample"

FAILS = {"diff": {0, 1}, "check": {0, 1}, "trend": {0, 1}}


def examples() -> list[str]:
    found: list[str] = []
    for text in [GROUP.help, *(command.help for command in GROUP.commands.values())]:
        lines = [line.strip() for line in text.partition("Examples:")[2].partition("Exit status:")[0].splitlines()]
        found += [line for line in lines if line.startswith("qkvinspect ")]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("world")
    mha = model("encoder.layers.0.self_attn") | model("encoder.layers.11.self_attn")
    config = {"nhead": 8}
    for name in ("model.pt", "before.pt", "after.pt", "checkpoints/a.pt", "run/step=1.ckpt", "run/a/step=2.pt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        torch.save({"state_dict": mha, "config": config}, folder / name)
    torch.save({"model": mha, "ema": mha, "config": config}, folder / "train.pt")
    for name in ("model", "after", "fp32", "bf16", "big/model", "release/model"):
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(mha, folder / f"{name}.safetensors")
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    split = {}
    for layer in range(2):
        for part, rows in (("q", 64), ("k", 16), ("v", 16)):
            split[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = torch.randn(rows, 64)
        split[f"model.layers.{layer}.self_attn.o_proj.weight"] = torch.randn(64, 64)
    for name in ("llama/model", "model/model"):
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(split, folder / f"{name}.safetensors")
        said = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 64}
        (folder / name).with_name("config.json").write_text(json.dumps(said))
    sizes = {"num_attention_heads": 32, "num_key_value_heads": 8}
    torch.save(split, folder / "parts.pt")
    (folder / "parts.yaml").write_text(json.dumps(sizes))
    (folder / "checkpoint_dir").mkdir()
    other = {name.replace("model.", "decoder."): value for name, value in split.items()}
    save_file(other, folder / "checkpoint_dir" / "model.safetensors")
    square = {f"layers.0.self_attn.{part}_proj.weight": torch.randn(16, 16) for part in "qkv"}
    save_file(square | {"layers.0.self_attn.out_proj.weight": torch.randn(16, 16)}, folder / "unfused.safetensors")
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    (folder / "adapter").mkdir()
    adapter = {f"{lora}A.weight": torch.randn(2, 64), f"{lora}B.weight": torch.randn(64, 2)}
    save_file(adapter, folder / "adapter" / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(said))
    others(folder)
    for name, sample in (
        ("base", "base"),
        ("tuned", "tuned"),
        ("pruned", "pruned"),
        ("mine", "tuned"),
        ("theirs", "tuned"),
        ("step1000", "tuned"),
        ("step2000", "pruned"),
    ):
        shutil.copytree(LINEAGE / sample, folder / name)
    for name in ("base", "merged"):
        shutil.copy(LINEAGE / "tuned" / "model.safetensors", folder / f"{name}.safetensors")
    (folder / "SHA256SUMS").write_text("")
    with scans_here():
        main(["scan", str(folder / "run"), "-o", str(folder / "run.jsonl"), "--jobs", "1"])
    shutil.copy(folder / "run.jsonl", folder / "rows-2.jsonl")
    main(["check", str(folder / "model.pt"), "--write-baseline", str(folder / "attention.json")])
    return folder


def others(folder: Path) -> None:
    """The same attention as timm and as transformers call it, and a model as llama.cpp's converter writes one."""
    weight = torch.randn(48, 16)
    torch.save({"blocks.0.attn.qkv.weight": weight, "blocks.0.attn.proj.weight": torch.eye(16)}, folder / "timm.pt")
    (folder / "hf_model").mkdir()
    parts = dict(zip(("query", "key", "value"), weight.chunk(3), strict=True))
    own = {f"encoder.layer.0.attention.self.{name}.weight": part.clone() for name, part in parts.items()}
    save_file(own, folder / "hf_model" / "model.safetensors")
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_embedding_length(32)
    for name in ("q", "k", "v", "output"):
        values = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
        codes = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.0.attn_{name}.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model(name: str) -> dict[str, torch.Tensor]:
    module = torch.nn.MultiheadAttention(16, 8)
    return {f"{name}.{key}": value.detach() for key, value in module.state_dict().items()}


def asked(example: str) -> set[tuple[str, str]]:
    """The options that an example has, each with its command."""
    command, *words = shlex.split(example)[1:]
    return {(command, ""), *((command, word) for word in words if word.startswith("-"))}


EVERY = sorted(set().union(*map(asked, examples())))


def parsed(argv: list[str]) -> None:
    GROUP.commands[argv[0]].make_context(argv[0], argv[1:])


@pytest.mark.parametrize("example", examples())
def test_an_example_is_a_command_line(example: str) -> None:
    parsed(shlex.split(example)[1:])


@pytest.mark.parametrize(
    "example",
    long(
        lambda one: "--plot" in one or "base/" in one,
        every_value(examples(), lambda one: [pair in asked(one) for pair in EVERY]),
    ),
)
def test_an_example_runs(example: str, world: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Each option of each command in every run; all of them with ``-m mass``."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr("qkvinspect.workers.cores", lambda: 1)
    argv = shlex.split(os.path.expandvars(example).replace("rows-*.jsonl", "rows-2.jsonl"))[1:]  # as a shell does
    if argv[0] == "browse" or any(place in argv for place in ELSEWHERE):
        parsed(argv)
        return
    for flag, target in pairwise(argv):
        if flag in ("-o", "--plot", "--write-baseline"):
            for old in (world / target, world / f"{target}.journal"):
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    done = run(*argv)
    assert done.code in FAILS.get(argv[0], {0}), done.err
    assert done.out or "-o" in argv or "--plot" in argv
    for flag, target in pairwise(argv):
        if flag in ("-o", "--plot", "--write-baseline"):
            assert Path(target).exists() or "--dry-run" in argv


def test_every_command_has_examples() -> None:
    commands = [shlex.split(example)[1] for example in examples()]
    assert {*commands} == {*GROUP.commands}
    assert len(commands) > 50


def test_the_list_of_commands_is_not_cut(run: Any) -> None:
    assert "..." not in run("--help").out.partition("Commands:")[2]
