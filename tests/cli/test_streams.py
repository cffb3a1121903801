"""What is printed where the encoding of stdout lacks letters, and what happens at a fault of our own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qkvinspect.cli import app, main
from qkvinspect.cli.streams import replace_unencodable
from tests.here import kept_commands, scans_here
from tests.some import crossed

ROOT = Path(__file__).parents[2]


def printed(*argv: object, **variables: str) -> tuple[int, bytes, bytes]:
    """What a process of its own says, in the encoding that the variables choose."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "qkvinspect", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


ENCODINGS = ("cp1252", "latin-1", "ascii", "cp437", "shift_jis", "utf-16")

EVERYTHING = [
    (["show", "A"], 0),
    (["show", "A", "--per-head"], 0),
    (["show", "A", "--tensors"], 0),
    (["show", "A", "--why", "*"], 0),
    (["show", "A", "--heat", "q_norm"], 0),
    (["show", "A", "-f", "json"], 0),
    (["show", "A", "-f", "csv"], 0),
    (["show", "A", "-f", "markdown"], 0),
    (["explain", "A"], 0),
    (["explain", "A", "--evidence"], 0),
    (["analyze", "A"], 0),
    (["analyze", "A", "--values"], 0),
    (["analyze", "A", "--sort", "logit_bound"], 0),
    (["analyze", "A", "--heat", "logit_bound"], 0),
    (["export", "A", "-o", "OUT.pt", "--dry-run"], 0),
    (["export", "A", "-o", "OUT.pt"], 0),
    (["pack", "OUT.pt", "--to", "phi3", "-o", "OUT2.pt", "--dry-run"], 0),
    (["convert", "A", "--to", "bert", "-o", "OUT3.pt", "--dry-run"], 0),
    (["check", "A"], 1),
    (["check", "A", "-f", "markdown"], 1),
    (["check", "A", "-f", "junit"], 1),
    (["check", "A", "-f", "sarif"], 1),
    (["check", "A", "-f", "github"], 1),
    (["check", "--list"], 0),
    (["diff", "A", "A"], 0),
    (["diff", "A", "B"], 1),
    (["diff", "A", "B", "--per-head"], 1),
    (["lineage", "A", "B"], 0),
    (["scan", "A", "no such é 模", "-o", "OUT.jsonl", "--jobs", "1"], 2),
    (["scan", "A", "-o", "OUT.jsonl", "--jobs", "1"], 0),
    (["trend", "RUN"], 1),
    (["trend", "RUN", "--chart"], 1),
    (["report", "A", "-o", "OUT.html", "--no-analysis"], 0),
    (["layouts"], 0),
    (["layouts", "codegen"], 0),
    (["browse", "A"], 2),
    (["show", "no such é 模"], 2),
    (["show", "A", "--layer", "é 模"], 2),
    (["nonsense é 模"], 2),
    (["--help"], 0),
    (["show", "--help"], 0),
]
"""Every command and whatever draws, with the exit code that it has in any encoding. A and B are checkpoints whose
file, layers and container are called in letters that no narrow encoding has."""


def place(folder: Path) -> dict[str, str]:
    """Two checkpoints that differ, of one layer, with a NaN."""
    name = "couche é.模型.self_attn"
    state = {
        f"{name}.in_proj_weight": torch.randn(48, 16),
        f"{name}.in_proj_bias": torch.randn(48),
        f"{name}.out_proj.weight": torch.randn(16, 16),
    }
    places = {"A": str(folder / "modèle 模型.pt"), "B": str(folder / "autre 模型.pt")}
    state[f"{name}.in_proj_weight"][3, 3] = float("nan")
    config = {"nhead": 4}
    torch.save({"état": state, "config": config}, places["A"])
    torch.save({"état": {key: 2 * value for key, value in state.items()}, "config": config}, places["B"])
    return {**places, "RUN": str(ROOT / "tests/scans/run.jsonl")}


