"""transformers: vision towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, image
from cases_transformers import hf
from torch import nn

E, H, D = 12, 4, 3
TINY = {"hidden_size": E, "num_hidden_layers": 1, "num_attention_heads": H, "image_size": 8, "patch_size": 4}


def see(size: int = 8) -> Callable[[nn.Module], object]:
    return lambda module: module(image(size))


def patches(width: int) -> Callable[[nn.Module], object]:
    """Two images of one patch each, at position (0, 0): rotary embeddings are the identity there."""
    return lambda module: module(torch.randn(2, width).double(), grid_thw=torch.ones(2, 3, dtype=torch.long))


def vision(id: str, target: str, tensors: str | tuple[str, ...], kwargs: dict[str, Any], **rest: Any) -> Case:
    return hf(id, target, tensors, kwargs, **{"forward": see(), "heads": H, "head_dim": D, **rest})


def seggpt(module: nn.Module) -> object:
    one = image(8)
    return module(pixel_values=one, prompt_pixel_values=one, prompt_masks=one)


def layoutlmv2() -> nn.Module:
    from transformers import LayoutLMv2Config
    from transformers.models.layoutlmv2 import modeling_layoutlmv2

    config = LayoutLMv2Config(
        hidden_size=E, num_attention_heads=H, fast_qkv=True, has_relative_attention_bias=False,
        has_spatial_attention_bias=False,
    )  # fmt: skip
    inner: nn.Module = modeling_layoutlmv2.LayoutLMv2SelfAttention(config)
    for name in reversed(PREFIX.rstrip(".").split(".")):
        outer = nn.Module()
        outer.add_module(name, inner)
        inner = outer
    return inner


def run_layoutlmv2(module: nn.Module) -> object:
    inner = module.get_submodule(PREFIX.rstrip("."))
    return inner(torch.randn(2, 3, E), torch.zeros(2, 1, 1, 3))


QWEN = {
    "depth": 1,
    "num_heads": H,
    "in_channels": 3,
    "patch_size": 2,
    "temporal_patch_size": 1,
    "spatial_merge_size": 1,
}
QKV = "blocks.0.attn.qkv.weight"
ROTARY = {"heads": 2, "head_dim": 8, "single": True}  # rotary widths are a quarter of a head
PREFIX = "layoutlmv2.encoder.layer.0.attention.self."

CASES = [
    vision("blip-vision", "BlipVisionModel", "encoder.layers.0.self_attn.qkv.weight", {**TINY, "intermediate_size": 8}),
    vision(
        "blip2-vision", "Blip2VisionModel", "encoder.layers.0.self_attn.qkv.weight", {**TINY, "intermediate_size": 8}
    ),
    vision(
        "blip2-vision.instructblip",
        "InstructBlipVisionModel",
        "encoder.layers.0.self_attn.qkv.weight",
        {**TINY, "intermediate_size": 8},
    ),
    vision(
        "sam",
        "SamVisionModel",
        "vision_encoder.layers.0.attn.qkv.weight",
        {**TINY, "output_channels": 4, "mlp_ratio": 1.0, "window_size": 0, "global_attn_indexes": [0], "mlp_dim": 8},
    ),
    vision(
        "sam.hq",
        "SamHQVisionModel",
        "vision_encoder.layers.0.attn.qkv.weight",
        {**TINY, "output_channels": 4, "mlp_ratio": 1.0, "window_size": 0, "global_attn_indexes": [0], "mlp_dim": 8},
    ),
    vision(
        "vitdet",
        "VitDetModel",
        "encoder.layer.0.attention.qkv.weight",
        {**TINY, "mlp_ratio": 1, "use_relative_position_embeddings": True, "pretrain_image_size": 8},
        keep=("encoder.",),
    ),
    vision(
        "seggpt",
        "SegGptModel",
        "encoder.layers.0.attention.qkv.weight",
        {
            **TINY,
            "image_size": [16, 8],
            "mlp_dim": 8,
            "merge_index": 0,
            "intermediate_hidden_state_indices": [0],
            "pretrain_image_size": 8,
            "decoder_hidden_size": 4,
        },
        forward=seggpt,
        keep=("encoder.",),
    ),
    vision(
        "timesformer",
        "TimesformerModel",
        "encoder.layer.0.attention.attention.qkv.weight",
        {**TINY, "intermediate_size": 8, "attention_type": "space_only", "num_frames": 2},
        forward=lambda module: module(image(batch=2).unsqueeze(0)),
        keep=("encoder.",),
    ),
    vision(
        "timesformer.divided",
        "TimesformerModel",
        "encoder.layer.0.temporal_attention.attention.qkv.weight",
        {**TINY, "intermediate_size": 8, "attention_type": "divided_space_time", "num_frames": 2},
        forward=lambda module: module(image(batch=2).unsqueeze(0)),
        keep=("encoder.",),
    ),
    vision(
        "mgp-str",
        "MgpstrModel",
        "encoder.blocks.0.attn.qkv.weight",
        {**TINY, "image_size": [8, 8], "mlp_ratio": 1.0, "max_token_length": 3, "num_character_labels": 5},
    ),
    vision(
        "hiera",
        "HieraModel",
        "encoder.stages.1.layers.0.attn.qkv.weight",
        {
            "embed_dim": 6,
            "image_size": [32, 32],
            "depths": [1, 1],
            "num_heads": [2, H],
            "num_query_pool": 1,
            "mlp_ratio": 1.0,
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
        },
        forward=see(32),
        note="(3 * dim_out, dim) where the width doubles; q is pooled",
        keep=("encoder.stages.1.",),
        heads_flag=True,
    ),
    vision(
        "sam2",
        "sam2:Sam2HieraDetModel",
        "blocks.1.attn.qkv.weight",
        {
            "hidden_size": 6,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "blocks_per_stage": [1, 1],
            "embed_dim_per_stage": [6, E],
            "num_attention_heads_per_stage": [2, H],
            "num_query_pool_stages": 1,
            "window_size_per_stage": [4, 4],
            "global_attention_blocks": [],
            "mlp_ratio": 1.0,
            "window_positional_embedding_background_size": [4, 4],
        },
        forward=see(32),
        note="(3 * dim_out, dim) where the width doubles; q is pooled",
        keep=("blocks.1.",),
        heads_flag=True,
    ),
    vision(
        "qwen2-vl-vision",
        "qwen2_vl.modeling_qwen2_vl:Qwen2VisionTransformerPretrainedModel",
        QKV,
        {**QWEN, "embed_dim": 16, "hidden_size": 8, "num_heads": 2, "mlp_ratio": 1},
        forward=patches(12),
        **ROTARY,
    ),
    vision(
        "qwen2-vl-vision.qwen2.5",
        "qwen2_5_vl:Qwen2_5_VisionTransformerPretrainedModel",
        QKV,
        {
            **QWEN,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 8,
            "out_hidden_size": 8,
            "window_size": 2,
            "fullatt_block_indexes": [0],
        },
        forward=patches(12),
        **ROTARY,
    ),
    vision(
        "qwen2-vl-vision.qwen3",
        "qwen3_vl:Qwen3VLVisionModel",
        QKV,
        {
            **QWEN,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 8,
            "out_hidden_size": 8,
            "num_position_embeddings": 4,
            "deepstack_visual_indexes": [],
        },
        forward=patches(12),
        **ROTARY,
        keep=("blocks.",),
    ),
    vision(
        "qwen2-vl-vision.glm4v",
        "glm4v:Glm4vVisionModel",
        QKV,
        {**QWEN, "hidden_size": 16, "num_heads": 2, "intermediate_size": 8, "out_hidden_size": 8, "image_size": 4},
        forward=patches(12),
        **ROTARY,
    ),
    vision(
        "exaone4_5-vision",
        "exaone4_5:Exaone4_5_VisionModel",
        QKV,
        {
            **QWEN,
            "hidden_size": 16,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 8,
            "out_hidden_size": 8,
            "window_size": 2,
            "fullatt_block_indexes": [0],
        },
        forward=patches(12),
        **{**ROTARY, "heads": 4, "kv_heads": 2, "head_dim": 4},
    ),
    vision(
        "davit.florence2-window",
        "florence2:Florence2VisionBackbone",
        "blocks.0.0.spatial_block.window_attn.qkv.weight",
        {
            "embed_dim": [E],
            "num_heads": [H],
            "num_groups": [H],
            "depths": [1],
            "window_size": 2,
            "patch_size": [3],
            "patch_stride": [4],
            "patch_padding": [1],
            "patch_prenorm": [False],
            "mlp_ratio": 1.0,
        },
        keep=("blocks.0.0.spatial_block.",),
    ),
    vision(
        "davit.florence2-channel",
        "florence2:Florence2VisionBackbone",
        "blocks.0.0.channel_block.channel_attn.qkv.weight",
        {
            "embed_dim": [E],
            "num_heads": [2],
            "num_groups": [H],
            "depths": [1],
            "window_size": 2,
            "patch_size": [3],
            "patch_stride": [4],
            "patch_padding": [1],
            "patch_prenorm": [False],
            "mlp_ratio": 1.0,
        },
        note="heads are groups of channels; attention over channels",
        keep=("blocks.0.0.channel_block.",),
    ),
    Case(
        "layoutlmv2",
        "transformers",
        layoutlmv2,
        run_layoutlmv2,
        (f"{PREFIX}qkv_linear.weight",),
        H,
        D,
        dtype=torch.float32,
        late_biases=(f"{PREFIX}q_bias", f"{PREFIX}v_bias"),
        config={"model_type": "layoutlmv2", "hidden_size": E, "num_attention_heads": H, "fast_qkv": True},
        note="the whole model needs detectron2",
    ),
]
