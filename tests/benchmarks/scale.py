"""What checkpoints of many layers, tensors and terabytes cost.

    python tests/benchmarks/scale.py [WORD ...] | tee tests/benchmarks/SCALE.md

Files with real headers and no contents (sparse: they take no place on the disk), each shown by a process of its own:
seconds and peak memory of the second time, as it is the system's work to make bytes of holes. Given words, only the
cases that have one of them in their name.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import QKVINSPECT, run

SIZES = {"F32": 4, "BF16": 2}
CACHED = 10 << 30
"""Bytes of a file that the system's cache may not hold: it is read once."""

Shapes = dict[str, tuple[int, ...]]


def write(path: Path, tensors: Shapes, dtype: str) -> int:
    """A sparse .safetensors file of zeros; its size."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + SIZES[dtype] * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


def decoder(layer: int, width: int, wide: int) -> Shapes:
    """A layer as Llama has it."""
    at = f"model.layers.{layer}"
    kv = width // 8
    attention = {"q_proj": (width, width), "k_proj": (kv, width), "v_proj": (kv, width), "o_proj": (width, width)}
    mlp = {"gate_proj": (wide, width), "up_proj": (wide, width), "down_proj": (width, wide)}
    return {
        f"{at}.input_layernorm.weight": (width,),
        **{f"{at}.self_attn.{name}.weight": shape for name, shape in attention.items()},
        **{f"{at}.mlp.{name}.weight": shape for name, shape in mlp.items()},
    }


def encoder(layer: int, width: int) -> Shapes:
    """A layer of nn.TransformerEncoder."""
    at = f"encoder.layers.{layer}"
    return {
        f"{at}.self_attn.in_proj_weight": (3 * width, width),
        f"{at}.self_attn.in_proj_bias": (3 * width,),
        f"{at}.self_attn.out_proj.weight": (width, width),
        f"{at}.linear1.weight": (4 * width, width),
        f"{at}.linear2.weight": (width, 4 * width),
    }


def sharded(folder: Path, shards: int, width: int, wide: int) -> int:
    """One layer a shard, and their index."""
    weights: dict[str, str] = {}
    size = 0
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        tensors = decoder(number, width, wide)
        size += write(folder / name, tensors, "BF16")
        weights |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": size}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"num_attention_heads": 128, "num_key_value_heads": 16}')
    return size


def cases(folder: Path) -> Iterator[tuple[str, Path, int, list[str]]]:
    """Name, path, bytes and flags."""
    shapes, norms = ["--no-norms"], ["--per-head", "--no-evidence", "--heads", "8"]
    place = folder / "terabyte"
    place.mkdir()
    yield "shapes of 400 shards", place, sharded(place, 400, 16384, 36864), shapes
    for layers in (1_000, 10_000, 100_000 // 5):
        path = folder / f"{layers}.safetensors"
        size = write(path, {k: v for n in range(layers) for k, v in encoder(n, 64).items()}, "F32")
        yield f"shapes of {5 * layers:,} tensors", path, size, shapes
    for layers in (24, 240, 2400):
        path = folder / f"norms{layers}.safetensors"
        size = write(path, {k: v for n in range(layers) for k, v in encoder(n, 256).items()}, "F32")
        yield f"norms of {layers} layers", path, size, norms
    path = folder / "large.safetensors"
    size = write(path, {k: v for n in range(40) for k, v in decoder(n, 8192, 12288).items()}, "BF16")
    yield "norms of one large file", path, size, norms


def main() -> None:
    words = sys.argv[1:]
    print("| | size | seconds | peak MB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, path, size, flags in cases(Path(folder)):
            if not words or any(word in name for word in words):
                for _ in range(1 if size > CACHED else 2):
                    taken, _ = run((*QKVINSPECT, "show", path, *flags), Path(folder, "cache"))
                print(f"| {name} | {size / 1e9:,.1f} GB | {taken.seconds:.2f} | {taken.megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
