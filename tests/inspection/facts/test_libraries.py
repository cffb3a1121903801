"""Each library's own files say how many heads there are: made as its code saves them, read from the disk."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qkvinspect.checkpoint import Config
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.facts.test_faults import report, separate, sizes

Heads = tuple[int, int, int] | None
State = dict[str, Tensor]


def apart(layer: str, q: int = 64, kv: int = 64, names: str = "q_proj k_proj v_proj out_proj") -> State:
    """Projections with names of their own: as many rows as given, 64 columns."""
    rows = dict(zip(names.split(), (q, kv, kv, 64), strict=True))
    return {f"{layer}.{name}.weight": torch.zeros(count, 64) for name, count in rows.items()}


def fused(layer: str, rows: int, cols: int, names: str, out: int = 0) -> State:
    packed, proj = names.split()
    return {
        f"{layer}.{packed}.weight": torch.zeros(rows, cols),
        f"{layer}.{proj}.weight": torch.zeros(cols, out or cols),
    }


TRANSLATOR = {
    **apart("encoder.layers.0.self_attn"),
    **apart("decoder.layers.0.self_attn"),
    **apart("decoder.layers.0.encoder_attn"),
}
TUNED = {**apart("w2v_encoder.w2v_model.encoder.layers.0.self_attn"), **apart("decoder.layers.0.self_attn")}
CONFORMER = {
    **apart("encoder.layers.0.self_attn", names="linear_q linear_k linear_v linear_out"),
    **apart("transf_decoder._decoder.layers.0.first_sub_layer", names="query_net key_net value_net out_projection"),
}
WHISPER = {
    **apart("encoder.blocks.0.attn", names="query key value out"),
    **apart("decoder.blocks.0.attn", names="query key value out"),
    **apart("decoder.blocks.0.cross_attn", names="query key value out"),
}
DIMS = {"n_mels": 80, "n_audio_state": 64, "n_audio_head": 4, "n_text_state": 64, "n_text_head": 8, "n_vocab": 100}
ARGS = {
    "num_attention_heads": 8,
    "num_query_groups": 1,
    "group_query_attention": False,
    "kv_channels": 8,
    "hidden_size": 64,
    "qk_head_dim": 128,
    "qk_pos_emb_head_dim": 64,
    "v_head_dim": 128,
    "multi_latent_attention": False,
    "mamba_head_dim": 64,
    "tensor_model_parallel_size": 1,
}
"""Megatron-LM writes out the defaults of all that is switched off."""

CORE = "decoder.layers.0.self_attention", "linear_qkv linear_proj"
VIT = fused("blocks.0.attn", 3 * 768, 768, "qkv proj")
E4D8 = [(4, 4, 16), (8, 8, 8), (8, 8, 8)]
META = {
    **apart("layers.0.attention", 64, 16, "wq wk wv wo"),
    **apart("vision_encoder.transformer.layers.0.attention", names="wq wk wv wo"),
}

SAVED: dict[str, tuple[object, list[Heads]]] = {
    "fairseq, hydra": (
        {"model": TRANSLATOR, "cfg": {"model": {"encoder_attention_heads": 4, "decoder_attention_heads": 8}}},
        E4D8,
    ),
    "fairseq, nested": (
        {"model": TRANSLATOR, "cfg": {"model": {"encoder": {"attention_heads": 4}, "decoder": {"attention_heads": 8}}}},
        E4D8,
    ),
    "fairseq, argparse": (
        {"model": TRANSLATOR, "args": Namespace(encoder_attention_heads=4, decoder_attention_heads=8)},
        E4D8,
    ),
    "fairseq, RoBERTa's decoder is its encoder": (
        {
            "model": apart("decoder.sentence_encoder.layers.0.self_attn"),
            "args": Namespace(arch="roberta_base", encoder_attention_heads=4, encoder_embed_dim=64),
        },
        [(4, 4, 16)],
    ),
    "fairseq, a tuned wav2vec 2.0": (
        {
            "model": TUNED,
            "cfg": {
                "model": {"decoder_attention_heads": 8, "w2v_args": {"model": {"encoder_attention_heads": 4}}},
            },
        },
        [(4, 4, 16), (8, 8, 8)],
    ),
    "megatron, Q, K and V of every head": (
        {"model": fused(CORE[0], 192, 64, CORE[1]), "args": Namespace(**ARGS), "checkpoint_version": 3.0},
        [(8, 8, 8)],
    ),
    "megatron, grouped": (
        {
            "model": fused(CORE[0], 96, 64, CORE[1]),
            "args": Namespace(**ARGS | {"group_query_attention": True, "num_query_groups": 2}),
            "checkpoint_version": 3.0,
        },
        [(8, 2, 8)],
    ),
    "whisper": ({"dims": DIMS, "model_state_dict": WHISPER}, E4D8),
    "nanoGPT": (
        {
            "model": fused("transformer.h.0.attn", 192, 64, "c_attn c_proj"),
            "model_args": {"n_head": 4, "n_embd": 64, "block_size": 32, "n_layer": 1},
        },
        [(4, 4, 16)],
    ),
    "timm's training script": ({"state_dict": VIT, "arch": "vit_base_patch16_224", "epoch": 3}, [(12, 12, 64)]),
    "DeiT's": ({"model": VIT, "args": Namespace(model="deit_base_patch16_224")}, [(12, 12, 64)]),
    "a script whose models timm does not know": ({"model": VIT, "args": Namespace(model="my_vit")}, [None]),
    "Lightning": ({"state_dict": apart("net.self_attn"), "hyper_parameters": {"num_heads": 4}}, [(4, 4, 16)]),
}

BESIDE: dict[str, tuple[str, str, State, list[Heads]]] = {
    "NeMo, speech": (
        "model_config.yaml",
        "{encoder: {d_model: 64, n_heads: 4}, transf_decoder: {config_dict: {num_attention_heads: 8}}}\n",
        CONFORMER,
        [(4, 4, 16), (8, 8, 8)],
    ),
    "NeMo, text": (
        "model_config.yaml",
        "{hidden_size: 64, num_attention_heads: 8, num_query_groups: 4, kv_channels: null}\n",
        fused("model.decoder.layers.0.self_attention", 128, 64, "linear_qkv linear_proj"),
        [(8, 4, 8)],
    ),
    "litgpt": (
        "model_config.yaml",
        "{n_head: 8, n_query_groups: 2, head_size: 16, n_embd: 64, mlp_class_name: LLaMAMLP}\n",
        fused("transformer.h.0.attn", 192, 64, "qkv proj", 128),
        [(8, 2, 16)],
    ),
    "litgpt, before it was renamed": (
        "lit_config.json",
        json.dumps({"n_head": 8, "n_query_groups": 2, "head_size": 16, "n_embd": 64}),
        fused("transformer.h.0.attn", 192, 64, "attn proj", 128),
        [(8, 2, 16)],
    ),
    "Meta's and Mistral's": (
        "params.json",
        json.dumps({"dim": 64, "n_heads": 8, "n_kv_heads": 2, "vision_encoder": {"num_attention_heads": 4}}),
        META,
        [(8, 2, 8), (4, 4, 16)],
    ),
}


def found(path: Path) -> list[Heads]:
    with open_checkpoint(path) as checkpoint:
        return [sizes(attention) for attention in inspect(checkpoint, Options(norms=False)).attentions]


@pytest.mark.parametrize(("saved", "expected"), SAVED.values(), ids=SAVED)
def test_what_a_library_saves_with_the_weights(saved: object, expected: list[Heads], tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "model.pt")
    assert found(tmp_path / "model.pt") == expected


@pytest.mark.parametrize(("name", "text", "state", "expected"), BESIDE.values(), ids=BESIDE)
def test_what_a_library_saves_beside_the_weights(
    name: str, text: str, state: State, expected: list[Heads], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    torch.save(state, tmp_path / "model.pth")
    assert found(tmp_path / "model.pth") == expected


def test_deepspeed_s_latest_leads_to_the_weights_and_their_args(tmp_path: Path) -> None:
    (tmp_path / "global_step5").mkdir()
    state = {"module": apart("model.layers.0.self_attn", 64, 16), "mp_world_size": 1, "args": Namespace(num_heads=8)}
    torch.save(state, tmp_path / "global_step5/mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step5")
    assert found(tmp_path) == [(8, 2, 8)]


CLIP_SAYS: dict[str, tuple[int, ...]] = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), ())


@pytest.mark.parametrize("says", [CLIP_SAYS, {}, {"input_resolution": ()}])
def test_openai_s_clip_has_heads_of_64_rows(says: Mapping[str, tuple[int, ...]]) -> None:
    """Its archives keep three numbers as tensors, which nobody else's do; elsewhere the names say nothing."""
    shapes = dict(says)
    for tower, width in (("visual.transformer", 768), ("transformer", 512)):
        name = f"{tower}.resblocks.0.attn"
        shapes |= {f"{name}.in_proj_weight": (3 * width, width), f"{name}.out_proj.weight": (width, width)}
    expected = [(12, 12, 64), (8, 8, 64)] if says == CLIP_SAYS else [None, None]
    assert [sizes(attention) for attention in report(shapes).attentions] == expected


def test_whisper_s_sides_are_not_taken_for_each_other() -> None:
    """Where only the key of the other side is there, nothing is known."""
    shapes = separate("encoder.blocks.0.attn", 64, 64, 64, ("query", "key", "value"))
    dims = Config("checkpoint:dims", {"n_audio_head": None, "n_text_head": 8})
    assert [sizes(attention) for attention in report(shapes, dims).attentions] == [None]
