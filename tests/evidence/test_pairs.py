"""Tensors that hold two parts, and orders that no name says: trained by others, packed anew."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qkvinspect.layouts.packing import Geometry, Packing, split_rows
from tests.evidence import cases


@pytest.fixture(scope="module")
def small() -> cases.Trained:
    return next(one for one in cases.others(cases.OTHERS[:1]) if one.label == "sceptr/SCEPTR_small")


def _store(one: cases.Trained, path: Path, names: dict[str, Packing], out: str) -> None:
    """Store its layers with these tensors; each is called by its name and holds the parts of its packing."""
    tensors: dict[str, np.ndarray] = {}
    for number, layer in enumerate(cases.layers(one.path)):
        rows, columns = layer.weights["q"].shape
        for name, packing in names.items():
            total = rows * len(packing.order)
            stored = np.zeros((total, columns), np.float32)
            for part, runs in split_rows(packing, Geometry(one.heads, one.heads, rows // one.heads), total).items():
                stored[[row for run in runs for row in run]] = layer.weights[part]
            tensors[f"blocks.{number}.attn.{name}.weight"] = stored
        tensors[f"blocks.{number}.attn.{out}.weight"] = np.ascontiguousarray(layer.out)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("packing", "said"),
    [(Packing(("k", "v")), ""), (Packing(("k", "v"), "heads"), "k, v per head"),
     (Packing(("v", "k")), "v, k in blocks")],
)  # fmt: skip
def test_known_names_whose_kv_is_packed_otherwise(small, tmp_path: Path, packing: Packing, said: str) -> None:
    _store(small, tmp_path / "kv.safetensors", {"to_q": Packing(("q",)), "to_kv": packing}, "to_out")
    report = cases.weigh(tmp_path / "kv.safetensors")
    against = [finding.message for finding in report.findings if finding.code == "packing-against-weights"]
    assert len(against) == (len(report.attentions) if said else 0)
    assert all(f"to_kv.weight is {said}" in message for message in against)
    heads = {one.heads.num_heads if one.heads else None for one in report.attentions}
    assert heads == ({None} if said else {small.heads})


@pytest.mark.parametrize("order", ["vkq", "kvq", "qvk"])
def test_an_order_that_the_name_of_a_pattern_does_not_say(small, tmp_path: Path, order: str) -> None:
    _store(small, tmp_path / "qkv.safetensors", {"W_qkv": Packing(tuple(order))}, "W_out")
    report = cases.weigh(tmp_path / "qkv.safetensors")
    assert {one.layout_from for one in report.attentions} == {"ambiguous"}
    assert not any(one.parts for one in report.attentions)
    both = {", ".join(order), ", ".join(order.translate(str.maketrans("qk", "kq")))}
    for finding in report.findings:
        if finding.code == "ambiguous-layout":
            assert all(words in finding.message for words in both)


def test_a_pair_by_heads_tells_their_number(small, tmp_path: Path) -> None:
    packings = {"to_query": Packing(("q",)), "to_kv": Packing(("k", "v"), "heads")}
    _store(small, tmp_path / "kv.safetensors", packings, "out")
    found = cases.weigh(tmp_path / "kv.safetensors").attentions
    assert {one.layout.id for one in found if one.layout} == {"pattern-per-head"}
    assert {one.heads.num_heads for one in found if one.heads} == {small.heads}
