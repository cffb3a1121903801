"""Two towers of one shape and different heads in one file: what is said of one must not be said of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from qkvinspect.findings import AGAINST_WEIGHTS
from qkvinspect.inspection.report import Attention, Report
from tests.evidence import cases

WIDTHS = (64, 128, 256)


@dataclass(frozen=True)
class Tower:
    """Trained layers, all with so many heads."""

    label: str
    heads: int
    layers: tuple[cases.Layer, ...]


NAMES = {
    "two prefixes": ("text.layers.{}.self_attn", "vision.layers.{}.self_attn"),
    "one within the other's name": ("encoder.layer.{}.self_attn", "layer.{}.self_attn"),
    "numbered towers": ("towers.0.layers.{}.self_attn", "towers.1.layers.{}.self_attn"),
    "two kinds in one stack": ("decoder.layers.{}.self_attn", "decoder.layers.{}.encoder_attn"),
    "one stack, one after the other": ("model.layers.{}.self_attn", "model.layers.{}.self_attn"),
    "one stack, by turns": ("model.layers.{}.self_attn", "model.layers.{}.self_attn"),
    "no numbers": ("encoder.layer.self_attn", "layer.self_attn"),
}
"""How the layers of both are called; those of one stack are counted through."""


def towers(trained: Sequence[cases.Trained]) -> dict[int, list[Tower]]:
    """By width: whole checkpoints, and those that are wider cut down to their first heads and first columns."""
    found: dict[int, list[Tower]] = {width: [] for width in WIDTHS}
    for one in trained:
        layers = cases.layers(one.path)
        width = layers[0].out.shape[1]
        for narrow in WIDTHS:
            heads, rest = divmod(narrow * one.heads, width)
            if narrow <= width and heads >= 2 and not rest:
                found[narrow].append(Tower(one.label, heads, tuple(_narrowed(layer, narrow) for layer in layers)))
    return found


def _narrowed(layer: cases.Layer, width: int) -> cases.Layer:
    weights = {part: values[:width, :width] for part, values in layer.weights.items()}
    return cases.Layer(weights, {part: bias[:width] for part, bias in layer.biases.items()}, layer.out[:width, :width])


@dataclass(frozen=True)
class Pair:
    """A file with both, and the truth about each of its layers."""

    label: str
    tensors: Mapping[str, NDArray[Any]]
    heads: Mapping[str, int]


def pairs(of: Mapping[int, Sequence[Tower]], count: int) -> Iterator[Pair]:
    """So many pairs, always the same ones."""
    generator = np.random.default_rng(0)
    names = list(NAMES)
    for number in range(count):
        width = int(generator.choice([width for width in WIDTHS if len({one.heads for one in of[width]}) > 1]))
        first = of[width][generator.integers(len(of[width]))]
        others = [one for one in of[width] if one.heads != first.heads]
        yield _pair(names[number % len(names)], first, others[generator.integers(len(others))], generator)


def _pair(naming: str, first: Tower, second: Tower, generator: np.random.Generator) -> Pair:
    chosen = [_some(tower, generator, 1 if naming == "no numbers" else 4) for tower in (first, second)]
    places = [list(range(len(layers))) for layers in chosen]
    if naming == "one stack, one after the other":
        places[1] = [len(chosen[0]) + place for place in places[1]]
    if naming == "one stack, by turns":
        places = [[2 * place for place in places[0]], [2 * place + 1 for place in places[1]]]
    fused = bool(generator.integers(2))
    tensors: dict[str, NDArray[Any]] = {}
    heads: dict[str, int] = {}
    for tower, layers, pattern, numbers in zip((first, second), chosen, NAMES[naming], places, strict=True):
        for layer, number in zip(layers, numbers, strict=True):
            name = pattern.format(number)
            tensors |= stored(name, layer, fused=fused)
            heads[name] = tower.heads
    kind = "fused" if fused else "apart"
    label = f"{naming}, {kind}: {first.label} ({first.heads}) and {second.label} ({second.heads})"
    return Pair(label, tensors, heads)


def _some(tower: Tower, generator: np.random.Generator, most: int) -> list[cases.Layer]:
    count = int(generator.integers(1, min(most, len(tower.layers)) + 1))
    return [tower.layers[i] for i in sorted(generator.permutation(len(tower.layers))[:count])]


def stored(name: str, layer: cases.Layer, *, fused: bool) -> dict[str, NDArray[Any]]:
    """The tensors of a layer under the names of nn.MultiheadAttention, or of separate projections."""
    found = {f"{name}.out_proj.weight": np.ascontiguousarray(layer.out)}
    if fused:
        found[f"{name}.in_proj_weight"] = np.concatenate([layer.weights[part] for part in "qkv"])
        found[f"{name}.in_proj_bias"] = np.concatenate([layer.biases[part] for part in "qkv"])
        return found
    for part in "qkv":
        found[f"{name}.{part}_proj.weight"] = np.ascontiguousarray(layer.weights[part])
        found[f"{name}.{part}_proj.bias"] = layer.biases[part]
    return found


@dataclass
class Count:
    """Of layers without a config, and with one that is right for one of the towers."""

    decided: int = 0
    undetermined: int = 0
    contradicted: int = 0
    wrong: int = 0


def judge(pair: Pair, path: Path, count: Count) -> list[str]:
    """Ask about a pair with no config, and with the first tower's heads; what is wrong, in words."""
    save_file(dict(pair.tensors), path)
    wrong = [line for line in map(_without_config(pair, count), _all(cases.weigh(path), pair)) if line]
    claim = next(iter(pair.heads.values()))
    wrong += [line for line in _with_config(pair, cases.weigh(path, claim=claim), claim, count) if line]
    count.wrong += len(wrong)
    return [f"{pair.label}: {line}" for line in wrong]


def _all(report: Report, pair: Pair) -> Sequence[Attention]:
    assert {one.layer for one in report.attentions} == pair.heads.keys()
    return report.attentions


def _without_config(pair: Pair, count: Count) -> Any:
    def judged(one: Attention) -> str:
        if one.heads is None:
            count.undetermined += 1
            return ""
        if one.heads.num_heads != pair.heads[one.layer]:
            return f"{one.layer} has {pair.heads[one.layer]} heads, not {one.heads.num_heads}"
        count.decided += 1
        return ""

    return judged


def _with_config(pair: Pair, report: Report, claim: int, count: Count) -> Iterator[str]:
    evidence = {one.layer: one.evidence for one in report.attentions}
    for finding in report.findings:
        if finding.code not in AGAINST_WEIGHTS:
            continue
        assert finding.layer is not None
        own = evidence[finding.layer]
        truth = pair.heads[finding.layer]
        if truth == claim or finding.code != "heads-against-weights":
            yield f"{finding.layer}: {finding.message}"
        elif own is None or own.heads is None or own.heads.best.num_heads != truth:
            yield f"{finding.layer} has {truth} heads: {finding.message}"
        else:
            count.contradicted += 1
