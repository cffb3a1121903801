"""How fast, and within what memory, a checkpoint is rewritten: ``python tests/benchmarks/rewriting.py [GIGABYTES]``.

The source is a sparse safetensors file of 24 layers (10 GB unless told otherwise). Prints the time as a multiple of
that of cp and sync (what is written here is on the disk when it has its name), and the peak memory of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def sparse(path: Path, nbytes: int, layers: int = 24) -> None:
    """in_proj_weight and two matrices of an MLP a layer, all zeros that take no room."""
    width = int((nbytes / layers / 4 / 11) ** 0.5) // 64 * 64
    header: dict[str, object] = {}
    place = 0
    for layer in range(layers):
        for name, rows in (("self_attn.in_proj_weight", 3), ("linear1.weight", 4), ("linear2.weight", 4)):
            size = rows * width * width * 4
            shape = [rows * width, width]
            header[f"layers.{layer}.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
            place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds, and the peak memory in MB."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.monotonic() - began, usage.ru_maxrss // 1024


def main() -> None:
    nbytes = int(float(sys.argv[1]) * 1e9) if len(sys.argv) > 1 else 10**10
    run = [sys.executable, "-m", "qkvinspect"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.safetensors"), Path(folder, "out")
        sparse(source, nbytes)
        command = 'cp --sparse=never --reflink=never "$0" "$1" && sync "$1"'
        copied, _ = timed(["sh", "-c", command, str(source), str(target)])
        target.unlink()
        for what, command, suffix in (
            ("export --split --all", [*run, "export", "--split", "--all"], ".safetensors"),
            ("export --split --all", [*run, "export", "--split", "--all"], ".pt"),
            ("convert --to gpt2", [*run, "convert", "--to", "gpt2"], ".safetensors"),
        ):
            out = target.with_suffix(suffix)
            took, peak = timed([*command, str(source), "-o", str(out)])
            print(f"{what} to {suffix}: {took / copied:.2f} of cp, peak {peak} MB", flush=True)
            out.unlink()


if __name__ == "__main__":
    main()
