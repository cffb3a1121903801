"""What asking the weights costs, beside reading them.

    python tests/benchmarks/evidence.py [LAYERS] [--small] [--before TREE]

A Llama-shaped file, 4096 wide, 32 heads over 8 kv heads, bfloat16, random: the worst case, as nothing is ever settled
by the first layers. All in one run, the best of three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[2]


def write(path: Path, layers: int, width: int, kv: int, *, wide: bool) -> None:
    """Random weights, in float32 if ``wide``."""
    shapes = {"q_proj": (width, width), "k_proj": (kv, width), "v_proj": (kv, width), "o_proj": (width, width)}
    size, dtype = (4, "F32") if wide else (2, "BF16")
    header: dict[str, object] = {}
    end = 0
    for layer in range(layers):
        for key, (rows, cols) in shapes.items():
            start, end = end, end + size * rows * cols
            name = f"model.layers.{layer}.self_attn.{key}.weight"
            header[name] = {"dtype": dtype, "shape": [rows, cols], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for rows, cols in list(shapes.values()) * layers:
            values = generator.standard_normal(rows * cols, np.float32)
            file.write(values if wide else (values.view(np.uint32) >> 16).astype(np.uint16))


def seconds(path: Path, *flags: str, tree: Path = HERE) -> float:
    """Of processor time, which other processes disturb less than that of the clock: the best of three."""
    best = float("inf")
    environment = os.environ | {"PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "qkvinspect", "show", str(path), *flags]
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=path.parent)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=int, nargs="?", default=32)
    parser.add_argument("--small", action="store_true", help="1,024 wide, as many kv heads as heads, float32")
    parser.add_argument("--before", type=Path, help="another tree of this repository to compare with")
    options = parser.parse_args()
    width, kv, heads = (1024, 1024, 16) if options.small else (4096, 1024, 32)
    trees = {"": HERE} if options.before is None else {"before: ": options.before, "after: ": HERE}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        write(path, options.layers, width, kv, wide=options.small)
        print(f"{options.layers} layers, {path.stat().st_size / 1e9:.1f} GB")
        for said in ("heads unknown", "with a config"):
            for label, tree in trees.items():
                plain, asked = (seconds(path, *flags, tree=tree) for flags in (("--no-evidence",), ()))
                print(
                    f"{label}{said}: show --no-evidence {plain:.2f} s; show {asked:.2f} s: {asked - plain:.2f} s more"
                )
            config = {"num_attention_heads": heads, "num_key_value_heads": heads * kv // width}
            Path(folder, "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
