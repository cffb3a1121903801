"""The command line: help, exit codes, one-line errors, streams, and what is imported."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qkvinspect
from qkvinspect.analysis import grid
from qkvinspect.cli import main, startup
from qkvinspect.cli.progress import Bar

COMMANDS = ("show", "explain", "analyze", "export", "diff", "lineage", "scan", "trend", "report", "layouts", "browse")
WITHOUT = """
import sys
for name in {names!r}: sys.modules[name] = None
from qkvinspect.cli import main
for argv in {lines!r}:
    code = main(argv)
    if code: sys.exit(code)
    print("\\x00", end="")
"""


def without(names: list[str], *lines: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run command lines, until one fails, in an interpreter in which some modules cannot be imported.

    What they print is apart by a zero byte.
    """
    code = WITHOUT.format(names=names, lines=[[str(arg) for arg in line] for line in lines])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.gate
def test_no_torch_is_needed(samples: Path) -> None:
    """All in one process, as none of them could have imported what cannot be."""
    lines = [
        ["--help"],
        ["--version"],
        ["show", "--help"],
        ["show", "transformer.pt", "--per-head"],
        ["show", "training.pt", "--format", "json", "--no-evidence"],
        ["show", "sharded", "--format", "csv"],
        ["show", "bert_like", "--format", "markdown", "--no-evidence"],
        ["explain", "transformer.pt"],
        ["explain", "sharded", "--no-evidence"],
        ["diff", "transformer.pt", "transformer.safetensors"],
        ["diff", "sharded", "sharded", "--format", "markdown", "--no-evidence"],
        ["layouts"],
        ["layouts", "codegen"],
    ]
    argvs = [[samples / arg if (samples / arg).exists() else arg for arg in line] for line in lines]
    result = without(["torch", "safetensors"], *argvs)
    assert (result.returncode, result.stderr) == (0, "")
    *printed, rest = result.stdout.split("\x00")
    assert len(printed) == len(lines)
    assert all(printed)
    assert not rest


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pt", marks=pytest.mark.gate)])
def test_export_needs_no_torch(samples: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"x{suffix}"
    result = without(["torch", "safetensors"], ["export", "--split", samples / "transformer.pt", "-o", target])
    assert (result.returncode, result.stderr) == (0, "")
    assert target.stat().st_size > 10_000


LARGE = {"torch", "numpy", "safetensors", "yaml", "rich", "jsonschema", "concurrent.futures", "logging"}
"""Modules that take long to import."""

LARGE |= {"asyncio", "fsspec", "http.client", "requests", "socket", "ssl", "urllib3", "qkvinspect.sources.remote"}
"""Modules that only a URL needs."""

LOADED = f"""
import sys
from qkvinspect.cli import main, startup
for line in sys.argv[1:]: main(line.split("\\x1f"))
print(*sorted({LARGE!r} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("lines", "loaded"),
    [
        (
            [
                "show transformer.pt --no-norms",
                "show trained.safetensors --no-norms -f json",
                "show sharded --no-norms -f csv --per-head",
                "explain transformer.pt --no-evidence",
                "export --split sharded -o OUT.safetensors --no-evidence",
            ],
            "",
        ),
        (["show kdim_vdim.pt --no-norms"], "yaml"),
        (["show transformer.pt --per-head --no-evidence"], "numpy"),
        pytest.param(
            [
                "show transformer.pt --per-head",
                "show sharded -f markdown",
                "explain trained.safetensors",
                "export --split sharded -o OUT.safetensors",
            ],
            "numpy",
            marks=pytest.mark.gate,
        ),
    ],
    ids=["nothing", "yaml", "numpy", "numpy, for the evidence"],
)
def test_what_commands_import(samples: Path, tmp_path: Path, lines: list[str], loaded: str) -> None:
    """Lines that import the same in one process: what any of them imported would still be there."""
    places = {"OUT.safetensors": tmp_path / "out.safetensors"} | {path.name: path for path in samples.iterdir()}
    assert imported_by(*([str(places.get(word, word)) for word in line.split()] for line in lines)) == loaded


def imported_by(*lines: list[str]) -> str:
    """The large modules that a process has imported after all of these command lines, which print something each."""
    joined = ["\x1f".join(line) for line in lines]
    result = subprocess.run([sys.executable, "-c", LOADED, *joined], capture_output=True, text=True, check=True)
    assert result.stdout
    return result.stderr.splitlines()[-1]


def test_help_imports_nothing_large() -> None:
    """All in one process: what any of them imported would still be there."""
    helps = [[*command, "--help"] for command in ([], *([name] for name in COMMANDS))]
    assert imported_by(*helps, ["--version"], ["layouts"], ["layouts", "codegen"]) == ""


def test_paths_know_how_to_become_urls_though_nothing_for_that_is_imported_at_the_start() -> None:
    code = (
        "import sys; from qkvinspect.cli import startup; from pathlib import Path; "
        "print('urllib.parse' in sys.modules, Path('/a b').as_uri(), 'urllib.parse' in sys.modules)"
    )
    place = Path(qkvinspect.__file__).parents[1]
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert result.stdout.split() == ["False", "file:///a%20b", "True"]


def test_numpy_is_imported_without_what_describes_it_which_is_there_when_it_is_asked_for() -> None:
    code = """
import sys
from qkvinspect.cli import startup
sys.modules.pop("inspect", None)
startup.prepare(["check"])
import numpy
print(*sorted({"inspect", "numpy._typing"} & sys.modules.keys()), numpy.__version__ != "", "|")
import numpy.random, numpy.typing
from numpy._core import overrides
print(overrides.inspect.isfunction(startup.prepare), "inspect" in sys.modules, "|")
import inspect
print(*inspect.signature(numpy.linalg.norm).parameters, numpy.typing.NDArray[numpy.float32], "|")
print(numpy.random.default_rng(0).permutation(3), numpy.linalg.eigh(numpy.eye(2)).eigenvalues)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = [" ".join(one.split()) for one in result.stdout.split("|")]
    array = "numpy.ndarray[tuple[typing.Any, ...], numpy.dtype[numpy.float32]]"
    assert found == ["True", "True True", f"x ord axis keepdims {array}", "[2 0 1] [1. 1.]"]


def test_verify_says_that_it_needs_torch(samples: Path) -> None:
    result = without(["torch"], ["explain", samples / "transformer.pt", "--verify"])
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "pip install torch" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_a_short_first_line_examples_and_exit_status(run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    lines = [line.strip() for line in result.out.splitlines() if line.strip()]
    assert len(lines[1]) <= 72
    assert f"qkvinspect {command} " in result.out.partition("Examples:")[2]
    assert "  2  " in result.out.partition("Exit status:")[2]


def test_version(run) -> None:
    assert run("--version").out == f"qkvinspect {qkvinspect.__version__}\n"


def test_no_command_prints_help(run) -> None:
    assert "Commands:" in run().out + run().err


@pytest.mark.parametrize("argv", [["nonsense"], ["show"], ["show", "x", "--format", "xml"], ["show", "x", "--nope"]])
def test_a_wrong_command_line_is_exit_code_2(run, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(b"GGUF" + bytes(100)), "GGUF"),
        (lambda p: p.write_text("<!DOCTYPE html>"), "web page"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)), "truncated"),
        (lambda p: torch.save({"lr": 0.1}, p), "holds no model weights"),
        (lambda p: p.mkdir(), "holds no checkpoint"),
        (os.mkfifo, "named pipe"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path: Path, make, words: str) -> None:
    path = tmp_path / "model.pt"
    make(path)
    for command in (["show"], ["explain"], ["export", "--split", "-o", tmp_path / "x.pt"]):
        result = run(*command, path)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert result.err.startswith(f"error: {path}: ")
        assert words in result.err


