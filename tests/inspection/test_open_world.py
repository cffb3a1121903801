"""What earlier versions did not find and said nothing of: each is found with its rows, or said to be not understood."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

E, H, D = 48, 4, 12
Shapes = Mapping[str, tuple[int, ...]]


def linear(layer: str, *names: str, shape: tuple[int, ...] = (E, E)) -> Shapes:
    return {f"{layer}.{name}.weight": shape for name in names}


def save(folder: Path, shapes: Shapes) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def asked(folder: Path, run: Any, shapes: Shapes) -> Any:
    return run("show", save(folder, shapes), "--no-norms", "-f", "json").json()


@pytest.mark.parametrize(
    ("layer", "names", "shape"),
    [
        ("enc.att_stack.0", ("q_linear", "k_linear", "v_linear"), (E, E)),
        ("dec.0.self_attention", ("fc_q", "fc_k", "fc_v", "fc_o"), (E, E)),
        ("enc.0.slf_attn", ("w_qs", "w_ks", "w_vs", "fc"), (E, E)),
        ("blks.0.attention", ("W_q", "W_k", "W_v", "W_o"), (E, E)),
        ("encoders.0.self_attn", ("linear_q", "linear_k", "linear_v", "linear_out"), (E, E)),
        ("l.0.attn", ("q_proj.linear", "k_proj.linear", "v_proj.linear", "o_proj.linear"), (E, E)),
        ("l.0.attn", ("query.proj", "key.proj", "value.proj"), (E, E)),
        ("l.0.attn", ("q.conv", "k.conv", "v.conv"), (E, E, 1, 1)),
        ("l.0.attn", ("to_q.net.2", "to_k.net.2", "to_v.net.2", "to_out.net.2"), (E, E)),
        ("decoder.mid.attn_1", ("q", "k", "v", "proj_out"), (E, E, 1, 1)),
        ("l.0.self_attn", ("query", "key", "value"), (E, E)),
        ("l.0.attn", ("wq", "wk", "wv", "wo"), (E, E)),
        ("l.0.sa.heads.2", ("query", "key", "value"), (D, E)),
    ],
)
def test_each_part_is_the_tensor_that_its_name_says(
    tmp_path: Path, run: Any, layer: str, names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    (found,) = asked(tmp_path, run, linear(layer, *names, shape=shape))["attentions"]
    assert found["layer"] == layer
    assert {part: found["tensors"][part] for part in "qkv"} == {
        part: f"{layer}.{name}.weight" for part, name in zip("qkv", names, strict=False)
    }
    assert all(found[part]["rows"] == [[0, shape[0]]] for part in "qkv")


def test_three_axes_are_heads(tmp_path: Path, run: Any) -> None:
    shapes = {f"l.0.attn.W_{part}": (H, E, D) for part in "QKV"} | {"l.0.attn.W_O": (H, D, E), "l.0.ln.w": (E,)}
    (found,) = asked(tmp_path, run, shapes)["attentions"]
    assert (found["num_heads"], found["head_dim"]) == (H, D)


@pytest.mark.parametrize(
    ("names", "why"), [(("q_proj", "o_proj"), "q alone"), (("k_proj", "v_proj", "o_proj"), "k and v alone")]
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside a whole one", "alone"])
def test_parts_alone_are_said(tmp_path: Path, run: Any, names: tuple[str, ...], why: str, beside: bool) -> None:
    whole = linear("l.0.attn", "q_proj", "k_proj", "v_proj", "o_proj") if beside else {}
    told = asked(tmp_path, run, {**whole, **linear("l.1.attn", *names)})
    assert [found["layer"] for found in told["attentions"]] == ["l.0.attn"] * beside
    code = "missing-projection" if beside and "k_proj" in names else "unrecognised-attention"
    (said,) = (one for one in told["findings"] if one["code"] == code)
    assert said["layer"] == "l.1.attn"
    assert why in said["message"]


def test_the_row_for_q_alone_leaves_whole_layers_as_they_are(tmp_path: Path, run: Any) -> None:
    """A layer that takes K and V of an earlier one. What is printed is used as it stands."""
    whole, alone = linear("l.0.attn", "q_proj", "k_proj", "v_proj", "o_proj"), linear("l.1.attn", "q_proj", "o_proj")
    path = save(tmp_path, {**whole, **alone})
    lines = run("show", path, "--no-norms").out.splitlines()
    (row,) = tomllib.loads("\n".join(lines[lines.index("  [[layout]]  # it has no K and V of its own") :]))["layout"]
    inline = "{ " + ", ".join(f'{key} = "{row[key]}"' for key in row) + " }"
    found = run("show", path, "--no-norms", "--layout", inline, "-f", "json").json()["attentions"]
    assert [(one["layer"], one["found_by"]) for one in found] == [("l.0.attn", "layout"), ("l.1.attn", "settings")]
    assert [part for part in "qkv" if found[0].get(part)] == ["q", "k", "v"]


@pytest.mark.parametrize(
    "shapes",
    [
        linear("moco.attn_pool", "encoder_q", "out"),
        linear("l.attn", "q_norm", "o_proj"),
        linear("l.attn", "q_proj", "o_proj") | {"l.attn.sampling_offsets.weight": (E, E)},
        linear("agent", "q", "out"),
    ],
    ids=["a network", "a norm", "deformable", "a critic"],
)
def test_nothing_is_said_of_a_q_that_is_no_query(tmp_path: Path, run: Any, shapes: Shapes) -> None:
    told = asked(tmp_path, run, shapes)
    assert told["attentions"] == []
    assert [one["code"] for one in told["findings"] if one["code"] == "unrecognised-attention"] == []
