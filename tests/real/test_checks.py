"""Faults that reached releases, made anew in trained checkpoints by others: check names them, and is silent before."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Result
from tests.real import wheels
from tests.real.test_real import ANARCII, SCEPTR, VARIANTS, folder

State = dict[str, torch.Tensor]

ALBERT = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
LAYER = "encoder.albert_layer_groups.0.albert_layers.0.attention"


def checked(run: Any, path: Path, *options: object) -> list[tuple[str, str, str | None]]:
    return [one for one in findings(run("check", path, "--format", "json", *options)) if one[1] != "info"]


def findings(result: Result) -> list[tuple[str, str, str | None]]:
    (found,) = result.json()["checkpoints"]
    assert found["error"] is None
    return [(one["code"], one["severity"], one["layer"]) for one in found["findings"]]


@pytest.mark.parametrize("variant", wheels.spared(VARIANTS, ("SCEPTR",)))
def test_sceptr_is_sound(variant: str, run: Any) -> None:
    assert checked(run, folder("sceptr") / SCEPTR / variant) == []


COLLAPSED = {
    "decoder.layers.0.self_attention.multihead_attn": "V",
    "decoder.layers.0.encoder_attention.multihead_attn": "Q V",
}
"""What attends from one position only has no use for more than one direction."""


@pytest.mark.parametrize("file", wheels.spared(ANARCII, wheels.KINDS))
def test_anarcii_is_sound_but_for_a_decoder_of_one_position(file: str, run: Any) -> None:
    path = folder("anarcii") / "anarcii" / file
    expected = [("rank-collapse", layer) for layer, parts in COLLAPSED.items() for _ in parts.split()]
    quick = ["--no-evidence"] if "classifii" in file else []  # test_verdicts.py asks its weights
    result = run("check", path, "--format", "json", *quick)
    noted = findings(result)
    assert result.code == 0
    assert {severity for _, severity, _ in noted} <= {"info"}
    found = [(code, layer) for code, _, layer in noted if code == "rank-collapse"]
    assert found == (expected if "classifii" in file else [])
    if found:
        state = torch.load(path, weights_only=True, map_location="cpu")
        weight = state["decoder.layers.0.self_attention.multihead_attn.in_proj_weight"].double()
        for head in weight[256:].split(32):
            values = torch.linalg.svdvals(head)
            assert (values**2).sum() < 1.05 * values[0] ** 2


OTHERS = [
    *(("sapiens", f"sapiens/models/v1/checkpoint_{kind}.pt") for kind in ("vh", "vl")),
    ("rxnmapper", f"{ALBERT}/pytorch_model.bin"),
    ("soltrannet", "soltrannet/soltrannet_aqsol_trained.weights"),
]


@pytest.mark.parametrize(("wheel", "file"), wheels.spared(OTHERS, wheels.KINDS))
def test_others_are_sound(wheel: str, file: str, run: Any) -> None:
    assert checked(run, folder(wheel) / file) == []


@pytest.fixture
def sceptr(tmp_path: Path) -> Callable[..., Path]:
    """A changed copy of SCEPTR, 3 layers of 8 heads of 8, its config beside it."""

    def write(change: Callable[[State], Any]) -> Path:
        shutil.copytree(folder("sceptr") / SCEPTR / "SCEPTR", tmp_path / "copy")
        path = tmp_path / "copy" / "state_dict.pt"
        state = torch.load(path, weights_only=True, map_location="cpu")
        change(state)
        torch.save(state, path)
        return tmp_path / "copy"

    return write


def in_proj(state: State) -> list[str]:
    return [name for name in state if name.endswith("in_proj_weight")]


def test_rows_of_v_written_to_k(sceptr: Any, run: Any) -> None:
    """huggingface/transformers#40253."""

    def change(state: State) -> str:
        name = in_proj(state)[1]
        state[name][64:128] = state[name][128:]
        return name

    path = folder("sceptr") / SCEPTR / "SCEPTR" / "state_dict.pt"
    name = in_proj(torch.load(path, weights_only=True))[1]
    assert ("equal-parts", "error", name.removesuffix(".in_proj_weight")) in checked(
        run, sceptr(change), "--no-evidence"
    )


