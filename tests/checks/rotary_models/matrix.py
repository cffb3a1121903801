"""Every trained model, converted rightly and wrongly, in several types: what the rule on rotary order says of each.

    python -m tests.checks.rotary_models.matrix FOLDER [NAME ...]

prints a line a case and the sums; FOLDER is what make.py filled. The last figures are in RESULTS.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from qkvinspect.checks.faults.rotary_order import find
from qkvinspect.checks.subject import Subject
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from qkvinspect.inspection.evidence.rotary_order import weigh_orders

Rows = dict[str, Any]
Type = gguf.GGMLQuantizationType
KINDS = ("F16", "Q8_0", "Q4_K")
PERMUTED = {"llama": "llama", "mistral": "llama", "smollm3": "smollm3"}
"""Architectures whose rows llama.cpp permutes, as GGUF calls them; the others are only renamed."""

SAYS = {
    "left in halves": "{} has its rows in halves",
    "permuted": "{} has the rows of both halves in turn",
    "twice": "{} has its rows as if they had been put in turns twice",
    "K as Q": "K was put in turns as if it had",
    "half": "put in turns as if they had",
    "double": "put in turns as if they had",
}


class Case(NamedTuple):
    """One file of the matrix: how often Q and K were permuted, with how many heads, and what must be said."""

    name: str
    times: int
    as_q: bool = False
    said: str = ""
    calls: tuple[int, int] | None = None


def cases(needed: int, heads: int, kv_heads: int, width: int) -> Iterator[Case]:
    """Right, forgotten (or done where it should not be), twice, K with Q's heads, both with other numbers of heads."""
    share = heads // kv_heads
    yield Case("right", needed)
    yield Case("forgotten", 0, said="left in halves") if needed else Case("needless", 1, said="permuted")
    yield Case("twice", 2, said="twice")
    if share > 1 and width % share == 0 and width // share % 2 == 0:
        yield Case("K with Q's heads", 1, True, "K as Q")
    if needed and heads % 2 == kv_heads % 2 == 0:
        yield Case("half the heads", 1, said="half", calls=(heads // 2, kv_heads // 2))
    if needed:
        yield Case("twice the heads", 1, said="double", calls=(2 * heads, 2 * kv_heads))


def permuted(rows: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp's converter."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def q4_k(values: Any) -> Any:
    """Float32 [rows, 256 n] as ggml's block_q4_K: uint8 [rows, 144 n]. The gguf package only decodes it."""
    blocks = values.reshape(-1, 8, 32)
    low = np.minimum(blocks.min(2), 0)
    scale, least = (blocks.max(2) - low) / 15, -low
    d, dmin = (one.max(1, keepdims=True).astype(np.float16).astype(np.float32) / 63 for one in (scale, least))
    d, dmin = (one.astype(np.float16) for one in (d, dmin))
    codes = [
        np.clip(np.rint(one / np.where(unit == 0, 1, unit.astype(np.float32))), 0, 63).astype(np.uint8)
        for one, unit in ((scale, d), (least, dmin))
    ]
    sc, m = codes
    step = (sc * d.astype(np.float32))[:, :, None]
    shifted = blocks + (m * dmin.astype(np.float32))[:, :, None]
    q = np.clip(np.rint(shifted / np.where(step == 0, 1, step)), 0, 15).astype(np.uint8)
    packed = np.concatenate(
        [sc[:, :4] | (sc[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6, (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4], 1
    )
    nibbles = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(blocks), 128)
    whole = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), packed, nibbles], 1)
    return whole.reshape(len(values), -1)


def encoded(values: Any, kind: str) -> tuple[Any, Any]:
    """The bytes and the type; Q5_0 for Q4_K where a row is no multiple of 256, as llama.cpp has it."""
    if kind == "Q4_K" and values.shape[-1] % 256 == 0:
        return q4_k(values), Type.Q4_K
    kind = "Q5_0" if kind == "Q4_K" else kind
    return gguf.quants.quantize(values, Type[kind]), Type[kind]


def as_gguf(path: Path, state: Rows, config: dict[str, Any], kind: str) -> None:
    writer = gguf.GGUFWriter(path, PERMUTED.get(config["model_type"], config["model_type"]))
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    for key, values in state.items():
        _, _, layer, _, part, what = key.split(".")
        name = {"o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}.get(part, f"attn_{part[0]}")
        data, stored = encoded(values, kind) if values.ndim == 2 else (values, Type.F32)
        writer.add_tensor(f"blk.{layer}.{name}.{what}", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def changed(state: Rows, config: dict[str, Any], case: Case) -> Rows:
    found: Rows = {}
    heads, kv_heads = case.calls or (config["num_attention_heads"], config["num_key_value_heads"])
    for key, values in state.items():
        rows = values
        for _ in range(case.times if ".q_proj." in key or ".k_proj." in key else 0):
            rows = permuted(rows, heads if ".q_proj." in key or case.as_q else kv_heads)
        found[key] = np.ascontiguousarray(rows)
    return found


def verdict(path: Path, case: Case) -> tuple[str, str]:
    """Whether it was right, undecided or WRONG, and what was found."""
    with open_checkpoint(path) as checkpoint:
        report = inspect(checkpoint)
        said = {message for _, message in find(Subject(report))}
        found = weigh_orders(report.attentions)
    shown = f"{found.q}, {found.k}, {found.score:.0f}, ahead {found.ahead:.0f}" if found else "nothing"
    if not said:
        decided = found is not None and found.decided
        return ("right" if decided else "undecided") if not case.said else "WRONG" if decided else "undecided", shown
    (message,) = said
    if not case.said:
        return "WRONG", message
    expected = SAYS[case.said]
    wanted = [expected.format("Q"), expected.format("K")] if not case.as_q else [expected]
    if case.calls is not None:
        q, k = case.calls
        wanted = [f"{expected} {q} heads and {k} kv head" if q != k else f"{expected} {q} head"]
    return "right" if all(one in message for one in wanted) else "WRONG", shown


def judged(folder: Path, scratch: Path) -> Iterator[tuple[str, str, str, str]]:
    """A model's cases: type, case, verdict, what was found."""
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    state = {key: values.astype(np.float32) for key, values in state.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for kind in ("safetensors", *KINDS):
        if config["model_type"] == "cohere" and kind != "safetensors":
            continue
        needed = config["model_type"] in PERMUTED and kind != "safetensors"
        for case in cases(needed, heads, kv_heads, config["head_dim"]):
            if config["model_type"] == "cohere" and case.name != "right":
                continue
            own = changed(state, config, case)
            path = scratch / f"{kind}-{case.name}"
            if kind == "safetensors":
                path.mkdir()
                save_file(own, path / "model.safetensors")
                (path / "config.json").write_text(json.dumps(config))
            else:
                as_gguf(path, own, config, kind)
            yield kind, case.name, *verdict(path, case)


def run(folder: Path, names: list[str], said: Callable[[str], None] = lambda text: None) -> Counter[str]:
    sums: Counter[str] = Counter()
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            for kind, case, found, why in judged(folder / name, Path(scratch)):
                sums[found] += 1
                said(f"{name} {kind} {case}: {found} ({why})")
    return sums


def main(folder: str, *names: str) -> None:
    every = sorted(path.name for path in Path(folder).iterdir())
    print(dict(run(Path(folder), list(names) or every, print)))


if __name__ == "__main__":
    main(*sys.argv[1:])
