"""Kill a rewriting at random moments: ``python tests/export/kill.py [TIMES] [SIGNAL]`` (300 times SIGKILL).

Each time the target must be the complete file or not there, and after a signal that can be caught no temporary file
may be left. Prints how often each outcome was seen.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

NAMELESS = "from qkvinspect.cli import run; run()"
NAMED = f"import os; del os.O_TMPFILE; {NAMELESS}"
"""As on a file system that knows no files without a name."""

_UNHARMED: dict[tuple[Path | str, ...], tuple[float, str]] = {}
"""How long each takes that is not killed, and what it writes."""


def source(folder: Path, layers: int = 6, width: int = 512) -> Path:
    """A checkpoint of a few dozen megabytes."""
    state = {f"layers.{i}.self_attn.in_proj_weight": torch.randn(3 * width, width) for i in range(layers)}
    state |= {f"layers.{i}.linear.weight": torch.randn(2 * width, width) for i in range(layers)}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def digest(target: Path) -> str:
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def attack(path: Path, code: str, target: str, options: Sequence[str], number: int, times: int) -> Counter[str]:
    """What was there after so many kills.

    Raises:
        AssertionError: something that must not be.
    """

    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, "export", "--split", "--all", str(path), "-o", str(Path(folder, target))]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, *options], env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, **pipes)

    outcomes: Counter[str] = Counter()
    if (asked := (path, code, target, *options)) not in _UNHARMED:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            began = time.monotonic()
            assert start(folder).wait() == 0
            _UNHARMED[asked] = time.monotonic() - began, digest(Path(folder, target))
    took, whole = _UNHARMED[asked]
    for _ in range(times):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            process = start(folder)
            time.sleep(random.uniform(0.3, 1.1) * took)
            process.send_signal(number)
            code_seen = process.wait()
            left = os.listdir(folder)
            if target in left:
                assert digest(Path(folder, target)) == whole, "an incomplete file has the name"
            else:
                assert code_seen != 0
            hidden = [name for name in left if name != target]
            assert not hidden or (number == signal.SIGKILL and all(name.startswith(".") for name in hidden)), hidden
            outcomes["complete" if target in left else "left behind" if hidden else "nothing"] += 1
    return outcomes


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    number = signal.Signals[sys.argv[2]] if len(sys.argv) > 2 else signal.SIGKILL
    kinds = [(NAMELESS, "out.safetensors", ()), (NAMED, "out.pt", ()), (NAMELESS, "out", ("--max-shard-size", "4MB"))]
    with tempfile.TemporaryDirectory() as folder:
        path = source(Path(folder))
        for code, target, options in kinds:
            outcomes = attack(path, code, target, options, number, times // len(kinds))
            print(f"{number.name} {target}: {dict(outcomes)}")


if __name__ == "__main__":
    main()