def test_zeros_for_k_and_v(tmp_path: Path, run: Any) -> None:
    """TransformerLensOrg/TransformerLens#1620."""
    state = torch.load(folder("rxnmapper") / ALBERT / "pytorch_model.bin", weights_only=True, map_location="cpu")
    (key,) = (name for name in state if name.endswith("attention.key.weight"))
    for part in ("key", "value"):
        state[key.replace("key", part)] = torch.zeros_like(state[key])
    torch.save(state, tmp_path / "model.pt")
    found = checked(run, tmp_path / "model.pt", "--heads", "8", "--no-evidence")
    assert [(code, severity) for code, severity, _ in found if code == "zero-part"] == [("zero-part", "error")] * 2
    assert key.removesuffix(".key.weight") in {layer for _, _, layer in found}


@pytest.mark.gate
def test_heads_that_were_not_taken_apart(sceptr: Any, run: Any) -> None:
    """Rows per head, q k v in turn, under the name of blocks: as a Megatron checkpoint that was only renamed."""

    def change(state: State) -> None:
        for name in in_proj(state):
            for key in (name, name.replace("weight", "bias")):
                parts = state[key].view(3, 8, 8, -1)
                state[key] = parts.transpose(0, 1).reshape(state[key].shape).contiguous()

    path = sceptr(change)
    found = checked(run, path)
    assert [(code, severity) for code, severity, _ in found] == [("packing-against-weights", "error")] * 3
    assert len({layer for *_, layer in found}) == 3
    hint = run("check", path).out.partition("look closer:\n")[2].partition("\n")[0]
    looked = run(*shlex.split(hint.partition("qkvinspect ")[2].replace("PATH", str(path))))
    assert looked.code == 0
    assert "the weights say" in looked.out


@pytest.mark.gate
def test_one_layer_whose_heads_were_not_taken_apart(sceptr: Any, run: Any) -> None:
    """The layers of a stack are weighed together: this one is told by itself."""

    def change(state: State) -> None:
        name = in_proj(state)[1]
        for key in (name, name.replace("weight", "bias")):
            state[key] = state[key].view(3, 8, 8, -1).transpose(0, 1).reshape(state[key].shape).contiguous()

    (found,) = checked(run, sceptr(change))
    assert found[:2] == ("packing-against-weights", "error")
    assert found[2] is not None
    assert found[2].endswith("layers.1.self_attn")


def test_a_matrix_the_other_way_round(tmp_path: Path, run: Any) -> None:
    """Q, K and V of a BERT written as Conv1D writes them: square, so they load."""
    state = torch.load(folder("rxnmapper") / ALBERT / "pytorch_model.bin", weights_only=True, map_location="cpu")
    for name in state:
        if name.endswith(("query.weight", "key.weight", "value.weight", "attention.dense.weight")):
            state[name] = state[name].t().contiguous()
    torch.save(state, tmp_path / "model.pt")
    found = checked(run, tmp_path / "model.pt", "--heads", "8")
    assert [(code, severity) for code, severity, _ in found] == [("orientation-against-weights", "error")]


def test_a_wrong_number_of_heads(sceptr: Any, run: Any) -> None:
    found = checked(run, sceptr(lambda _: None), "--heads", "4")
    assert {code for code, severity, _ in found if severity == "error"} == {"heads-against-weights"}


def test_a_model_that_was_not_read_to_its_end(sceptr: Any, run: Any) -> None:
    """Half of a layer NaN, as memory that was never written may be."""

    def change(state: State) -> None:
        state[in_proj(state)[2]][96:] = torch.nan

    found = checked(run, sceptr(change), "--no-evidence")
    assert [code for code, _, _ in found].count("nonfinite") == 2
