"""What asking the weights costs, beside reading them: python tests/benchmarks/evidence.py [LAYERS]

A Llama-shaped file, 4096 wide, 32 heads over 8 kv heads, bfloat16, random: the worst case, as nothing is ever settled
by the first layers. Ratios in one run, the best of three.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, KV = 4096, 1024


def write(path: Path, layers: int) -> None:
    shapes = {"q_proj": (WIDTH, WIDTH), "k_proj": (KV, WIDTH), "v_proj": (KV, WIDTH), "o_proj": (WIDTH, WIDTH)}
    header: dict[str, object] = {}
    end = 0
    for layer in range(layers):
        for key, (rows, cols) in shapes.items():
            start, end = end, end + 2 * rows * cols
            name = f"model.layers.{layer}.self_attn.{key}.weight"
            header[name] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for rows, cols in list(shapes.values()) * layers:
            values = generator.standard_normal(rows * cols, np.float32)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16))


def seconds(path: Path, *flags: str) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "qkvinspect", "show", str(path), *flags], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        write(path, layers)
        plain, asked = seconds(path, "--no-evidence"), seconds(path)
        print(f"{layers} layers, {path.stat().st_size / 1e9:.1f} GB, heads unknown")
        print(f"show --no-evidence {plain:.2f} s; show {asked:.2f} s: {asked - plain:.2f} s more")
        Path(folder, "config.json").write_text('{"num_attention_heads": 32, "num_key_value_heads": 8}')
        plain, glanced = seconds(path, "--no-evidence"), seconds(path)
        print("with a config")
        print(f"show --no-evidence {plain:.2f} s; show {glanced:.2f} s: {glanced / plain:.2f} times")


if __name__ == "__main__":
    main()
