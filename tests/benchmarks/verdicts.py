"""What other tools say of the same checkpoints: copies that are the same, and faults. Writes VERDICTS.md beside it.

    python -m venv PEERS && PEERS/bin/pip install sft-cli==0.2.2 'ckptkit[cli]==0.3.0'
    python tests/benchmarks/verdicts.py PEERS/bin

The checkpoint is sapiens' checkpoint_vh (tests/real/wheels.py), as safetensors, which all of them read.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))
import wheels

State = dict[str, Tensor]

HEADS, LAYERS = 8, 4
COLUMNS = ("B", "qkvinspect diff", "qkvinspect check B", "sft diff --delta", "ckptkit diff", "sft check B",
           "ckptkit validate B")  # fmt: skip
BASE = "decoder.sentence_encoder.layers.{}.self_attn"
OUT = Path(__file__).with_name("VERDICTS.md")


def original() -> State:
    path = wheels.unpacked("sapiens") / "sapiens/models/v1/checkpoint_vh.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True, map_location="cpu")["model"]
    return {name: tensor.clone() for name, tensor in state.items()}


def faulty(change: Callable[[Callable[[str], Tensor], int], None]) -> State:
    """A copy in which ``change`` has changed the parts of each layer in place."""
    state = original()
    for layer, base in enumerate(map(BASE.format, range(LAYERS))):
        change(lambda part, base=base: state[f"{base}.{part}"], layer)
    return state


def fused() -> State:
    state = original()
    for base in map(BASE.format, range(LAYERS)):
        for end in ("weight", "bias"):
            state[f"{base}.qkv.{end}"] = torch.cat([state.pop(f"{base}.{part}_proj.{end}") for part in "qkv"])
            state[f"{base}.proj.{end}"] = state.pop(f"{base}.out_proj.{end}")
    return state


def conv1d() -> State:
    state = fused()
    for base in map(BASE.format, range(LAYERS)):
        for old, new in (("qkv", "c_attn"), ("proj", "c_proj")):
            state[f"{base}.{new}.weight"] = state.pop(f"{base}.{old}.weight").T
            state[f"{base}.{new}.bias"] = state.pop(f"{base}.{old}.bias")
    return state


def v_in_k(part: Callable[[str], Tensor], _: int) -> None:
    for end in ("weight", "bias"):
        part(f"k_proj.{end}")[:] = part(f"v_proj.{end}")


def zeros(part: Callable[[str], Tensor], layer: int) -> None:
    for name in ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias") if layer == 1 else ():
        part(name)[:] = 0


def swapped(part: Callable[[str], Tensor], layer: int) -> None:
    for end in ("weight", "bias") if layer == 1 else ():
        k = part(f"k_proj.{end}").clone()
        part(f"k_proj.{end}")[:] = part(f"v_proj.{end}")
        part(f"v_proj.{end}")[:] = k


def cut_otherwise(part: Callable[[str], Tensor], _: int) -> None:
    for end in ("weight", "bias"):
        mixed = torch.stack([part(f"{name}_proj.{end}").unflatten(0, (HEADS, -1)) for name in "qkv"], dim=1)
        for name, rows in zip("qkv", mixed.flatten(0, 2).chunk(3), strict=True):
            part(f"{name}_proj.{end}")[:] = rows


def transposed(part: Callable[[str], Tensor], _: int) -> None:
    for name in "qkv":
        part(f"{name}_proj.weight")[:] = part(f"{name}_proj.weight").T.clone()


def permuted(part: Callable[[str], Tensor], _: int) -> None:
    order = torch.arange(HEADS).flip(0)
    for name in "qkv":
        for end in ("weight", "bias"):
            rows = part(f"{name}_proj.{end}")
            rows[:] = rows.unflatten(0, (HEADS, -1))[order].flatten(0, 1)
    out = part("out_proj.weight")
    out[:] = out.unflatten(1, (HEADS, -1))[:, order].flatten(1)


def turned(part: Callable[[str], Tensor], _: int) -> None:
    for name in "qk":
        for end in ("weight", "bias"):
            rows = part(f"{name}_proj.{end}")
            pairs = rows.view(HEADS, len(rows) // HEADS // 2, 2, -1)
            rows[:] = pairs.transpose(1, 2).reshape(rows.shape).clone()


def one_value(part: Callable[[str], Tensor], layer: int) -> None:
    if layer == 2:
        part("q_proj.weight")[17, 5] += 1e-3


def half_nan(part: Callable[[str], Tensor], layer: int) -> None:
    if layer == 3:
        part("v_proj.weight")[64:] = float("nan")


SAME: dict[str, Callable[[], State]] = {
    "a copy": original,
    "Q, K, V fused in one tensor": fused,
    "fused and transposed (Conv1D)": conv1d,
    "cast to bfloat16": lambda: {name: t.bfloat16() if t.is_floating_point() else t for name, t in original().items()},
    "every name behind `module.`": lambda: {f"module.{name}": tensor for name, tensor in original().items()},
}
FAULTS: dict[str, Callable[[], State]] = {
    "V's rows written to K": lambda: faulty(v_in_k),
    "K and V of layer 1 all zero": lambda: faulty(zeros),
    "K and V of layer 1 swapped": lambda: faulty(swapped),
    "rows per head cut in three": lambda: faulty(cut_otherwise),
    "Q, K, V transposed": lambda: faulty(transposed),
    "heads permuted": lambda: faulty(permuted),
    "rotary rows permuted": lambda: faulty(turned),
    "one value of layer 2 changed": lambda: faulty(one_value),
    "half of V of layer 3 NaN": lambda: faulty(half_nan),
}


def call(*argv: object) -> tuple[int, str]:
    result = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout


def ours(a: Path, b: Path) -> str:
    code, out = call(sys.executable, "-m", "qkvinspect", "diff", a, b, "--heads", HEADS, "-f", "json")
    found = json.loads(out)
    said = {relation["message"] for layer in found["layers"] for relation in layer["relations"]}
    spots = [
        f"{part['part'].upper()} head {part['largest']['head']}, row {part['largest']['row']}"
        for layer in found["layers"]
        for part in layer["parts"]
        if part["largest"] and not layer["relations"]
    ]
    where = [layer["a"].split(".")[3] for layer in found["layers"] if layer["status"] == "changed"]
    layers = f" (layer{'s' if len(where) > 1 else ''} {', '.join(where)})" if where else ""
    counts = Counter(layer["status"] for layer in found["layers"])
    summary = ", ".join(f"{count} layers {status}" for status, count in counts.items())
    return f"exit {code}: {'; '.join([*said, *spots]) or summary}{layers}"


def sft(tools: Path, a: Path, b: Path) -> str:
    code, out = call(tools / "sft", "diff", a, b, "--delta", "--json")
    found = json.loads(out)
    counts = {word: len(found[word]) for word in ("added", "removed", "shape_changed", "dtype_changed")}
    counts |= Counter(entry["status"] for entry in found.get("value_diffs", {}).values())
    said = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in counts.items() if count)
    return f"exit {code}: {said}"


def ckptkit(tools: Path, a: Path, b: Path) -> str:
    code, out = call(tools / "ckptkit", "diff", a, b)
    said = re.search(r"Shared: .*", out)
    return f"exit {code}: {said[0] if said else out.strip()[:80]}"


def checked(b: Path) -> str:
    """The findings of ``qkvinspect check``, by code, with the number of heads given."""
    code, out = call(Path(sys.executable), "-m", "qkvinspect", "check", b, "--heads", HEADS, "--format", "json")
    (found,) = json.loads(out)["checkpoints"]
    codes = dict.fromkeys(one["code"] for one in found["findings"] if one["severity"] != "info")
    return f"exit {code}{': ' if codes else ''}{', '.join(codes)}"


def checks(tools: Path, b: Path) -> tuple[str, str]:
    sft_code, _ = call(tools / "sft", "check", b)
    code, out = call(tools / "ckptkit", "validate", b)
    return f"exit {sft_code}", f"exit {code}{': warns' if 'warn' in out.lower() or 'nan' in out.lower() else ''}"


def rows(tools: Path, folder: Path, cases: dict[str, Callable[[], State]]) -> list[str]:
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for name, make in cases.items():
        b = folder / "b" / "model.safetensors"
        b.parent.mkdir(exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in make().items()}, b)
        a = folder / "a" / "model.safetensors"
        lines.append(
            "| "
            + " | ".join((name, ours(a, b), checked(b), sft(tools, a, b), ckptkit(tools, a, b), *checks(tools, b)))
            + " |"
        )
    return lines


def main() -> None:
    tools = Path(sys.argv[1])
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "a").mkdir()
        save_file(original(), folder / "a" / "model.safetensors")
        same, faults = rows(tools, folder, SAME), rows(tools, folder, FAULTS)
    head = "# The same files, other tools"
    made = "Written by `python tests/benchmarks/verdicts.py`; sft-cli 0.2.2, ckptkit 0.3.0."
    text = [head, "", made, "", "## B holds the weights of A", "", *same, "", "## B holds a fault", "", *faults]
    OUT.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