@pytest.mark.gate
def test_every_command_in_every_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same exit code as ever, no traceback, and what is drawn is drawn in ASCII where the encoding is ASCII."""
    places = place(tmp_path)
    monkeypatch.chdir(tmp_path)
    for words, expected in EVERYTHING:
        argv = [places.get(word, word) for word in words]
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
        monkeypatch.setattr("sys.stdout", streams[0])
        monkeypatch.setattr("sys.stderr", streams[1])
        replace_unencodable()
        with scans_here(), kept_commands():
            code = main(argv)
        out, err = (stream.detach().getvalue().decode("ascii") for stream in streams if not stream.flush())  # type: ignore
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert code == expected, (words, err)
        assert "Traceback" not in out + err
        assert "unexpected" not in err or words[0] == "nonsense"
        assert "\\u25" not in out, words  # no block or line is left as an escape
        assert "\\u28" not in out, words


def test_no_command_is_left_out() -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert commands <= {words[0] for words, _ in EVERYTHING}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_whatever_is_drawn_can_be_encoded(encoding: str) -> None:
    replace_unencodable()
    letters = "".join(map(chr, [*range(0x20, 0x7F), *range(0xA0, 0xD800), *range(0xE000, 0x110000, 97)]))
    drawn = letters.encode(encoding, "qkvinspect.ascii").decode(encoding)
    assert "?" not in drawn.replace("?", "", 2)  # itself, and what stands for what cannot be shown
    assert "─│".encode(encoding, "qkvinspect.ascii").decode(encoding) in ("─│", "-|", "-│", "─|")


ENVIRONMENTS = {
    "windows": {"PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@crossed(environment=list(ENVIRONMENTS), drawn=["diff", "trend"])
def test_a_process_of_its_own_in_such_an_encoding(tmp_path: Path, environment: str, drawn: str) -> None:
    """As a redirected Windows console or ``LC_ALL=C`` starts it; file names come as undecodable bytes then."""
    places = place(tmp_path)
    files = [places["A"], places["B"], "--no-evidence"] if drawn == "diff" else [places["RUN"], "--chart"]
    code, out, err = printed(drawn, *files, **ENVIRONMENTS[environment])
    assert code == 1  # as in any encoding: the two differ, and that run has findings
    assert b"Traceback" not in err
    if drawn == "diff":
        assert b"--------" in out
        return
    out.decode("ascii")
    assert b"\\u" not in out


def test_utf8_is_drawn_as_ever() -> None:
    sample = ROOT / "sample_checkpoints" / "trained.safetensors"
    assert "────" in printed("diff", sample, sample, "--no-evidence", PYTHONIOENCODING="utf-8")[1].decode()


def test_a_fault_of_ours_is_one_line_and_not_the_exit_code_of_a_difference() -> None:
    program = (
        "import qkvinspect.cli as cli\n"
        "def broken(argv=None): raise ZeroDivisionError('by\\x1b[31m zero')\n"
        "cli.main = broken\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: unexpected ZeroDivisionError in <string>:2: by\\x1b[31m zero; ")


def test_a_reader_that_has_enough_is_no_difference() -> None:
    """Exit code 1 would say that something differs or was found; it is that of SIGPIPE, as everywhere."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "qkvinspect", "layouts", "--format", "json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


CLOSED = [
    (">&-", ["show", "A"], 2, 1),
    (">&-", ["check", "A"], 2, 1),
    (">&-", ["--version"], 2, 1),
    (">&-", ["check", "A", "-q"], 0, 0),
    (">&-", ["show", "A", "-o", "OUT"], 0, 0),
    (">&-", ["show", "missing"], 2, 1),
    ("2>&-", ["show", "A"], 0, 0),
    ("2>&-", ["diff", "A", "B"], 1, 0),
    ("2>&-", ["show", "missing"], 2, 0),
    ("2>&-", ["nonsense"], 2, 0),
    (">&- 2>&-", ["show", "A"], 2, 0),
    ("<&-", ["show", "A"], 0, 0),
    ("<&-", ["browse", "A"], 2, 1),
    ("<&- >&- 2>&-", ["scan", "A", "-o", "OUT.jsonl", "--jobs", "2"], 0, 0),
]
"""What the shell closes, what is asked, the exit code, and the lines that stderr then has."""


@pytest.mark.parametrize(("closed", "words", "code", "lines"), CLOSED)
def test_streams_that_are_closed(closed: str, words: list[str], code: int, lines: int, tmp_path: Path) -> None:
    """Without a stdout, what has to be printed is an error and nothing else is; no stderr changes no exit code."""
    samples = ROOT / "sample_checkpoints"
    places = {
        "A": str(samples / "trained.safetensors"),
        "B": str(samples / "transformer.pt"),
        "OUT": str(tmp_path / "out"),
        "OUT.jsonl": str(tmp_path / "out.jsonl"),
    }
    argv = [sys.executable, "-m", "qkvinspect", *(places.get(word, word) for word in words)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *argv], capture_output=True, cwd=ROOT, check=False, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, lines), done.stderr
    assert "unexpected" not in done.stderr
    assert "error: " not in done.stdout
    for written in tmp_path.glob("out*"):
        assert written.suffix == ".journal" or "error: " not in written.read_text()


@pytest.mark.parametrize(("closed", "number"), [("<&-", 0), (">&-", 1), ("2>&-", 2)])
def test_no_file_gets_the_descriptor_of_a_closed_stream(closed: str, number: int, tmp_path: Path) -> None:
    """What the interpreter or a library prints there would end up in the file."""
    program = (
        "import os, sys\nfrom qkvinspect.cli.streams import open_closed\nopen_closed()\n"
        f"sys.exit(not os.path.samestat(os.fstat({number}), os.stat(os.devnull)))"
    )
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program]
    assert subprocess.run(line, capture_output=True, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("words", "code"), [(["show", "A"], 0), (["show", "missing"], 2), (["nonsense"], 2)])
def test_a_stderr_that_nobody_reads_changes_no_exit_code(words: list[str], code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sample = str(ROOT / "sample_checkpoints" / "damaged.pt")
    command = [sys.executable, "-m", "qkvinspect", *(sample if word == "A" else word for word in words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, cwd=ROOT, check=False)
    os.close(writer)
    assert done.returncode == code
