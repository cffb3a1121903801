"""Heads that share one of K and V, in one tensor: in any order, written once for each head, and where V may be wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.notices import about_evidence
from qkvinspect.inspection.report import Report
from qkvinspect.inspection.verdict import Evidence, Verdict, Weighed
from qkvinspect.layouts.packing import Geometry, Packing, split_rows
from tests.evidence import cases

WIDTH, LAYERS, RANK = 128, 2, 8
SHARED = Geometry(8, 2, 16)
ALONE = Geometry(8, 8, 16)
NAMES = {
    "qkv": ("blocks.{}.attn.qkv.weight", "blocks.{}.attn.proj.weight"),
    "in_proj": ("layers.{}.self_attn.in_proj_weight", "layers.{}.self_attn.out_proj.weight"),
    "no words": ("net.{}.my_qkv_mat.weight", "net.{}.my_out.weight"),
}

Array = np.ndarray


def parts(seed: int, sizes: Geometry) -> dict[str, Array]:
    """What training leaves: rows of Q are alike as those of its K are, columns of the output as rows of its V are."""
    rng = np.random.default_rng(seed)

    def drawn(heads: int) -> Array:
        return rng.normal(0, 0.04, (heads, sizes.head_dim, WIDTH))

    def tied(rows: Array) -> Array:
        return rows @ rng.normal(0, 0.1, (RANK, WIDTH))

    q, k, v, o = (drawn(sizes.heads(part)) for part in "qkvq")
    each = sizes.num_heads // sizes.num_kv_heads
    for kv_head in range(sizes.num_kv_heads):
        qk, vo = (rng.normal(0, 0.15, (sizes.head_dim, RANK)) for _ in range(2))
        k[kv_head] += tied(qk)
        v[kv_head] += tied(vo)
        for head in range(kv_head * each, (kv_head + 1) * each):
            q[head] += tied(qk)
            o[head] += tied(vo)
    return {"q": q, "k": k, "v": v, "o": o.reshape(-1, WIDTH).T}


def again(parts: dict[str, Array], each: int) -> dict[str, Array]:
    """With K and V written once for each head."""
    return parts | {part: parts[part].repeat(each, axis=0) for part in "kv"}


def total(sizes: Geometry) -> int:
    return sum(sizes.head_dim * sizes.heads(part) for part in "qkv")


def rows(packing: Packing, sizes: Geometry) -> dict[str, list[list[int]]]:
    return {part: [sorted(run) for run in runs] for part, runs in split_rows(packing, sizes, total(sizes)).items()}


def written(path: Path, names: str, packing: Packing, sizes: Geometry, layers: list[dict[str, Array]]) -> Path:
    tensors: dict[str, Array] = {}
    for number, layer in enumerate(layers):
        packed, out = (name.format(number) for name in NAMES[names])
        tensors[packed] = np.empty((total(sizes), WIDTH), np.float32)
        for part, runs in rows(packing, sizes).items():
            for run, head in zip(runs, layer[part], strict=True):
                tensors[packed][run] = head
        tensors[out] = np.ascontiguousarray(layer["o"], np.float32)
    save_file(tensors, path)
    return path


def said(report: Report) -> list[dict[str, list[list[int]]]]:
    """The rows of each part's heads, of those layers of which they are told."""
    told = [one for one in report.attentions if one.layout is not None and one.heads is not None]
    return [{part.name: [sorted(run) for run in part.heads] for part in one.parts} for one in told]


@pytest.mark.parametrize("order", ["qkv", "kqv", "qvk", "vqk", "kvq", "vkq"])
@pytest.mark.parametrize("names", ["qkv", "no words"])
def test_in_blocks_of_any_order_nothing_else_is_told(tmp_path: Path, names: str, order: str) -> None:
    packing = Packing(tuple(order))
    layers = [parts(seed, SHARED) for seed in range(LAYERS)]
    report = cases.weigh(written(tmp_path / "m.safetensors", names, packing, SHARED, layers))
    assert len(report.attentions) == LAYERS
    assert all(one == rows(packing, SHARED) for one in said(report))
    if order == "qkv":
        assert said(report)
        return
    told = [finding.message for finding in report.findings if "none of these" in finding.message]
    assert len(told) == LAYERS
    assert all(f"what the weights say, {', '.join(order)} in blocks (" in text for text in told)


@pytest.mark.parametrize("order", ["qkv", "kqv"])
def test_in_groups_the_place_of_k_is_not_told_by_heads_that_are_all_alike(tmp_path: Path, order: str) -> None:
    packing = Packing(tuple(order), groups="kv_heads")
    layers = [parts(seed, SHARED) for seed in range(LAYERS)]
    report = cases.weigh(written(tmp_path / "m.safetensors", "no words", packing, SHARED, layers))
    assert len(report.attentions) == LAYERS
    assert said(report) == []
    assert not any("none of these" in finding.message for finding in report.findings)


def test_a_layout_in_groups_is_not_contradicted_by_the_place_of_k(tmp_path: Path) -> None:
    declared, other = "q, k, v per kv head", "k, q, v per kv head"
    packing = Packing(("q", "k", "v"), groups="kv_heads")
    (one,) = cases.weigh(written(tmp_path / "m.safetensors", "qkv", packing, SHARED, [parts(0, SHARED)])).attentions
    for best, contradicted in ((other, False), ("v, q, k per kv head", True)):
        weighed = (Weighed(best, 8, 900.0), Weighed(declared, 8, 0.0))
        packings = Verdict(weighed, ("a",), 1.0, 1.0, True)
        told = [*about_evidence(one, Evidence(None, packings, as_declared=False), declared)]
        assert [finding.code for finding in told] == [FindingCode.PACKING_AGAINST_WEIGHTS] * contradicted


@pytest.mark.parametrize("claim", [None, 8])
@pytest.mark.parametrize("groups", ["one", "heads"])
def test_of_k_and_v_written_once_for_each_head_nothing_is_told(tmp_path: Path, groups: str, claim: int | None) -> None:
    packing = Packing(("q", "k", "v"), groups=groups)
    layers = [again(parts(seed, SHARED), 4) for seed in range(LAYERS)]
    names = "in_proj" if groups == "one" else "no words"
    report = cases.weigh(written(tmp_path / "m.safetensors", names, packing, ALONE, layers), claim=claim)
    assert all(one == rows(packing, ALONE) for one in said(report))
    assert all(one.evidence is None or one.evidence.heads is None for one in report.attentions)
    codes = {finding.code for finding in report.findings}
    assert codes.isdisjoint({FindingCode.PACKING_AGAINST_WEIGHTS, FindingCode.HEADS_AGAINST_WEIGHTS})
    assert not any("the weights say" in finding.message for finding in report.findings)


@pytest.mark.parametrize("names", ["qkv", "no words"])
def test_alternating_heads_of_alternating_rows_are_told_from_longer_heads(tmp_path: Path, names: str) -> None:
    packing = Packing(("q", "k", "v"), groups="rows", slot_innermost=True)
    layers = [parts(seed, ALONE) for seed in range(LAYERS)]
    report = cases.weigh(written(tmp_path / "m.safetensors", names, packing, ALONE, layers))
    assert len(report.attentions) == LAYERS
    assert said(report) == []
    told = " ".join(finding.message for finding in report.findings)
    assert "v row by row, heads in turn" in told
