"""Rows that a name or a shape suggests wrongly, against the lines of each library's forward that take them apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.test_patterns import report

E, H, D, N = 32, 4, 8, 5
State = Mapping[str, Tensor]
Heads = Mapping[str, Tensor]
"""For each part [heads, N, rows of a head]."""


@dataclass(frozen=True)
class Case:
    """What is stored, and what the library's forward makes of it.

    Attributes:
        forward: from what is stored and tokens [N, columns] to the heads of each part; the lines of the source.
        layer: where the module is.
        config: what lies beside the file.
        heads: whether their number is given, since nothing else tells it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    forward: Callable[[State, Tensor], Heads]
    layout: str
    layer: str = "attn"
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    heads: bool = False


def _heads(part: Tensor, heads: int = H) -> Tensor:
    """Blocks: view(N, heads, -1).transpose."""
    return part.view(N, heads, -1).transpose(0, 1)


def _image(tokens: Tensor) -> Tensor:
    return tokens.T.reshape(1, -1, N, 1)


def speechbrain_self(state: State, tokens: Tensor) -> Heads:
    projected = torch.nn.functional.linear(tokens, state["mha_layer.in_proj_weight"])
    q, k, v = projected.view(N, H, D * 3).chunk(3, dim=-1)
    return {"q": q.transpose(0, 1), "k": k.transpose(0, 1), "v": v.transpose(0, 1)}


def axk2(state: State, tokens: Tensor) -> Heads:
    q, _ = torch.split((tokens @ state["attn.q_b_proj.weight"].T).view(N, H, 12 + D), [12, D], dim=-1)
    k, v = torch.split((tokens @ state["attn.kv_b_proj.weight"].T).view(N, H, 6 + D), [6, D], dim=-1)
    return {"q": q.transpose(0, 1), "k": k.transpose(0, 1), "v": v.transpose(0, 1)}


def gemma4(state: State, tokens: Tensor) -> Heads:
    k = _heads(tokens @ state["self_attn.k_proj.weight"].T, 2)
    return {"q": _heads(tokens @ state["self_attn.q_proj.weight"].T), "k": k, "v": k}


def bottleneck(state: State, tokens: Tensor) -> Heads:
    q, k, v = torch.split(conv2d(_image(tokens), state["attn.qkv.weight"]), [16, 16, 32], dim=1)
    return {"q": q.reshape(H, 4, N).mT, "k": k.reshape(H, 4, N).mT, "v": v.reshape(H, 8, N).mT}


def mmaudio(state: State, tokens: Tensor) -> Heads:
    y = torch.nn.functional.conv1d(tokens.T[None], state["mid.attn_1.qkv.weight"]).reshape(1, 1, -1, 3, N)
    q, k, v = y.unbind(3)
    return {"q": q[0].mT, "k": k[0].mT, "v": v[0].mT}


def gcvit_global(state: State, tokens: Tensor) -> Heads:
    kv = (tokens @ state["stages.0.blocks.1.attn.qkv.weight"].T).reshape(1, N, 2, H, D).permute(2, 0, 3, 1, 4)
    k, v = kv.unbind(0)
    return {"k": k[0], "v": v[0]}


def mobilevitv2(state: State, tokens: Tensor) -> Heads:
    q, k, v = conv2d(_image(tokens), state["attn.qkv_proj.weight"]).split([1, E, E], dim=1)
    return {"q": q.reshape(1, 1, N).mT, "k": k.reshape(1, E, N).mT, "v": v.reshape(1, E, N).mT}


def stable_audio3(state: State, tokens: Tensor) -> Heads:
    """The second sub-heads of all heads come behind the first."""
    q1, q2, k1, k2, v = (tokens @ state["self_attn.to_qkv.weight"].T).chunk(5, dim=-1)
    q, k = (torch.cat([_heads(one), _heads(other)]) for one, other in ((q1, q2), (k1, k2)))
    return {"q": q, "k": k, "v": _heads(v)}


