"""Random changes to the structure of quantised checkpoints, through the commands: words, and nothing wrong written.

In every run some of each kind; with ``-m mass`` 2,000 of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.categories.quantised import MODELS, _file, _read
from tests.some import first

Header = dict[str, Any]
Mutation = Callable[[random.Random, Header, bytes], tuple[Header, bytes]]
COMMANDS = (("show",), ("check",), ("diff",), ("export", "--split"), ("export", "--all", "--dequantize", "float32"))
NAMES = sorted(path.stem for path in MODELS.glob("*.json"))
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U32", "I16", "I8", "U8", "BOOL")
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}


def _some(rng: random.Random, header: Header) -> str:
    return rng.choice([name for name in header if name != "__metadata__"])


def _replaced(header: Header, data: bytes, name: str, values: bytes, **change: Any) -> tuple[Header, bytes]:
    one = {**header[name], **change, "data_offsets": [len(data), len(data) + len(values)]}
    return {**header, name: one}, data + values


def _bytes(header: Header, data: bytes, name: str) -> bytes:
    start, stop = header[name]["data_offsets"]
    return data[start:stop]


def missing(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    gone = _some(rng, header)
    return {name: one for name, one in header.items() if name != gone}, data


def renamed(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    """One tensor under the leaf of another: keys of two formats on one weight."""
    one, other = _some(rng, header), _some(rng, header)
    module = one.rpartition(".")[0]
    leaf = rng.choice([other.rpartition(".")[2], "weight_scale", "qzeros", "SCB", "biases", "weight_packed", "W_q"])
    return {**header, f"{module}.{leaf}": header[one]}, data


def reshaped(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    name = _some(rng, header)
    shape, values = list(header[name]["shape"]), _bytes(header, data, name)
    size = len(values) // max(prod(shape), 1)
    if not shape or rng.random() < 0.2:
        shape = [rng.randint(0, 5)]
    else:
        axis = rng.randrange(len(shape))
        shape[axis] = rng.choice([shape[axis] // 2, shape[axis] - 1, shape[axis] + 1, shape[axis] * 2, 0, 1])
    shape = [max(side, 0) for side in shape]
    wanted = prod(shape) * size
    return _replaced(header, data, name, (values * (wanted // max(len(values), 1) + 1))[:wanted], shape=shape)


def retyped(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    name = _some(rng, header)
    dtype = rng.choice(DTYPES)
    wanted = prod(header[name]["shape"]) * SIZES.get(dtype, 1)
    values = _bytes(header, data, name)
    return _replaced(header, data, name, (values * 9)[:wanted], dtype=dtype)


def noise(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    """Scales that are negative, zero, NaN, infinite; groups that there are not; codes of any kind."""
    name = _some(rng, header)
    size = len(_bytes(header, data, name))
    filled = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80", b"\x7f\xc0", b"\x7c\x00"])
    values = (filled * size)[:size] if rng.random() < 0.7 else rng.randbytes(size)
    return _replaced(header, data, name, values)


def swapped(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    one, other = _some(rng, header), _some(rng, header)
    return {**header, one: header[other], other: header[one]}, data


MUTATIONS: tuple[Mutation, ...] = (missing, renamed, reshaped, retyped, noise, swapped)


def config(rng: random.Random, said: dict[str, Any]) -> dict[str, Any]:
    """What the config says, changed in a third of the cases."""
    if rng.random() < 0.66:
        return said
    key = rng.choice([*said, "bits", "group_size", "quant_method", "weight_block_size", "config_groups"])
    odd: list[Any] = [0, -1, 3, 4, 8, 1 << 40, 48, "nf4", "gptq", "awq", None, [], {}, [0, 0], [128, -1], 1.5, True]
    return {**said, key: rng.choice(odd)}


def written(seed: int, folder: Path) -> str:
    """A mutated model, with the name of what it was."""
    rng = random.Random(seed)
    name = NAMES[seed % len(NAMES)]
    header, data = _read(MODELS / f"{name}.safetensors")
    said = json.loads(header["__metadata__"]["quantization_config"])
    for _ in range(rng.choice([1, 1, 2, 4])):
        header, data = rng.choice(MUTATIONS)(rng, header, data)
    (folder / "model.safetensors").write_bytes(_file(header, data))
    (folder / "config.json").write_text(json.dumps({"quantization_config": config(rng, said)}))
    return name


def asked(seed: int, folder: Path, run) -> None:
    """Every command on it."""
    folder.mkdir()
    name = written(seed, folder)
    out = folder.parent / f"{seed}.safetensors"
    for command in COMMANDS:
        first = (MODELS / "original.safetensors",) if command[0] == "diff" else ()
        more = ("-o", out) if command[0] == "export" else ()
        found = run(*command, *first, folder, *more, "--heads", "8", "--no-evidence")
        what = (seed, name, command, found.err)
        assert found.code in (0, 1, 2), what
        assert "Traceback" not in found.out + found.err, what
        assert "fault of qkvinspect" not in found.out + found.err, what
        said = found.err.startswith(("error:", "warning:", "info:")) or "unreadable" in found.out
        assert found.code != 2 or said, what
        assert not (found.code == 2 and command[0] == "export" and out.exists()), what
        out.unlink(missing_ok=True)


@pytest.mark.parametrize("part", first(1, range(20)))
@pytest.mark.gate
def test_mutations(part: int, tmp_path: Path, run) -> None:
    count = 6 if part == 0 else 105
    for seed in range(part * 1000, part * 1000 + count):
        asked(seed, tmp_path / str(seed), run)
