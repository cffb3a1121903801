"""Damage as disks, networks and programs do it, in trained checkpoints by others: is it found, and placed?

``python -m tests.checks.damage --count 1000`` makes so many, of six kinds, in four dtypes and in one of 8 bits, and
prints the table of DAMAGE.md. A damage counts as found where a finding of at least a warning names the layer and
either bytes of the tensor that overlap the damage, or a head or part that holds it.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from qkvinspect.checks import run as run_checks
from qkvinspect.findings import Finding
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.evidence import cases

KINDS = ("zeros", "copied", "shifted", "exponents", "elsewhere", "cut and padded")
OTHER_KINDS = ("byte order", "shifted by two", "other dtype", "page of another", "rows exchanged", "transposed")
"""What is not part of the goal: with ``--others``. The last two leave every value as likely as it was."""
DTYPES = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn")
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
EXPONENT = {"float64": (11, 52), "float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7), "float8_e4m3fn": (4, 3)}
LEAST = 4096
OTHER_CODES = (
    "nonfinite", "zero-head", "zero-part", "equal-heads", "equal-parts", "equal-layers", "constant-part",
)  # fmt: skip
"""Findings that name the layer, the part and its heads."""

Data = NDArray[np.uint8]


@dataclass
class Model:
    """A trained checkpoint in one dtype, written as safetensors.

    Attributes:
        attention: by name of a tensor, where its bytes are in the file.
    """

    path: Path
    heads: int
    attention: dict[str, tuple[int, int]]
    layers: dict[str, str]
    said: list[Finding]


def written(checkpoint: cases.Trained, dtype: str, folder: Path) -> Model:
    """Its tensors in another dtype; what has 8 bits is scaled to what that holds, as quantisers do."""
    state: dict[str, torch.Tensor] = {}
    with open_checkpoint(checkpoint.path) as opened:
        for name, info in opened.tensors.items():
            if info.dtype.name != "float32" or not info.contiguous or not info.numel:
                continue
            data = bytearray(info.region.read(info.offset * 4, info.nbytes))
            value = torch.frombuffer(data, dtype=torch.float32).reshape(info.shape)
            if dtype == "float8_e4m3fn":
                value = value / value.abs().max().clamp(min=1e-12) * 448
            state[name] = value.to(getattr(torch, dtype)).contiguous()
    path = folder / f"{checkpoint.label.replace('/', '-')}-{dtype}.safetensors"
    save_file(state, path)
    with open_checkpoint(str(path)) as opened:
        report = inspect(opened, Options(heads=(str(checkpoint.heads),), norms=False))
        places: dict[str, tuple[int, int]] = {}
        layers: dict[str, str] = {}
        for attention in report.attentions:
            for weight in (*attention.weights, *((attention.out,) if attention.out else ())):
                info = weight.require_info()
                start = info.region.start + info.offset * BYTES[dtype]
                places[weight.name] = start, info.nbytes
                layers[weight.name] = attention.layer
    return Model(path, checkpoint.heads, places, layers, checked(path, checkpoint.heads))


def checked(path: Path, heads: int) -> list[Finding]:
    """What ``check`` says that is no info; the evidence is not asked, as it knows nothing of damage."""
    with open_checkpoint(str(path)) as opened:
        found = run_checks(inspect(opened, Options(heads=(str(heads),))))
    return [finding for finding in found if finding.severity != "info"]


def damaged(kind: str, data: Data, other: Data, dtype: str, size: int, chance: random.Random) -> tuple[int, int, str]:
    """Damage the bytes of a tensor in place; where.

    Args:
        other: bytes of another tensor of the file, which is no projection where there is one.
    """
    item = BYTES[dtype]
    start = chance.randrange(0, len(data) - size + 1)
    match kind:
        case "zeros":
            start = start // 512 * 512
            data[start : start + size] = 0
        case "copied":
            start -= start % item
            source = chance.choice([at for at in range(0, len(data) - size + 1, 512) if abs(at - start) >= 512])
            data[start : start + size] = data[source : source + size].copy()
        case "shifted":
            start -= start % item
            data[start + 1 : start + size] = data[start : start + size - 1].copy()
        case "exponents":
            bits, mantissa = EXPONENT[dtype]
            start -= start % item
            words = data[start : start + size // item * item].view(f"u{item}")
            bit = chance.randrange(bits)
            words ^= words.dtype.type(1 << (mantissa + bit))
            return start, start + size, f"bit {bit}"
        case "byte order":
            start -= start % item
            words = data[start : start + size // item * item].view(f"u{item}")
            words[:] = words.byteswap()
        case "shifted by two":
            start -= start % item
            data[start + 2 : start + size] = data[start : start + size - 2].copy()
        case "other dtype":
            start -= start % item
            torch_other = torch.float16 if dtype == "bfloat16" else torch.bfloat16
            values = torch.from_numpy(data[start : start + size // item * item].copy()).view(getattr(torch, dtype))
            data[start : start + size // item * item] = values.to(torch_other).view(torch.uint8).numpy()
        case "page of another" | "rows exchanged":  # the other way in the other tensor would be a damage of its own
            start = start // 4096 * 4096
            first = chance.randrange(0, (len(other) - size) // 512 + 1) * 512
            data[start : start + size] = other[first : first + size]
        case "transposed":
            start -= start % item
            side = int((size // item) ** 0.5)
            words = data[start : start + side * side * item].view(f"u{item}").reshape(side, side)
            words[:] = words.T.copy()
        case "elsewhere":
            start -= start % item
            data[start : start + size] = elsewhere(other, size, chance)
        case _:
            start = len(data) - size
            pad = chance.randrange(3)
            data[start:] = 0 if pad == 0 else np.tile(data[:512], -(-size // 512))[:size] if pad == 1 else data[:size]
    return start, start + size, ""


def elsewhere(other: Data, size: int, chance: random.Random) -> Data:
    """What a reused page may hold: noise, text, numbers of another kind, another tensor of the file."""
    match chance.randrange(4):
        case 0:
            return np.frombuffer(chance.randbytes(size), np.uint8)
        case 1:
            return np.frombuffer((Path(__file__).read_bytes() * (size // 4096 + 1))[:size], np.uint8)
        case 2:
            return np.arange(chance.randrange(1 << 20), (1 << 20) + size, dtype="<i8")[: size // 8 + 1].view("u1")[
                :size
            ]
        case _:
            first = chance.randrange(0, len(other) - size + 1)
            return other[first : first + size]


def is_placed(finding: Finding, model: Model, name: str, ends: tuple[int, int]) -> bool:
    """Whether a finding tells where the damage is."""
    own = finding.layer == model.layers[name]
    if finding.code != "damaged-block":
        return own and finding.code in OTHER_CODES
    places = re.findall(r"bytes (\d+):(\d+)(?: of ([^ ]+))?", finding.message)
    named = {name, name.removeprefix(f"{finding.layer}.")} if own else {name}
    first = places[0][2] in named
    return any(
        int(start) < ends[1] and ends[0] < int(stop) and (of.rstrip(":") in named if of else first)
        for start, stop, of in places
    )


def is_made(kind: str, dtype: str) -> bool:
    """Whether the bytes are others than those of some other value of the tensor, so that anything could tell."""
    least = {"shifted": 2, "byte order": 2, "shifted by two": 4}.get(kind, 1)
    return BYTES[dtype] >= least and (kind != "other dtype" or BYTES[dtype] == 2)


def trial(model: Model, kind: str, dtype: str, chance: random.Random) -> tuple[bool, int, str] | None:
    """Damage the file, check it, mend it: (whether it was found, its size, what was done)."""
    large = [name for name, (_, size) in model.attention.items() if size >= 2 * LEAST]
    if not large:
        return None
    name, source = chance.choice(large), chance.choice(large)
    start, nbytes = model.attention[name]
    size = min(chance.choice((4096, 4096, 8192, 16384, 65536)), nbytes // 2)
    with model.path.open("r+b") as file:
        file.seek(start)
        before = file.read(nbytes)
        file.seek(model.attention[source][0])
        other = np.frombuffer(theirs := file.read(model.attention[source][1]), np.uint8)
        data = np.frombuffer(before, np.uint8).copy()
        if size > len(other):
            size = LEAST
        *ends, how = damaged(kind, data, other, dtype, size, chance)
        changed = int((data != np.frombuffer(before, np.uint8)).sum())
        if changed < size // 8:
            return None  # what was there already
        file.seek(start)
        file.write(data.tobytes())
        if kind == "rows exchanged" and source != name:
            at = theirs.find(data[ends[0] : ends[1]].tobytes())
            file.seek(model.attention[source][0] + at)
            file.write(before[ends[0] : ends[1]])
    try:
        found = checked(model.path, model.heads)
    finally:
        with model.path.open("r+b") as file:
            for place, whole in ((model.attention[source][0], theirs), (start, before)):
                file.seek(place)
                file.write(whole)
    new = [finding for finding in found if finding not in model.said]
    hit = any(is_placed(finding, model, name, (ends[0], ends[1])) for finding in new)
    return (
        hit,
        size,
        f"{model.path.stem} {name} {kind} {how} {dtype} {ends} of {nbytes}: {[f.message for f in new][:3]}",
    )


def campaign(
    count: int, seed: int, folder: Path, which: Any = cases.OTHERS, kinds: Sequence[str] = KINDS
) -> Iterator[tuple[str, str, bool, str]]:
    """(kind, dtype, whether found, what was done) of so many damages, spread evenly over checkpoints and dtypes."""
    trained = list(cases.others(which))
    jobs = [(one, dtype) for one in trained for dtype in DTYPES]
    chance = random.Random(seed)
    chance.shuffle(jobs)
    each, done = -(-count // len(jobs)), 0
    while done < count:
        for checkpoint, dtype in jobs:
            model = written(checkpoint, dtype, folder)
            if model.said and seed == 0:
                print(f"undamaged {model.path.stem}: {[f.code for f in model.said]}", file=sys.stderr)
            for _ in range(each):
                kind = kinds[done % len(kinds)]
                if not is_made(kind, dtype) or done >= count:
                    kind = "zeros" if kinds is KINDS else "page of another"
                if done < count and (result := trial(model, kind, dtype, chance)):
                    done += 1
                    yield kind, dtype, result[0], result[2]
            model.path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--others", action="store_true", help="kinds that are not part of the goal")
    given = parser.parse_args()
    kinds = OTHER_KINDS if given.others else KINDS
    tried: Counter[tuple[str, str]] = Counter()
    hit: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind, dtype, found, text in campaign(
            given.count, given.seed, Path(folder), (*cases.OTHERS, *cases.LARGE), kinds
        ):
            tried[kind, dtype] += 1
            hit[kind, dtype] += found
            if not found:
                print(f"missed {text}", file=sys.stderr, flush=True)
    print(f"| damage | {' | '.join(DTYPES)} | all |\n| --- |{' ---: |' * (len(DTYPES) + 1)}")
    for kind in (*kinds, "all"):
        cells: list[str] = []
        for dtype in (*DTYPES, "all"):
            keys = [key for key in tried if kind in (key[0], "all") and dtype in (key[1], "all")]
            cells.append(f"{sum(hit[key] for key in keys)} of {sum(tried[key] for key in keys)}")
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
