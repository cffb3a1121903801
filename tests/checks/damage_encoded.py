"""The same damage in quantised copies of trained checkpoints: is it found, and placed, in what is stored as codes?

``python -m tests.checks.damage_encoded --count 60`` damages so many tensors of each encoding and prints the second
table of DAMAGE.md. The copies are written as GPTQ, bitsandbytes, DeepSeek and llama.cpp write theirs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from qkvinspect.checks import run as run_checks
from qkvinspect.findings import Finding
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.checks.damage import elsewhere
from tests.evidence import cases

KINDS = ("zeros", "copied", "shifted", "elsewhere", "cut and padded")
LEAST = 4096
Array = NDArray[Any]
State = dict[str, torch.Tensor]
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""bitsandbytes/functional.py, create_normal_map."""


def float8(name: str, values: Array) -> State:
    scale = np.abs(values).max() / 448
    codes = torch.from_numpy(values / scale).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.weight_scale_inv": torch.tensor(scale, dtype=torch.float32)}


def int8(name: str, values: Array) -> State:
    """bitsandbytes' Linear8bitLt: a scale a row."""
    most = np.abs(values).max(axis=1)
    codes = np.rint(values / most[:, None] * 127).astype(np.int8)
    return {f"{name}.weight": torch.from_numpy(codes), f"{name}.SCB": torch.from_numpy(most.astype(np.float32))}


def nf4(name: str, values: Array) -> State:
    """bitsandbytes' Linear4bit: blocks of 64, two codes to a byte, the first in the upper half."""
    blocks = values.reshape(-1, 64)
    most = np.abs(blocks).max(axis=1)
    table = np.array(NF4, np.float32)
    codes = np.abs((blocks / most[:, None])[..., None] - table).argmin(-1).astype(np.uint8).reshape(-1, 2)
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(values.shape)}
    state = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
    return {
        f"{name}.weight": torch.from_numpy((codes[:, :1] << 4 | codes[:, 1:]).copy()),
        f"{name}.weight.absmax": torch.from_numpy(most.astype(np.float32)),
        f"{name}.weight.quant_map": torch.from_numpy(table),
        f"{name}.weight.quant_state.bitsandbytes__nf4": state,
    }


