"""timm: plain vision transformers, and the blocks of timm.layers."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from timm_models import VIT, D, E, H, part, tm
from torch import nn

QKV = "blocks.0.attn.qkv.weight"


def vit(**kwargs: object) -> dict[str, object]:
    return {**VIT, **kwargs}


def _layers(name: str, *args: object, **kwargs: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        home, _, cls = name.rpartition(":")
        return getattr(importlib.import_module(f"timm.layers.{home}".rstrip(".")), cls)(*args, **kwargs)

    return build


def _differential() -> nn.Module:
    from timm.layers import DiffAttention

    module = DiffAttention(E * 2, H, qkv_bias=True)
    module.fused_attn = False
    return module


def _classic(cls: str, **kwargs: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from timm.models import vision_transformer

        return getattr(vision_transformer, cls)(E, H, mlp_ratio=1, **kwargs)

    return build


CASES = [
    tm("timm-vit", "vit_tiny_patch16_224", QKV, vit()),
    tm("timm-vit.deit", "deit_tiny_patch16_224", QKV, vit(), keep=("blocks.",)),
    tm("timm-vit.no-bias", "vit_tiny_patch16_224", QKV, vit(qkv_bias=False), keep=("blocks.",)),
    tm(
        "timm-vit.qk-norm",
        "vit_tiny_patch16_224",
        QKV,
        vit(qk_norm=True, norm_layer="rmsnorm"),
        directions=True,
        frozen=("q_norm", "k_norm"),
        note="gains of q_norm and k_norm left at 1",
        keep=("blocks.",),
    ),
    part(
        "timm-vit.attn-dim",
        _layers("Attention", E, H, attn_head_dim=5, qkv_bias=True),
        "qkv.weight",
        (2, 3, E),
        head_dim=5,
        prefix="blocks.0.attn.",
        note="H * head_dim is 20, the width 12",
    ),
    tm("timm-beit", "beit_base_patch16_224", QKV, vit(), note="k has no bias"),
    tm(
        "timm-beit.shared-rel-pos",
        "beit_base_patch16_224",
        QKV,
        vit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
        keep=(
            "blocks.",
            "rel_pos",
        ),
    ),
    tm("timm-eva", "eva_giant_patch14_224", QKV, vit(), note="k has no bias", keep=("blocks.",)),
    tm(
        "timm-eva.eva02-fused",
        "eva02_tiny_patch14_224",
        QKV,
        vit(qkv_fused=True, swiglu_mlp=False, use_rot_pos_emb=False),
        keep=("blocks.",),
    ),
    tm("timm-relpos", "vit_relpos_small_patch16_224", QKV, vit(), keep=("blocks.",)),
    tm(
        "timm-vit.sam",
        "samvit_base_patch16",
        QKV,
        vit(global_attn_indexes=(0,), neck_chans=4),
        note="rel_pos_h has the width of a head",
        keep=("blocks.",),
    ),
    tm(
        "timm-vit.convit-local",
        "convit_tiny",
        "blocks.1.attn.qkv.weight",
        vit(embed_dim=D, depth=2, local_up_to_layer=1),
        keep=("blocks.",),
    ),
    tm(
        "timm-convit",
        "convit_tiny",
        ("blocks.0.attn.qk.weight", "blocks.0.attn.v.weight"),
        vit(embed_dim=D, depth=1, local_up_to_layer=1),
    ),
    tm(
        "timm-tnt.inner",
        "tnt_s_legacy_patch16_224",
        ("blocks.0.attn_in.qk.weight", "blocks.0.attn_in.v.weight"),
        {
            "img_size": 32,
            "patch_size": 16,
            "embed_dim": 8,
            "inner_dim": E,
            "depth": 1,
            "num_heads_inner": H,
            "num_heads_outer": 2,
            "mlp_ratio": 1,
            "num_classes": 0,
        },
        32,
        keep=("blocks.0.attn_",),
    ),
    tm(
        "timm-tnt.outer",
        "tnt_s_legacy_patch16_224",
        ("blocks.0.attn_out.qk.weight", "blocks.0.attn_out.v.weight"),
        {
            "img_size": 32,
            "patch_size": 16,
            "embed_dim": E,
            "inner_dim": 8,
            "depth": 1,
            "num_heads_inner": 2,
            "num_heads_outer": H,
            "mlp_ratio": 1,
            "num_classes": 0,
        },
        32,
        keep=("blocks.0.attn_",),
    ),
    tm("timm-cait", "cait_xxs24_224", QKV, vit(depth_token_only=1, mlp_ratio_token_only=1), keep=("blocks.",)),
    tm(
        "timm-cait.class-attn",
        "cait_xxs24_224",
        tuple(f"blocks_token_only.0.attn.{part}.weight" for part in "qkv"),
        vit(depth_token_only=1, mlp_ratio_token_only=1),
        keep=("blocks_token_only.",),
    ),
    tm(
        "timm-volo",
        "volo:VOLO",
        "network.2.0.attn.qkv.weight",
        {
            "img_size": 32,
            "patch_size": 8,
            "layers": (1, 1, 1, 1),
            "embed_dims": (8, E, E, E),
            "num_heads": (2, H, H, H),
            "stem_hidden_dim": 4,
            "num_classes": 2,
            "mlp_ratio": 1,
            "qkv_bias": True,
        },
        32,
        keep=("network.2.",),
    ),
    tm(
        "timm-volo.class-attn",
        "volo:VOLO",
        ("post_network.0.attn.q.weight", "post_network.0.attn.kv.weight"),
        {
            "img_size": 32,
            "patch_size": 8,
            "layers": (1, 1, 1, 1),
            "embed_dims": (8, E, E, E),
            "num_heads": (2, H, H, H),
            "stem_hidden_dim": 4,
            "num_classes": 2,
            "mlp_ratio": 1,
            "qkv_bias": True,
        },
        32,
        keep=("post_network.",),
    ),
    part(
        "timm-parallel-scaling",
        _classic("ParallelScalingBlock", qkv_bias=True),
        "in_proj.weight",
        (2, 3, E),
        prefix="blocks.0.",
        note="rows of the MLP come first",
    ),
    part(
        "timm-parallel-scaling.no-qkv-bias",
        _classic("ParallelScalingBlock", qkv_bias=False),
        "in_proj.weight",
        (2, 3, E),
        prefix="blocks.0.",
    ),
    part(
        "timm-diff-attn",
        _differential,
        "qkv.weight",
        (2, 3, E * 2),
        q_heads=2 * H,
        v_head_dim=6,
        head_dim=3,
        prefix="blocks.0.attn.",
        note="twice as many heads of q and k as of v, half as wide",
    ),
    part(
        "timm-attention2d",
        _layers("Attention2d", E, num_heads=H, head_first=False),
        "qkv.weight",
        (2, E, 2, 3),
        prefix="attn.",
        layout_flag="timm-attention2d-blocked",
    ),
    part(
        "timm-attention2d-head-first",
        _layers("Attention2d", E, num_heads=H, head_first=True),
        "qkv.weight",
        (2, E, 2, 3),
        prefix="attn.",
        layout_flag="timm-attention2d-per-head",
    ),
    part(
        "timm-attention-pool",
        _layers("AttentionPoolLatent", E, num_heads=H),
        ("q.weight", "kv.weight"),
        (2, 3, E),
        prefix="attn_pool.",
    ),
    part(
        "timm-attention-pool2d",
        _layers("AttentionPool2d", E, feat_size=3, num_heads=H),
        "qkv.weight",
        (2, E, 3, 3),
        prefix="attnpool.",
    ),
    part(
        "timm-bottleneck",
        _layers("bottleneck_attn:BottleneckAttn", E, E, feat_size=(2, 3), num_heads=H),
        "qkv.weight",
        (2, E, 2, 3),
        head_dim=4,
        v_head_dim=3,
        prefix="attn.",
    ),
    part(
        "timm-halo",
        _layers("halo_attn:HaloAttn", E, E, num_heads=H, block_size=2, halo_size=1),
        ("q.weight", "kv.weight"),
        (2, E, 4, 4),
        head_dim=4,
        v_head_dim=3,
        prefix="attn.",
    ),
]
assert D * H == E
