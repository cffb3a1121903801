"""Models with shared kv heads, trained here, with Q, K and V packed into one tensor in every way that fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from qkvinspect.layouts.packing import Geometry, Groups, Packing, split_rows
from tests.evidence import cases

RANKS = (2, 4, 8)


def packings(sizes: Geometry) -> dict[str, Groups]:
    """In blocks, per kv head, and in a stripe a rank for as many ranks as divide the kv heads; by their names."""
    found: dict[str, Groups] = {"q, k, v in blocks": "one"}
    if sizes.num_kv_heads > 1:
        found["q, k, v per kv head"] = "kv_heads"
    for ranks in RANKS:
        if sizes.num_kv_heads % ranks == 0 and ranks < sizes.num_kv_heads:
            found[f"q, k, v in {ranks} groups"] = ranks
    return found


def pack(model: Path, groups: Groups, sizes: Geometry, path: Path) -> None:
    """Store a model of rotary_models/make.py under names that do not tell a packing."""
    stored = load_file(model / "model.safetensors")
    tensors: dict[str, np.ndarray] = {}
    for name in [name for name in stored if name.endswith(".q_proj.weight")]:
        layer = name.removesuffix(".q_proj.weight")
        parts = {part: stored[f"{layer}.{part}_proj.weight"].astype(np.float32) for part in "qkv"}
        total = sum(map(len, parts.values()))
        fused = np.zeros((total, parts["q"].shape[1]), np.float32)
        for part, runs in split_rows(Packing(("q", "k", "v"), groups=groups), sizes, total).items():
            fused[[row for run in runs for row in run]] = parts[part]
        tensors |= {f"{layer}.Wqkv.weight": fused, f"{layer}.out_proj.weight": stored[f"{layer}.o_proj.weight"]}
    save_file(tensors, path)


def judged(folder: Path, path: Path) -> Iterator[tuple[str, str, Geometry, str]]:
    """(model, packing, sizes, outcome): right, undetermined or wrong."""
    for model in sorted(file.parent for file in folder.glob("*/config.json")):
        config = json.loads((model / "config.json").read_text())
        sizes = Geometry(config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"])
        for name, groups in packings(sizes).items():
            pack(model, groups, sizes, path)
            evidence = cases.weigh(path).attentions[0].evidence
            found = evidence.packings if evidence else None
            if found is None or not found.decided:
                yield model.name, name, sizes, "undetermined"
            else:
                right = (found.best.label, found.best.num_heads) == (name, sizes.num_heads)
                yield model.name, name, sizes, "right" if right else "wrong"


def section(folder: Path, path: Path) -> Iterator[str]:
    """Lines of RESULTS.md."""
    yield "By tests/checks/rotary_models/make.py; packed in every way that fits, under names that tell no packing, and"
    yield "with no config."
    yield ""
    yield "| model | heads | packings | recognised, with its heads | undetermined | wrong |"
    yield "|---|---|---|---|---|---|"
    rows: dict[tuple[str, str], list[str]] = {}
    for model, _, sizes, outcome in judged(folder, path):
        rows.setdefault((model, f"{sizes.num_heads} over {sizes.num_kv_heads}"), []).append(outcome)
    for (model, heads), outcomes in rows.items():
        counts = [outcomes.count(outcome) for outcome in ("right", "undetermined", "wrong")]
        yield f"| {model} | {heads} | {len(outcomes)} | {' | '.join(map(str, counts))} |"
    every = [outcome for outcomes in rows.values() for outcome in outcomes]
    yield ""
    yield (
        f"Of {len(every)} packed files {every.count('right')} were recognised, "
        f"{every.count('undetermined')} undetermined, {every.count('wrong')} wrong."
    )
