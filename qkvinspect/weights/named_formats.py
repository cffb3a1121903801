"""What formats that are only named keep beside their codes, and what these are called."""

from __future__ import annotations

from collections.abc import Mapping

BESIDE: Mapping[str, tuple[str, str]] = {
    "q_scale": ("q_weight", "ExLlamaV2's codes (exl2)"),
    "s": ("B", "Marlin's codes"),
    "wscales": ("qweight", "SVDQuant's codes (nunchaku)"),
    "lookup_table": ("qweight", "SqueezeLLM's codes"),
    "SU": ("Qidxs", "QuIP#'s codes"),
    "codebooks": ("codes", "AQLM's codes"),
    "row_offsets": ("dense_weights", "SpQR's codes"),
    "centroids": ("indices", "VPTQ's codes"),
    "per_channel_scale": ("weight", "TensorRT-LLM's codes, in the order of its kernel"),
    "weight_scales": ("weight", "EETQ's codes, in the order of its kernel"),
}
"""Leaves that only one library has; the leaf of the codes beside them, and what these are called."""

FACTORS: Mapping[str, str] = {
    "hada_w1_a": "LoHa's factors",
    "lokr_w1": "LoKr's factors",
    "lokr_w1_a": "LoKr's factors",
    "oft_blocks": "OFT's rotations",
    "oft_diag": "OFT's rotations",
    "oft_R": "OFT's rotations",
    "boft_R": "BOFT's rotations",
    "ia3_l": "IA3's lengths",
    "vera_lambda_b": "VeRA's lengths",
    "vera_lambda_d": "VeRA's lengths",
}
"""Leaves of what adapters of other kinds than LoRA keep for a module (LyCORIS, PEFT)."""
