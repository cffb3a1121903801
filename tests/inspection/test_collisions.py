"""Lookalikes share keys and shapes but not packings. The answer is right, or it is *ambiguous*; never wrong."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.batches import batched

Shapes = Mapping[str, tuple[int, ...]]

SELF_QKV: Shapes = {"h.0.self_attention.query_key_value.weight": (48, 16), "h.0.self_attention.dense.weight": (16, 16)}
QKV: Shapes = {"layers.0.attention.query_key_value.weight": (48, 16), "layers.0.attention.dense.weight": (16, 16)}
C_ATTN: Shapes = {"h.0.attn.c_attn.weight": (48, 16), "h.0.attn.c_proj.weight": (16, 16)}
CONV1D: Shapes = {"h.0.attn.c_attn.weight": (16, 48), "h.0.attn.c_proj.weight": (16, 16)}
ATTN_PROJ: Shapes = {"h.0.attn.qkv_proj.weight": (48, 16), "h.0.attn.out_proj.weight": (16, 16)}
OPT: Shapes = {"layers.0.self_attn.qkv_proj.weight": (48, 16), "layers.0.self_attn.out_proj.weight": (16, 16)}
PHI: Shapes = {"layers.0.self_attn.qkv_proj.weight": (48, 16), "layers.0.self_attn.o_proj.weight": (16, 16)}
WQKV: Shapes = {"layers.0.attention.wqkv.weight": (32, 16), "layers.0.attention.wo.weight": (16, 16)}
CONV: Shapes = {"input_blocks.1.1.qkv.weight": (48, 16, 1), "input_blocks.1.1.proj_out.weight": (16, 16, 1)}
CONV2D: Shapes = {"stages.0.attn.qkv.weight": (48, 16, 1, 1), "stages.0.attn.proj.weight": (16, 16, 1, 1)}
MAXVIT: Shapes = {
    "stages.0.blocks.0.attn_block.attn.qkv.weight": (48, 16),
    "stages.0.blocks.0.attn_block.attn.proj.weight": (16, 16),
}
VIT: Shapes = {"blocks.0.attn.qkv.weight": (48, 16), "blocks.0.attn.proj.weight": (16, 16)}
GCVIT: Shapes = {
    "stages.0.blocks.1.attn.qkv.weight": (32, 16),
    "stages.0.blocks.1.attn.proj.weight": (16, 16),
    "stages.0.blocks.1.attn.rel_pos.relative_position_bias_table": (9, 4),
}
TE: Shapes = {"layers.0.self_attention.layernorm_qkv.weight": (48, 16), "layers.0.self_attention.proj.weight": (16, 16)}
IN_PROJ: Shapes = {"l.attention.self.in_proj.weight": (48, 16), "l.attention.output.dense.weight": (16, 16)}
DEBERTA: Shapes = {**IN_PROJ, "l.attention.self.q_bias": (16,), "l.attention.self.v_bias": (16,)}
BLOOM = {"word_embeddings_layernorm.weight": (16,)}
NANOGPT = {"n_head": 4, "n_embd": 16, "block_size": 8}

CASES: list[tuple[str, Shapes, Mapping[str, object] | None, str | None]] = [
    ("bare self_attention.query_key_value", SELF_QKV, None, "ambiguous"),
    ("of another model", SELF_QKV, {"model_type": "something"}, "ambiguous"),
    ("bloom", SELF_QKV, {"model_type": "bloom"}, "bloom"),
    ("bloom by its embedding's norm", {**SELF_QKV, **BLOOM}, None, "bloom"),
    ("falcon-rw", SELF_QKV, {"model_type": "falcon", "multi_query": False}, "falcon-rw"),
    ("falcon 40b", SELF_QKV, {"model_type": "falcon", "new_decoder_architecture": True}, "falcon-new"),
    ("chatglm3", SELF_QKV, {"model_type": "chatglm", "multi_query_attention": True}, "chatglm2"),
    ("megatron 3", SELF_QKV, {"checkpoint_version": 3.0}, "megatron-v2"),
    ("megatron 1", SELF_QKV, {"checkpoint_version": 1.0}, "megatron-v1"),
    ("megatron 0", SELF_QKV, {"checkpoint_version": 0}, "megatron-v0"),
    ("bare attention.query_key_value", QKV, None, "ambiguous"),
    ("pythia", QKV, {"model_type": "gpt_neox"}, "gpt-neox"),
    ("pythia by its embedding", {**QKV, "gpt_neox.embed_in.weight": (9, 16)}, None, "gpt-neox"),
    ("chatglm-6b", QKV, {"model_type": "chatglm"}, "chatglm-6b"),
    ("ling", QKV, {"model_type": "bailing_moe"}, "bailing"),
    ("bare linear c_attn", C_ATTN, None, "ambiguous"),
    ("nanogpt", C_ATTN, NANOGPT, "nanogpt"),
    ("starcoder with many kv heads", C_ATTN, {"model_type": "gpt_bigcode", "multi_query": False}, "gpt-bigcode-mha"),
    ("qwen 1", C_ATTN, {"model_type": "qwen"}, "qwen1"),
    ("conv1d c_attn", CONV1D, None, "gpt2"),
    ("bare attn.qkv_proj", ATTN_PROJ, None, "ambiguous"),
    ("codegen", ATTN_PROJ, {"model_type": "codegen"}, "codegen"),
    ("openelm", {**ATTN_PROJ, "h.0.attn.q_norm.weight": (4,)}, None, "openelm"),
    ("bare self_attn.qkv_proj with out_proj", OPT, None, "ambiguous"),
    ("opt of metaseq", OPT, {"model_type": "opt"}, "opt-original"),
    ("phi-3", PHI, None, "phi3"),
    ("minimax", {**OPT, "layers.0.self_attn.output_gate.weight": (16, 16)}, None, "minimax-lightning"),
    ("bare wqkv", WQKV, None, "ambiguous"),
    ("internlm2", WQKV, {"model_type": "internlm2"}, "internlm2"),
    ("bare conv1d qkv", CONV, None, "ambiguous"),
    ("adm", CONV, {"use_new_attention_order": False}, "adm-legacy"),
    ("adm, new order", CONV, {"use_new_attention_order": True}, "adm-new"),
    ("bare conv2d qkv", CONV2D, None, "ambiguous"),
    ("visformer", CONV2D, {"architecture": "visformer_tiny"}, "timm-attention2d-blocked"),
    ("bare maxvit", MAXVIT, None, "ambiguous"),
    ("maxvit of tensorflow", MAXVIT, {"architecture": "maxvit_tiny_tf_224"}, "timm-maxxvit-tf"),
    ("maxvit of timm", MAXVIT, {"architecture": "maxvit_tiny_rw_224"}, "timm-maxxvit-rw"),
    ("vit", VIT, None, "timm-vit"),
    ("tinyvit", {**VIT, "blocks.0.attn.attention_biases": (4, 9)}, None, "timm-tiny-vit"),
    ("gcvit's global windows: K and V under the name qkv", GCVIT, None, "timm-gcvit-global"),
    ("bare transformer engine", TE, None, "ambiguous"),
    ("transformer engine", TE, {"qkv_weight_interleaved": True}, "te-layernorm_qkv-interleaved"),
    ("in_proj of mamba", {"mixer.in_proj.weight": (48, 16), "mixer.A_log": (16,)}, None, None),
    ("in_proj of lfm2", {"conv.in_proj.weight": (48, 16), "conv.conv.weight": (16, 1, 3)}, None, None),
    ("in_proj of deberta", DEBERTA, None, "deberta-v1"),
    ("in_proj alone", IN_PROJ, None, None),
]  # fmt: skip


@batched("shapes config expected", {name: case for name, *case in CASES})
def test_lookalikes(shapes: Shapes, config: Mapping[str, object] | None, expected: str | None) -> None:
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], shape, contiguous_strides(shape), Region(None, 0, 0))
        for name, shape in shapes.items()
    }
    configs = (Config("config:config.json", {"num_attention_heads": 4, **config}),) if config is not None else ()
    found = inspect(Checkpoint("model", "test", 0, tensors, configs=configs), Options(norms=False))
    if expected is None:
        assert found.attentions == ()
        return
    (attention,) = found.attentions
    if expected == "ambiguous":
        assert attention.layout is None
        assert attention.parts == ()
        assert "ambiguous-layout" in [finding.code for finding in found.findings]
    else:
        assert attention.layout is not None
        assert attention.layout.id == expected


@pytest.mark.parametrize(
    ("prefix", "expected"), [("language_model", "bloom"), ("vision_tower", "megatron-v2"), ("other", None)]
)
def test_sub_configs_speak_of_their_own_part(prefix: str, expected: str | None) -> None:
    """One name in two towers of one file, packed by two libraries."""
    config = {
        "model_type": "both",
        "text_config": {"model_type": "bloom", "n_head": 4},
        "vision_config": {"checkpoint_version": 3, "num_heads": 2},
    }
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], shape, contiguous_strides(shape), Region(None, 0, 0))
        for name, shape in ((f"{prefix}.{key}", shape) for key, shape in SELF_QKV.items())
    }
    checkpoint = Checkpoint("model", "test", 0, tensors, configs=(Config("config:config.json", config),))
    (attention,) = inspect(checkpoint, Options(norms=False)).attentions
    assert (attention.layout.id if attention.layout else None) == expected
    if expected:
        assert attention.heads is not None
        assert attention.heads.num_heads == {"language_model": 4, "vision_tower": 2}[prefix]


def test_every_fused_key_with_two_packings_is_among_the_cases() -> None:
    assert sum(expected == "ambiguous" for *_, expected in CASES) >= 10


@pytest.mark.parametrize(("version", "expected"), [(3.0, "megatron-v2"), (1.0, "megatron-v1"), (0, "megatron-v0")])
def test_megatron_s_own_version_is_read_from_its_file(tmp_path: Path, version: float, expected: str) -> None:
    """Megatron-LM saves checkpoint_version as a float beside the model."""
    layers = {name: torch.zeros(shape) for name, shape in SELF_QKV.items()}
    content = {"checkpoint_version": version, "args": Namespace(num_attention_heads=4), "model": {"encoder": layers}}
    torch.save(content, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        (attention,) = inspect(checkpoint, Options(norms=False)).attentions
    assert attention.layout is not None
    assert attention.layout.id == expected