def gptq(name: str, values: Array) -> State:
    """AutoGPTQ's QuantLinear of four bits: [in / 8, out], a scale and a zero for 64 inputs of each output."""
    rows, cols = values.shape
    groups = values.T.reshape(cols // 64, 64, rows)
    low, high = groups.min(1), groups.max(1)
    scale = np.maximum((high - low) / 15, 1e-8)
    zero = np.clip(np.rint(-low / scale), 1, 15)
    codes = np.clip(np.rint(groups / scale[:, None]) + zero[:, None], 0, 15).astype(np.uint32).reshape(cols, rows)
    shifts = 4 * np.arange(8, dtype=np.uint32)
    packed = (codes.reshape(cols // 8, 8, rows) << shifts[None, :, None]).sum(1, dtype=np.uint32)
    zeros = ((zero.astype(np.uint32) - 1).reshape(cols // 64, rows // 8, 8) << shifts).sum(2, dtype=np.uint32)
    return {
        f"{name}.qweight": torch.from_numpy(np.ascontiguousarray(packed).view(np.int32)),
        f"{name}.qzeros": torch.from_numpy(np.ascontiguousarray(zeros).view(np.int32)),
        f"{name}.scales": torch.from_numpy(np.ascontiguousarray(scale.astype(np.float16))),
        f"{name}.g_idx": torch.arange(cols, dtype=torch.int32) // 64,
    }


ENCODINGS: dict[str, Callable[[str, Array], State]] = {"float8": float8, "int8": int8, "NF4": nf4, "GPTQ 4": gptq}
ALL = (*ENCODINGS, "GGUF Q8_0")
MAIN = (".weight", ".qweight")


def written(encoding: str, layers: list[cases.Layer], heads: int, path: Path) -> dict[str, tuple[int, int]]:
    """Write the attention of some layers; where the codes of each projection are, by the tensor's name."""
    parts = [
        (number, part, np.ascontiguousarray(layer.out if part == "o" else layer.weights[part], np.float32))
        for number, layer in enumerate(layers)
        for part in "qkvo"
    ]
    if encoding == "GGUF Q8_0":
        return _as_gguf(parts, heads, path)
    state: State = {}
    for number, part, values in parts:
        state |= ENCODINGS[encoding](f"model.layers.{number}.self_attn.{part}_proj", values)
    save_file(state, path)
    config: dict[str, Any] = {"model_type": "llama", "num_attention_heads": heads, "hidden_size": parts[0][2].shape[1]}
    if encoding == "GPTQ 4":
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}
    if encoding in ("NF4", "int8"):
        config["quantization_config"] = {
            "quant_method": "bitsandbytes",
            f"load_in_{4 if encoding == 'NF4' else 8}bit": True,
        }
    path.with_name("config.json").write_text(json.dumps(config))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    return {
        name: (8 + length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name.endswith(MAIN) and entry["dtype"] != "F32"
    }


def _as_gguf(parts: list[tuple[int, str, Array]], heads: int, path: Path) -> dict[str, tuple[int, int]]:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    for number, part, values in parts:
        name = f"blk.{number}.attn_{'output' if part == 'o' else part}.weight"
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {one.name: (int(one.data_offset), int(one.n_bytes)) for one in gguf.GGUFReader(path).tensors}


def checked(path: Path) -> list[Finding]:
    with open_checkpoint(str(path)) as opened:
        found = run_checks(inspect(opened, Options()))
    return [finding for finding in found if finding.severity != "info"]


def damaged(kind: str, data: NDArray[np.uint8], size: int, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(0, len(data) - size + 1)
    match kind:
        case "zeros":
            start = start // 512 * 512
            data[start : start + size] = 0
        case "copied":
            start = start // 4 * 4
            far = [at for at in range(0, len(data) - size + 1, 512) if abs(at - start) >= size] or [0]
            source = chance.choice(far)
            data[start : start + size] = data[source : source + size].copy()
        case "shifted":
            data[start + 1 : start + size] = data[start : start + size - 1].copy()
        case "elsewhere":
            data[start : start + size] = elsewhere(data.copy(), size, chance)
        case _:
            start = len(data) - size
            data[start:] = 0 if chance.random() < 0.5 else np.tile(data[:512], -(-size // 512))[:size]
    return start, start + size


def trial(path: Path, place: tuple[int, int], name: str, kind: str, said: list[Finding], chance: random.Random) -> str:
    """What was said of a damage, "" where it was found and placed; the file is as it was afterwards."""
    start, nbytes = place
    with path.open("r+b") as file:
        file.seek(start)
        before = file.read(nbytes)
        data = np.frombuffer(before, np.uint8).copy()
        ends = damaged(kind, data, LEAST, chance)
        file.seek(start)
        file.write(data.tobytes())
    try:
        found = [finding for finding in checked(path) if finding not in said]
    finally:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(before)
    short, layer = ".".join(name.split(".")[-2:]), name.rpartition(".attn_" if name.startswith("blk.") else ".")[0]
    part = re.sub("^attn_", "", short)[0].upper() if name.startswith("blk.") else short[0].upper()
    for finding in found:
        if (
            finding.code in ("nonfinite", "zero-head", "zero-part")
            and finding.layer
            and layer.startswith(finding.layer)
            and finding.message[0] == part
        ):
            return ""
        places = re.findall(r"bytes (\d+):(\d+)", finding.message)
        near = any(int(one) < ends[1] and ends[0] < int(other) for one, other in places)
        if finding.code == "damaged-block" and short in finding.message and near:
            return ""
    return f"{path.name} {name} {kind} {ends}: {[(one.code, one.message) for one in found][:2]}"


def campaign(count: int, seed: int, folder: Path) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], int]:
    """By encoding and kind how many were tried and found; how many undamaged files were said to be damaged."""
    chance = random.Random(seed)
    tried: Counter[tuple[str, str]] = Counter()
    hit: Counter[tuple[str, str]] = Counter()
    alarms = 0
    trained = [one for one in cases.others((*cases.OTHERS, *cases.LARGE)) if one.heads >= 4]
    trained = [one for one in trained if min(cases.layers(one.path)[0].weights["q"].shape) >= 256]
    for encoding in ALL:
        for number in range(-(-count // 10)):
            model = trained[(number + seed) % len(trained)]
            path = folder / f"{encoding.replace(' ', '-')}.{'gguf' if encoding == 'GGUF Q8_0' else 'safetensors'}"
            places = written(encoding, cases.layers(model.path)[:3], model.heads, path)
            said = checked(path)
            if any(one.code == "damaged-block" for one in said):
                alarms += 1
                print(f"undamaged {model.label} {encoding}: {[one.message for one in said][:2]}", file=sys.stderr)
            large = [name for name, (_, size) in places.items() if size >= 2 * LEAST]
            for turn in range(10 if large else 0):
                kind, name = KINDS[turn % len(KINDS)], chance.choice(large)
                missed = trial(path, places[name], name, kind, said, chance)
                tried[encoding, kind] += 1
                hit[encoding, kind] += not missed
                if missed:
                    print(f"missed {model.label} {missed}", file=sys.stderr)
    return tried, hit, alarms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tried, hit, alarms = campaign(given.count, given.seed, Path(folder))
    print(f"| damage | {' | '.join(ALL)} |\n| --- |{' ---: |' * len(ALL)}")
    for kind in KINDS:
        print(f"| {kind} | {' | '.join(f'{hit[one, kind]} of {tried[one, kind]}' for one in ALL)} |")
    print(f"{alarms} undamaged files were said to be damaged")


if __name__ == "__main__":
    main()
