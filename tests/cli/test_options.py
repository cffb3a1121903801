"""One habit: the same option has one name, letter and meaning in every command; errors have one form, and -q is quiet.

``python tests/cli/test_options.py`` writes the table of all options, options.txt, anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from qkvinspect.cli import app

TABLE = Path(__file__).with_name("options.txt")

COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # pyright: ignore
OPENED = {"show", "explain", "analyze", "export", "check", "diff", "pack", "convert", "report", "browse", "lineage"}
"""Commands that open checkpoints and are not for thousands of them, as scan is."""


def options(command: Any) -> dict[str, Any]:
    return {param.opts[0]: param for param in command.params if param.param_type_name == "option"}


def table() -> str:
    """A line an option: its names, what it takes, and which commands have it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, command in COMMANDS.items():
        for param in options(command).values():
            takes = param.metavar or ("" if param.is_flag else param.type.name)
            found.setdefault((" ".join([*param.opts, *param.secondary_opts]), takes), []).append(name)
    return "".join(f"{names:32} {takes:16} {' '.join(who)}\n" for (names, takes), who in sorted(found.items()))


def test_the_table_of_all_options() -> None:
    assert table() == TABLE.read_text()


def test_an_option_has_one_form_in_every_command() -> None:
    """The same name, letter and argument: an option has one line in the table, and a letter one option."""
    lines = [line.split() for line in table().splitlines()]
    first = [words[0] for words in lines]
    assert len(first) == len(set(first))
    letters = [word for words in lines for word in words if len(word) == 2 and word.startswith("-")]
    assert len(letters) == len(set(letters))


def test_what_is_repeatable_is_so_everywhere_but_for_one_value_a_side() -> None:
    found: dict[str, set[bool]] = {}
    for command in COMMANDS.values():
        for name, param in options(command).items():
            found.setdefault(name, set()).add(param.multiple)
    assert {name for name, kinds in found.items() if len(kinds) > 1} == {"--config", "--container"}


def test_options_are_where_they_make_sense() -> None:
    have = {option: {name for name, c in COMMANDS.items() if option in options(c)} for option in table().split()}
    printing = {"show", "explain", "analyze", "check", "diff", "trend", "layouts", "lineage"}
    writing = {"export", "pack", "convert"}
    assert have["--format"] == printing | writing
    assert have["--output"] == printing | writing | {"report", "scan"}
    assert have["--force"] == have["--output"]
    assert have["--quiet"] == have["--output"] - {"show", "analyze", "layouts"}
    assert have["--layer"] == {*COMMANDS} - {"layouts"}
    assert have["--heads"] == have["--layout"] == OPENED | {"scan"}
    assert have["--limit"] == have["--config"] == have["--container"] == OPENED | {"scan"}
    assert have["--download"] == OPENED
    assert have["--base"] == OPENED  # of lineage the parent, which adapters are added to, too


def test_formats_are_the_same_everywhere_and_more_in_check() -> None:
    for name, command in COMMANDS.items():
        if "--format" in options(command):
            choices = list(options(command)["--format"].type.choices)
            more = ["junit", "github", "sarif"] if name == "check" else []
            assert choices == ["table", "json", "csv", "markdown", *more]


