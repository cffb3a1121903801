"""What ``check`` says of every published checkpoint, and why that is right; as a program it writes VERDICTS.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from qkvinspect.cli import main
from tests.real import wheels

TABLE = Path(__file__).with_name("VERDICTS.md")

SUFFIXES = (".pt", ".safetensors", ".bin", ".weights", ".jit", ".onnx", ".gguf")

REASONS = {
    "anarcii/classifii/": "Trained and whole. Its decoder attends from one position only, so that one direction is"
    " enough for Q and V there: worth knowing, no fault.",
    "fracast/": "A forecaster of convolutions without attention: a gate that finds nothing to check must not pass.",
    "silero_vad/data/silero_vad.jit": "A program and not weights: it cannot be read without running it.",
    "silero_vad/": "A voice detector (convolutions and an LSTM) without attention: a gate that finds nothing to check"
    " must not pass.",
    "scheduler.pt": "The state of a learning rate: no weights.",
    "training_args.bin": "The arguments of a training: no weights.",
    "soltrannet/": "Trained and whole. No file says how many heads it has; the weights do.",
    "": "Trained and whole.",
}
"""By the longest part of the path that fits; what a person who knows the model would say."""


def files() -> Iterator[Path]:
    for name in sorted(wheels.WHEELS):
        yield from sorted(path for path in wheels.unpacked(name).rglob("*") if path.suffix in SUFFIXES)


def verdict(path: Path) -> tuple[int, str]:
    """The exit code, and the codes of what was found."""
    with redirect_stdout(StringIO()) as out:
        code = main(["check", str(path), "--format", "json"])
    (one,) = json.loads(out.getvalue())["checkpoints"]
    found = dict.fromkeys(f"{finding['severity']} `{finding['code']}`" for finding in one["findings"])
    refused = one["error"].rpartition("[")[2].strip("]") if one["error"] else ""
    return code, ", ".join(found) or (f"not readable: {refused}" if refused else "nothing")


def row(path: Path) -> str:
    code, found = verdict(path)
    name = path.relative_to(wheels.CACHE).as_posix()
    reason = REASONS[max((key for key in REASONS if key in name), key=len)]
    return f"| `{name.partition('/')[2]}` | {('passes', 'fails', 'refused')[code]} | {found} | {reason} |"


def table() -> str:
    head = "# `check` on published checkpoints\n\nWritten by `python -m tests.real.verdicts`; the test of that name"
    head += " compares. `check` fails on errors and on warnings.\n\n"
    head += "| file | verdict | found | what a person says |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(map(row, files())) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