def davit_channel(state: State, tokens: Tensor) -> Heads:
    """softmax(k v) applied to q, in the library's words."""
    qkv = (tokens @ state["blocks.0.1.attn.qkv.weight"].T).reshape(1, N, 3, H, D).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return {"q": k[0], "k": v[0], "v": q[0]}


def sep_vit_windows(state: State, tokens: Tensor) -> Heads:
    projected = tokens @ state["window_tokens_to_qk.3.weight"].flatten(1).T
    q, k = projected.T.reshape(H, 2 * D, N).mT.chunk(2, dim=-1)  # b (h c) n -> b h n c
    return {"q": q, "k": k}


def yolo11(state: State, tokens: Tensor) -> Heads:
    """Attention.forward, whose K has half of V's rows."""
    qkv = conv2d(_image(tokens), state["m.0.attn.qkv.conv.weight"]).view(1, H, 2 * D // 2 + D, N)
    q, k, v = qkv.split([D // 2, D // 2, D], dim=2)
    return {"q": q[0].mT, "k": k[0].mT, "v": v[0].mT}


_RELPOS = {"mha_layer.pos_bias_u": (D, H), "mha_layer.pos_bias_v": (D, H), "mha_layer.linear_pos.weight": (E, E)}
_SPEECHBRAIN = {"mha_layer.in_proj_weight": (3 * E, E), "mha_layer.out_proj.weight": (E, E),
                "mha_layer.out_proj.bias": (E,)}  # fmt: skip
_LAYERS = "encoder.layers.0."
_TABLE = "stages.0.blocks.1.attn.rel_pos.relative_position_bias_table"

CASES: dict[str, Case] = {
    "speechbrain RelPosMHAXL": Case(_SPEECHBRAIN | _RELPOS, speechbrain_self, "speechbrain-relpos-self-layer",
                                    "mha_layer"),
    "speechbrain RoPEMHA": Case(_SPEECHBRAIN, speechbrain_self, "speechbrain-rope-self-layer", "mha_layer",
                                heads=True),
    "latent attention with a gate": Case(
        {"attn.kv_b_proj.weight": (H * (6 + D), E), "attn.kv_a_proj_with_mqa.weight": (E + 6, E),
         "attn.q_a_proj.weight": (E // 2, E), "attn.q_b_proj.weight": (H * (12 + D), E),
         "attn.o_proj.weight": (E, H * D)}, axk2, "mla-gated", config={"num_attention_heads": H, "model_type": "axk2"}),
    "keys that are values": Case(
        {"self_attn.q_proj.weight": (E, E), "self_attn.k_proj.weight": (2 * D, E), "self_attn.o_proj.weight": (E, E),
         "self_attn.q_norm.weight": (D,), "self_attn.k_norm.weight": (D,),
         "layer_scalar": (1,)}, gemma4, "k-is-v", "self_attn"),
    "V wider than Q and K": Case(
        {"attn.qkv.weight": (64, E, 1, 1), "attn.pos_embed.height_rel": (9, 4), "attn.pos_embed.width_rel": (9, 4)},
        bottleneck, "timm-bottleneck"),
    "rows one by one": Case(
        {"mid.attn_1.qkv.weight": (3 * E, E, 1), "mid.attn_1.proj_out.weight": (E, E, 1)}, mmaudio, "mmaudio-vae",
        "mid.attn_1"),
    "GCViT's global windows, though the config names the model": Case(
        {"stages.0.blocks.1.attn.qkv.weight": (2 * E, E), "stages.0.blocks.1.attn.proj.weight": (E, E),
         _TABLE: (9, H)}, gcvit_global, "timm-gcvit-global", "stages.0.blocks.1.attn",
        {"architecture": "gcvit_tiny"}),
    "MobileViT V2": Case({"attn.qkv_proj.weight": (1 + 2 * E, E, 1, 1), "attn.out_proj.weight": (E, E, 1, 1)},
                         mobilevitv2, "mobilevitv2"),
    "Stable Audio 3": Case(
        {"self_attn.to_qkv.weight": (5 * E, E), "self_attn.to_out.weight": (E, E), "self_attn.q_norm.gamma": (D,)},
        stable_audio3, "stable-audio3", "self_attn"),
    "DaViT's attention over channels": Case(
        {"blocks.0.1.attn.qkv.weight": (3 * E, E), "blocks.0.1.attn.proj.weight": (E, E),
         "blocks.0.1.cpe1.proj.weight": (E, 1, 3, 3)}, davit_channel, "timm-davit-channel", "blocks.0.1.attn",
        heads=True),
    "YOLO11": Case(
        {"m.0.attn.qkv.conv.weight": (2 * E, E, 1, 1), "m.0.attn.proj.conv.weight": (E, E, 1, 1),
         "m.0.attn.pe.conv.weight": (E, 1, 3, 3)}, yolo11, "ultralytics-psa", "m.0.attn", heads=True),
    "SepViT between windows": Case(
        {"window_tokens_to_qk.3.weight": (2 * E, E, 1), "window_tokens_to_qk.0.weight": (D,),
         "to_qkv.weight": (3 * E, E, 1)}, sep_vit_windows, "sep-vit-windows", "window_tokens_to_qk"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_that_the_forward_takes(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    prefix = _LAYERS if case.layer == "mha_layer" else ""
    state = {key: torch.randn(shape) for key, shape in case.shapes.items()}
    save_file({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "model.safetensors")
    if case.config:
        (tmp_path / "config.json").write_text(json.dumps(case.config))
    options = Options(norms=False, heads=(str(H),) if case.heads else ())
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        found = inspect(checkpoint, options)
    attention = next(one for one in found.attentions if one.layer == prefix + case.layer)
    assert attention.layout is not None
    assert attention.layout.id == case.layout
    tokens = torch.randn(N, E)
    expected = case.forward(state, tokens)
    assert {part.name for part in attention.parts} == set(expected)
    for part in attention.parts:
        matrix = state[part.weight.name.removeprefix(prefix)].flatten(1)
        mine = torch.stack([tokens @ matrix[rows.start : rows.stop : rows.step].T for rows in part.heads])
        torch.testing.assert_close(mine, expected[part.name])


BLOCKS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, list[range]]]] = {
    "one tensor, V as wide as the output projection reads": (
        {"l.attn.my_qkv.weight": (144, 48), "l.attn.proj.weight": (48, 48)},
        {"q": [range(48)], "k": [range(48, 96)], "v": [range(96, 144)]},
    ),
    "one tensor, fewer kv heads": (
        {"l.attn.my_qkv.weight": (96, 48), "l.attn.proj.weight": (48, 48)},
        {"q": [range(48)], "k": [range(48, 72)], "v": [range(72, 96)]},
    ),
    "one tensor for K and V": (
        {"l.attn.my_q.weight": (48, 48), "l.attn.my_kv.weight": (24, 48), "l.attn.proj.weight": (48, 48)},
        {"q": [range(48)], "k": [range(12)], "v": [range(12, 24)]},
    ),
}


@pytest.mark.parametrize(("shapes", "rows"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_are_cut_whatever_the_number_of_heads(
    shapes: dict[str, tuple[int, ...]], rows: dict[str, list[range]]
) -> None:
    """The output projection reads V of all heads, so that its width tells where V begins."""
    told = report(shapes, layouts=(("*", "pattern-blocks"),))
    (attention,) = told.attentions
    assert attention.heads is None
    assert {part.name: list(part.rows) for part in attention.parts} == rows


@pytest.mark.parametrize("how", ["per-head", "row-by-row"])
def test_other_packings_are_not_cut_without_the_heads(how: str) -> None:
    told = report(next(iter(BLOCKS.values()))[0], layouts=(("*", f"pattern-{how}"),))
    assert told.attentions[0].parts == ()
    assert [finding.code for finding in told.findings] == ["heads-needed"]
