"""timm: hierarchical families."""

from __future__ import annotations

from timm.models import mvitv2
from timm_models import D, E, H, tm

STAGES = {"embed_dim": 8, "num_heads": (2, H), "depths": (1, 1), "num_classes": 0, "mlp_ratio": 1}
SWIN = {**STAGES, "img_size": 16, "patch_size": 2, "embed_dim": 6, "window_size": 4, "num_heads": (2, H)}
SECOND = "layers.1.blocks.0.attn.qkv.weight"
COAT = {"img_size": 32, "stem_width": 4, "embed_dim": (4, E, E, E), "depths": (1, 1, 1, 1), "transformer_dim_head": D,
        "num_classes": 0, "transformer_expand_ratio": 1, "conv_expand_ratio": 1}  # fmt: skip
MAXVIT = {**COAT, "embed_dim": (3, 3, 3, E), "transformer_window_size": (1, 1)}
MVIT = mvitv2.MultiScaleVitCfg(
    depths=(1, 1), embed_dim=(8, E), num_heads=(2, H), mlp_ratio=1, mode="max", kernel_qkv=(1, 1),
    stride_q=((1, 1), (1, 1)), stride_kv=((1, 1), (1, 1)), stride_kv_adaptive=None, residual_pooling=False,
)  # fmt: skip
PVT = {"depths": (1, 1, 1, 1), "embed_dims": (4, 4, 8, E), "num_heads": (1, 1, 2, H), "mlp_ratios": (1,) * 4,
       "num_classes": 0}  # fmt: skip
GC = {"img_size": 64, "embed_dim": 6, "depths": (2, 2), "num_heads": (2, H), "window_ratio": (8, 8), "num_classes": 0,
      "mlp_ratio": 1}  # fmt: skip
DAVIT = {"depths": (1, 1), "embed_dims": (8, E), "num_heads": (2, H), "window_size": 2, "mlp_ratio": 1,
         "num_classes": 0}  # fmt: skip

CASES = [
    tm("timm-swin", "swin_tiny_patch4_window7_224", SECOND, SWIN, 16, keep=("layers.1.blocks.",)),
    tm(
        "timm-swin.head-dim",
        "swin_tiny_patch4_window7_224",
        SECOND,
        {**SWIN, "head_dim": 5},
        16,
        head_dim=5,
        note="H * head_dim is 20, the width 12",
        keep=("layers.1.blocks.",),
    ),
    tm(
        "timm-swinv2",
        "swinv2_tiny_window8_256",
        SECOND,
        SWIN,
        16,
        directions=True,
        keep=tuple(f"layers.1.blocks.0.attn.{part}" for part in ("q", "v_bias", "logit_scale", "proj")),
        note="q and k are cosine-normalised; k has no bias",
    ),
    tm(
        "timm-swinv2-cr",
        "swinv2_cr_tiny_224",
        "stages.1.blocks.0.attn.qkv.weight",
        {**STAGES, "embed_dim": 6, "img_size": 16, "patch_size": 2, "window_size": 4},
        16,
        directions=True,
        keep=tuple(f"stages.1.blocks.0.attn.{part}" for part in ("qkv", "logit_scale", "proj")),
    ),
    tm(
        "timm-hiera",
        "hiera_tiny_224",
        "blocks.1.attn.qkv.weight",
        {
            "img_size": (32, 32),
            "embed_dim": 6,
            "num_heads": 2,
            "stages": (1, 1),
            "q_pool": 1,
            "mlp_ratio": 1,
            "mask_unit_size": (4, 4),
            "mask_unit_attn": (True, False),
            "num_classes": 0,
        },
        32,
        keep=("blocks.1.",),
        note="(3 * dim_out, dim) where the width doubles; q is pooled",
        heads_flag=True,
    ),
    tm(
        "timm-hieradet-sam2",
        "sam2_hiera_tiny",
        "blocks.1.attn.qkv.weight",
        {
            "embed_dim": 6,
            "num_heads": 2,
            "stages": (1, 1),
            "q_pool": 0,
            "window_spec": (4, 4),
            "global_att_blocks": (),
            "num_classes": 0,
        },
        32,
        keep=("blocks.1.",),
        heads_flag=True,
    ),
    tm(
        "timm-mvitv2",
        "mvitv2:MultiScaleVit",
        "stages.1.blocks.0.attn.qkv.weight",
        {"cfg": MVIT, "img_size": (32, 32), "num_classes": 0},
        32,
        keep=("stages.1.blocks.0.attn",),
        note="pooling switched off: it mixes channels of no two rows",
    ),
]