def test_names_in_errors_are_harmless(run, tmp_path: Path) -> None:
    result = run("show", tmp_path / "a\x1b[31mb\nc.pt")
    assert "\x1b" not in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(("flag", "words"), [(["--heads", "x"], "--heads"), (["--heads", "7"], "does not fit"),
    (["--layout", "x"], "there is no layout"), (["--layout", "gpt2"], "cannot have the layout"),
    (["--layer", "x"], "no attention module"),
    (["--container", "x"], "no container"), (["--config", "nowhere.json"], "nowhere.json")])  # fmt: skip
def test_bad_flags_are_one_line_and_exit_code_2(run, samples: Path, flag: list[str], words: str) -> None:
    result = run("show", samples / "training.pt", *flag)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert words in result.err


def test_a_container_is_chosen(run, samples: Path) -> None:
    result = run("show", samples / "training.pt", "--container", "model_ema", "-f", "json").json()
    assert result["checkpoint"]["container"] == "model_ema"
    plain = run("show", samples / "training.pt", "-f", "json").json()
    assert result["attentions"][0]["q"]["norm"] == pytest.approx(0.9 * plain["attentions"][0]["q"]["norm"])


def test_a_named_config_comes_first(run, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"num_heads": 8}))
    report = run("show", samples / "damaged.pt", "--config", tmp_path / "mine.json", "-f", "json").json()
    assert report["attentions"][0]["num_heads_from"] == "config:mine.json:num_heads"
    assert report["attentions"][0]["num_heads"] == 8


