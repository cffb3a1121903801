"""What checkpoints of many layers, tensors and terabytes cost.

    python tests/benchmarks/scale.py [WORD ...]

Files with real headers and no contents (sparse: they take no place on the disk), each shown by a process of its own:
seconds and peak memory of the second time, as it is the system's work to make bytes of holes; beyond what a small file
takes, divided by the tensors or attentions. Writes SCALE.md; given words, only the cases that have one of them in their
name, and no file.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

from finding import experts
from processes import QKVINSPECT, Taken, run, saying

HERE = Path(__file__).parent

SIZES = {"F32": 4, "BF16": 2}
CACHED = 10 << 30
"""Bytes of a file that the system's cache may not hold: it is read once."""

_LONG = 50_000
"""Attentions or tensors from which a command is run once."""

Shapes = dict[str, tuple[int, ...]]


def write(path: Path, tensors: Shapes, dtype: str) -> int:
    """A sparse .safetensors file of zeros; its size."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + SIZES[dtype] * prod(shape)
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


@dataclass(frozen=True)
class Case:
    """A command on files of so many tensors or attentions."""

    name: str
    size: int
    many: int
    command: Sequence[str | Path]


_MANY = ["--limit", "header=1GB", "--limit", "objects=100000000"]


def cases(folder: Path) -> Iterator[Case]:
    """The first is a small file."""
    shapes, norms = ["--no-norms"], ["--per-head", "--no-evidence", "--heads", "8"]
    yield encoders(folder, "norms", 24, 256, norms)
    place = folder / "terabyte"
    place.mkdir()
    size = sharded(place, 400, 16384, 36864)
    yield Case("shapes of 400 shards", size, 400, ("show", place, *shapes))
    for layers in (1_000, 10_000, 20_000):
        yield encoders(folder, "shapes", layers, 64, shapes)
    for layers in (240, 2400):
        yield encoders(folder, "norms", layers, 256, norms)
    path = folder / "large.safetensors"
    size = write(path, {k: v for n in range(40) for k, v in decoder(n, 8192, 12288).items()}, "BF16")
    yield Case("norms of one large file", size, 40, ("show", path, *norms))
    yield encoders(folder, "shapes", 100_000, 8, shapes)
    yield encoders(folder, "norms", 100_000, 8, ["--no-evidence", "--heads", "2"])
    path = folder / "experts.safetensors"
    size = write(path, dict(islice(experts(), 1_300_000)), "F32")
    yield Case("shapes of 1,300,000 tensors, nearly all of experts", size, 1_300_000, ("show", path, *shapes, *_MANY))
    path = folder / "10000.safetensors"
    size = write(path, {k: v for n in range(10_000) for k, v in encoder(n, 8).items()}, "F32")
    asked = ("--no-evidence", "--heads", "2", path)
    yield Case("check of 10,000 attentions", size, 10_000, ("check", *asked))
    yield Case("diff of 10,000 attentions", size, 10_000, ("diff", *asked, path))
    yield Case("report of 10,000 attentions", size, 10_000, ("report", *asked, "-o", folder / "out.html", "--force"))


def encoders(folder: Path, what: str, layers: int, width: int, flags: Sequence[str]) -> Case:
    path = folder / f"{what}{layers}.safetensors"
    size = write(path, {k: v for n in range(layers) for k, v in encoder(n, width).items()}, "F32")
    return Case(f"{what} of {layers:,} layers, {5 * layers:,} tensors", size, layers, ("show", path, *flags))


def main() -> None:
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, saying(None if words else HERE / "SCALE.md") as say:
        say(f"Load of the machine when it began: {os.getloadavg()[0]:.1f}.\n")
        say("| | size | seconds | of the processor | peak MB | ms each | kB each |")
        say("| --- | --- | --- | --- | --- | --- | --- |")
        small: Taken | None = None
        for case in cases(Path(folder)):
            if small and words and not any(word in case.name for word in words):
                continue
            for _ in range(1 if case.size > CACHED or case.many > _LONG else 2):
                taken = run((*QKVINSPECT, *case.command), Path(folder, "cache"), may_find=True)[0]
            small = small or taken
            ms = (taken.processor - small.processor) / case.many * 1e3
            kilobytes = (taken.megabytes - small.megabytes) / case.many * 1e3
            cells = f"{taken.seconds:.2f} | {taken.processor:.2f} | {taken.megabytes:.0f} | {ms:.3f} | {kilobytes:.2f}"
            say(f"| {case.name} | {case.size / 1e9:,.1f} GB | {cells} |")


if __name__ == "__main__":
    main()