@pytest.mark.parametrize(
    "argv",
    [
        ["show", "training.pt", "--no-evidence"],
        ["show", "training.pt", "--heat", "q_norm", "--no-evidence"],
        ["explain", "training.pt", "-l", "*.0.*", "--no-evidence"],
        ["analyze", "training.pt", "--layer", "*.0.*", "--no-evidence"],
        ["diff", "training.pt", "training.pt", "--no-evidence"],
        ["check", "training.pt", "--no-evidence"],
        ["check", "--list"],
        ["layouts", "bert"],
        ["trend", "run.jsonl"],
    ],
    ids=" ".join,
)
def test_output_holds_what_stdout_would(run, samples: Path, tmp_path: Path, argv: list[str]) -> None:
    argv = [str(found) if (found := place(samples, word)).exists() else word for word in argv]
    plain = run(*argv)
    written = run(*argv, "-o", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == plain.out
    assert (written.code, written.err) == (plain.code, plain.err)
    assert written.out == (plain.out if argv[0] == "check" and "--list" not in argv else "")
    refused = run(*argv, "-o", tmp_path / "out.txt")
    assert (refused.code, refused.out) == (2, "")
    assert "out.txt: " in refused.err
    form = [] if "--heat" in argv else ["-f", "csv"]
    assert run(*argv, "-o", tmp_path / "out.txt", "--force", *form).code == plain.code


def place(samples: Path, word: str) -> Path:
    return Path(__file__).parents[1] / "scans" / word if word.endswith(".jsonl") else samples / word


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["explain", "transformer.pt", "--no-evidence"], 0),
        (["export", "transformer.pt", "-o", "OUT.safetensors", "--no-evidence"], 0),
        (["export", "transformer.pt", "-o", "OUT.safetensors", "--dry-run", "--no-evidence"], 0),
        (["pack", "bert_like", "--to", "phi3", "-o", "OUT.pt"], 0),
        (["convert", "transformer.pt", "--to", "bert", "--heads", "2", "-o", "OUT.pt", "--no-evidence"], 0),
        (["check", "damaged.pt", "--no-evidence"], 1),
        (["check", "training.pt", "--no-evidence"], 0),
        (["diff", "training.pt", "damaged.pt", "--no-evidence"], 1),
        (["diff", "training.pt", "training.pt", "--no-evidence"], 0),
        (["scan", "training.pt", "-o", "OUT.jsonl", "--jobs", "1", "--no-evidence"], 0),
        (["trend", "run.jsonl"], 1),
        (["report", "training.pt", "-o", "OUT.html", "--no-analysis", "--no-evidence"], 0),
    ],
    ids=lambda argv: " ".join(argv) if isinstance(argv, list) else "",
)
def test_quiet_prints_nothing_but_what_is_grave(run, samples: Path, tmp_path: Path, argv: list[str], code: int) -> None:
    argv = [str(found) if (found := place(samples, word)).exists() else word for word in argv]
    argv = [word.replace("OUT", str(tmp_path / "out")) for word in argv]
    result = run(*argv, "-q")
    assert (result.code, result.out) == (code, "")
    assert all(line.startswith(("warning: ", "error: ")) for line in result.err.splitlines())
    assert any(tmp_path.iterdir()) == ("-o" in argv and "--dry-run" not in argv)
    loud = run(*argv, *(["--force"] if "-o" in argv else []))
    assert loud.out + loud.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["show"], "missing argument 'PATH'; `qkvinspect show --help` has examples"),
        (["shwo", "x"], "no such command 'shwo'; did you mean 'show'? `qkvinspect --help` has examples"),
        (["show", "x", "--layrs", "y"], "no such option: --layrs; did you mean --base, --layer or --layout? `qkvinsp"),
        (["show", "x", "-f", "xml"], "invalid value for '--format' / '-f': 'xml' is not one of 'table', 'json', "),
        (["export", "x"], "missing option '--output' / '-o'; `qkvinspect export --help` has examples"),
        (["show", "x\x1b[31m", "\x1b]0;y"], r"got unexpected extra argument(s) (\x1b]0;y); `"),
        (["convert", "x", "--to", "y", "-o", "z", "--heads", "0"], "--heads 0 is not a number of heads (expected N, "),
        (["scan", "nofile", "-o", "z.jsonl"], "nofile: no checkpoint matches"),
        (["check", "--list", "-f", "sarif"], "the checks cannot be listed as sarif; --format table, json, csv, mark"),
    ],
)
def test_every_error_has_one_form(run, tmp_path: Path, monkeypatch, argv: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*argv)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("llama", "qkv-proj, llama-original, gguf-permuted or gguf-renamed"),
        ("Mistral", "qkv-proj, llama-original, mla-original or gguf-vision-permuted"),
        ("RoBERTa", "bert"),
        ("detr", "torch-mha, conditional-detr-sa"),
        ("whisper", "qkv-proj"),
        ("pythia", "gpt-neox"),
        ("x-transformers", "to-qkv"),
        ("qkv_proj", "qkv-proj"),
        ("GPT2", "gpt2"),
        ("codegn", "codegen"),
    ],
)
def test_a_layout_is_found_by_library_and_model(run, samples: Path, tmp_path: Path, name: str, meant: str) -> None:
    lines = [
        run("layouts", name).err,
        run("show", samples / "transformer.pt", "--layout", name).err,
        run("pack", samples / "bert_like", "--to", name, "-o", tmp_path / "x.pt").err,
    ]
    assert all(line.startswith(f"error: there is no layout '{name}'; did you mean {meant}") for line in lines)


def test_a_file_and_a_layer_are_suggested(run, samples: Path) -> None:
    said = run("show", samples / "transformr.safetensors").err
    assert f"did you mean {samples / 'transformer.safetensors'}" in said
    said = run("show", samples.parent / "sample_chekpoints" / "x.pt").err
    assert f"did you mean {samples}? " in said
    said = run("show", samples / "transformer.pt", "--layer", "encoder.layer.0.self_attn").err
    assert said.rstrip().endswith("did you mean encoder.layers.0.self_attn or decoder.layers.0.self_attn?")
    said = run("show", samples / "no" / "such" / "thing.pt").err
    assert "check the path and its permissions" in said


def test_heads_mean_the_same_in_pack_and_convert(run, samples: Path, tmp_path: Path) -> None:
    """N/KV of all layers, or of those that match."""
    for number, heads in enumerate((["4/2"], ["*=4/2"], ["encoder.*=4/2"])):
        flags = [word for flag in heads for word in ("--heads", flag)]
        out = tmp_path / f"{number}.pt"
        result = run("convert", samples / "bert_like", "--to", "megatron-core", "-o", out, *flags, "--no-evidence")
        assert (result.code, "megatron-core" in result.err) in ((0, True), (2, False)), result.err


def test_scan_that_reads_nothing_has_failed(run, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint at all")
    result = run("scan", tmp_path / "a.pt", "-o", tmp_path / "x.jsonl", "--jobs", "1")
    assert result.code == 2
    assert result.err.startswith(f"error: {tmp_path / 'a.pt'}: ")


def test_checks_are_listed_in_every_form(run) -> None:
    listed = run("check", "--list", "-f", "json").json()
    assert {one["code"] for one in listed} >= {"nonfinite", "zero-head"}
    assert run("check", "--list").out.count("\n") == len(listed)
    assert json.loads(run("check", "--list", "-f", "json").out)[0].keys() == {"severity", "code", "summary"}


if __name__ == "__main__":
    TABLE.write_text(table())
