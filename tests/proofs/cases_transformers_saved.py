"""transformers: models that it divides when it loads them, and fuses again when it saves them.

The rows of the module's own projections are found again in the saved file one by one.
"""

from __future__ import annotations

import torch
from case import Case
from cases_transformers import NARROW, TEXT, hf
from cases_transformers_vision import TINY, vision


def three(layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.{part}_proj.weight" for part in "qkv")


CASES: list[Case] = [
    hf(
        "nomic-bert",
        "NomicBertModel",
        three("layers.0.self_attn"),
        {**NARROW, "type_vocab_size": 2},
        heads=2,
        head_dim=8,
        single=True,
    ),
    hf(
        "jina-embeddings-v3",
        "JinaEmbeddingsV3Model",
        three("layers.0.self_attn"),
        NARROW,
        heads=2,
        head_dim=8,
        single=True,
    ),
    hf("gte", "GteModel", three("layers.0.self_attn"), NARROW, heads=2, head_dim=8, single=True),
    hf(
        "hrm-text",
        "HrmTextModel",
        three("L_module.layers.0.self_attn"),
        {
            **TEXT,
            "hidden_size": 16,
            "head_dim": 6,
            "num_layers_per_stack": 1,
            "num_hidden_layers": 2,
            "H_cycles": 1,
            "L_cycles": 1,
            "L_bp_cycles": [1],
        },
        single=True,
        keep=("L_module.",),
    ),
    hf(
        "molmo2-text",
        "molmo2.modeling_molmo2:Molmo2TextModel",
        three("layers.0.self_attn"),
        {**TEXT, "hidden_size": 16, "num_key_value_heads": 2, "head_dim": 6},
        kv_heads=2,
        single=True,
        directions=True,
        frozen=("q_norm", "k_norm"),
        keep=("layers.",),
    ),
    vision(
        "radio",
        "RadioModel",
        three("encoder.layer.0.attention"),
        {**TINY, "intermediate_size": 8, "max_img_size": 8},
        single=True,
        keep=("radio_model.model.blocks.",),
    ),
    vision(
        "tipsv2-vision",
        "tipsv2.modeling_tipsv2:Tipsv2VisionModel",
        three("encoder.layer.0.attention"),
        {**TINY, "intermediate_size": 8},
        single=True,
        keep=("blocks.",),
    ),
    vision(
        "unlimited-ocr-vision",
        "unlimited_ocr.modeling_unlimited_ocr:UnlimitedOcrVisionEncoder",
        three("encoder.layers.0.self_attn"),
        {**TINY, "intermediate_size": 8},
        single=True,
        forward=lambda module: module(torch.randn(1, 12, 2, 2).double()),
    ),
]