def test_a_reader_that_closes_the_pipe_is_no_error(samples: Path) -> None:
    command = f"{sys.executable} -m qkvinspect show {samples / 'transformer.pt'} -f json | head -c 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout == "{"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_writing_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    source = tmp_path / "model.pt"
    torch.save({"a.in_proj_weight": torch.zeros(30, 10)}, source)
    slow = (
        "import os, sys, time, qkvinspect.export.safetensors_file as e\n"
        "del os.O_TMPFILE\n"  # else the file has no name yet
        "real = e.copy\n"
        "def slow(*a):\n    print('writing', flush=True)\n"
        "    for _ in range(900): time.sleep(0.1)\n"  # Python acts on a signal between two naps, not just before one
        "    return real(*a)\n"
        "e.copy = slow\nfrom qkvinspect.cli import main\n"
        f"sys.exit(main(['export', '--split', {str(source)!r}, '-o', {str(tmp_path / 'x.safetensors')!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        assert process.wait(60) == code
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def in_terminal(argv: list[str], columns: int, **environment: str) -> str:
    """What a command prints when stdout is a terminal."""
    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **environment}
    with subprocess.Popen([sys.executable, "-m", "qkvinspect", *argv], stdout=follower, env=env):
        os.close(follower)
        pieces: list[bytes] = []
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(leader)
    return b"".join(pieces).decode()


@pytest.mark.parametrize("command", ["show", pytest.param("explain", marks=pytest.mark.gate)])
def test_a_terminal_gets_its_width_and_colour(samples: Path, command: str) -> None:
    argv = [command, str(samples / "sharded"), "--no-evidence"]
    plain = in_terminal(argv, 70, NO_COLOR="1")
    assert "\x1b" not in plain
    code = plain.partition("  Code")[2]
    assert max(len(line) for line in plain.replace(code, "").splitlines()[1:]) <= 70 or command == "explain"
    assert "\x1b[" in in_terminal(argv, 70)
    assert "\x1b" not in in_terminal(argv, 70, TERM="dumb")


def test_force_color_colours_a_pipe(samples: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("show", samples / "sharded").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("show", samples / "sharded").out


def test_completion_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**os.environ, "_QKVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": "qkvinspect s", "COMP_CWORD": "1"}
    command = [str(Path(sys.executable).parent / "qkvinspect")]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "show" in result.stdout.split()


def test_a_bar_waits_and_needs_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("qkvinspect.cli.progress._PATIENCE", 0.0)
    with Bar("reading") as bar:
        bar.advance(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar("reading") as bar:
        bar.advance(1_000_000, 2_000_000)
        time.sleep(0.15)
        bar.advance(2_000_000, 2_000_000)
    assert "reading" in capsys.readouterr().err
    monkeypatch.setattr("qkvinspect.cli.progress._PATIENCE", 60.0)
    with Bar("reading") as bar:
        bar.advance(1, 2)
    assert capsys.readouterr().err == ""


def test_main_returns_codes() -> None:
    assert main(["--version"]) == 0


@pytest.mark.gate
def test_the_weights_tell_and_say_how_sure(run, samples: Path) -> None:
    path = samples / "trained.safetensors"
    shown = run("show", path)
    assert shown.out.count("2 layers  torch-mha  4 heads x 16 (the weights, 99.99 % sure)") == 1
    assert "heads unknown" in run("show", path, "--no-evidence").out
    assert "heads unknown" in run("show", path, "--no-norms").out
    contradicted = run("show", path, "--heads", "8")
    assert contradicted.code == 0
    assert "flag says 8 heads, the weights say 4" in contradicted.out


def test_explain_shows_the_evidence(run, samples: Path) -> None:
    told = run("explain", samples / "trained.safetensors", "*.0.*", "--evidence").out
    assert "Evidence the weights say 4 heads (99.99 % sure; 2 layers of this stack weighed)." in told
    assert "Packing  the weights say q, k, v in blocks (99.99 % sure). Q and K may be swapped" in told
    assert "no rotary pairs stand out" in told
    bars = [line.split("|")[1] for line in told.splitlines() if line.lstrip()[:2].strip().isdecimal() and "|" in line]
    assert len(bars) >= 12
    near, far = (sum(map(len, some)) / len(some) for some in (bars[:4], bars[-8:]))
    assert near > 5 * far  # the tie ends where a head ends
    silent = run("explain", samples / "trained.safetensors", "*.0.*", "--no-evidence").out
    assert "no source beside or inside the checkpoint gives it" in silent


def test_explain_of_random_weights_is_undetermined(run, samples: Path) -> None:
    told = run("explain", samples / "transformer.pt", "encoder.*", "--evidence").out
    assert "the weights do not tell the number of heads: the best score is" in told
    assert "the weights do not tell the packing" in told


def test_export_uses_what_the_weights_tell(run, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "heads.safetensors"
    assert run("export", "--heads-split", samples / "trained.safetensors", "-o", out).code == 0
    names = load_file(out)
    assert names["encoder.layers.1.self_attn.q_proj.heads.3.weight"].shape == (16, 64)
    refused = run("export", "--heads-split", samples / "trained.safetensors", "-o", out, "--no-evidence", "--force")
    assert refused.code == 2


def test_the_norms_that_are_drawn_without_numpy_are_those_of_a_report() -> None:
    assert {*grid.NORMS} == startup._NORMS


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        (["analyze", "small"], True),
        (["analyze", "large"], False),
        (["analyze", "hf://a/b"], False),
        (["report"], False),
    ],
)
def test_small_matrices_are_for_one_core(
    words: list[str], alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("small", 1000), ("large", 3 << 30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    startup.prepare(words)
    assert (os.environ.get("OPENBLAS_NUM_THREADS") == "1") == alone
