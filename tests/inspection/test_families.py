"""Names and shapes of real libraries (tests/families) lead to the attention that those libraries have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from tests.batches import batched

FAMILIES = sorted((Path(__file__).parent.parent / "families").glob("*.json"))
ROLES = ("q", "k", "v", "q_bias", "k_bias", "v_bias", "out")


def _report(family: dict[str, Any]) -> Report:
    tensors = {
        name: TensorInfo(name, DTYPES[dtype], tuple(shape), contiguous_strides(tuple(shape)), Region(None, 0, 0))
        for name, (dtype, shape) in family["tensors"].items()
    }
    configs = (Config("config:config.json", family["config"]),) if family["config"] else ()
    return inspect(Checkpoint("model", "test", 0, tensors, configs=configs), Options(norms=False))


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@batched("path", FAMILIES)
def test_the_attention_of_a_family_is_found(path: Path) -> None:
    family = _load(path)
    latent = {name for layer in family.get("mla_layers", ()) for name in layer["weights"]}
    found = {
        attention.tensors.get("q", attention.layer): attention
        for attention in _report(family).attentions
        if attention.weights[0].name not in latent
    }
    assert found.keys() == {truth["q"] for truth in family["attentions"]}
    for truth in family["attentions"]:
        tensors = found[truth["q"]].tensors
        assert {role: tensors.get(role) for role in ROLES} == {role: truth[role] for role in ROLES}


@batched("path", FAMILIES)
def test_head_counts_are_true_or_unknown(path: Path) -> None:
    family = _load(path)
    truths = {truth["q"]: truth for truth in family["attentions"]}
    for attention in _report(family).attentions:
        if family.get("mla"):
            (layer,) = (layer for layer in family["mla_layers"] if layer["layer"] == attention.layer)
            sizes = attention.heads
            assert sizes is not None
            assert (sizes.num_heads, sizes.width("k")) == (layer["num_heads"], layer["qk_nope_head_dim"])
            assert sizes.width("q") == layer["qk_nope_head_dim"] + layer["qk_rope_head_dim"]
            assert sizes.width("v") == layer["v_head_dim"]
            continue
        truth, heads = truths[attention.tensors["q"]], attention.heads
        if heads is None:
            assert truth["num_heads"] in attention.possible_heads
        else:
            expected = (truth["num_heads"], truth["num_kv_heads"], truth["head_dim"])
            assert (heads.num_heads, heads.num_kv_heads, heads.head_dim) == expected


def test_a_config_tells_the_heads_of_every_family_that_has_one() -> None:
    """The image autoencoder's by its class: it has one head."""
    unknown = {
        path.stem
        for path in FAMILIES
        if (family := _load(path))["config"] and any(a.heads is None for a in _report(family).attentions)
    }
    assert unknown == set()


def test_there_are_families_and_decoys() -> None:
    counts = [len(_load(path)["attentions"]) for path in FAMILIES]
    assert sum(counts) >= 130
    assert counts.count(0) >= 13
