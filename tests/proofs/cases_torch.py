"""torch: nn.MultiheadAttention and the layers made of it."""

from __future__ import annotations

from case import Case, tokens
from torch import nn

E, H, D = 12, 4, 3


def mha(id: str, heads: int = H, **kwargs: object) -> Case:
    split = "kdim" in kwargs or "vdim" in kwargs
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if split else ("in_proj_weight",)
    kdim, vdim = int(str(kwargs.get("kdim", E))), int(str(kwargs.get("vdim", E)))
    return Case(
        id,
        "torch",
        lambda: nn.MultiheadAttention(E, heads, batch_first=True, **kwargs),  # pyright: ignore[reportArgumentType]
        lambda module: module(tokens(E), tokens(kdim, length=4), tokens(vdim, length=4)),
        names,
        heads,
        E // heads,
        heads_flag=True,
    )


def layer(id: str, name: str, cross: bool) -> Case:
    def forward(module: nn.Module) -> object:
        return module(tokens(E), tokens(E, length=4)) if "Decoder" in type(module).__name__ else module(tokens(E))

    return Case(
        id,
        "torch",
        lambda: getattr(nn, name)(E, H, 8, batch_first=True),
        forward,
        ("multihead_attn.in_proj_weight" if cross else "self_attn.in_proj_weight",),
        H,
        D,
        heads_flag=True,
    )


CASES = [
    mha("torch-mha"),
    mha("torch-mha.no-bias", bias=False),
    mha("torch-mha.bias-kv", add_bias_kv=True),
    mha("torch-mha-split", kdim=10, vdim=14),
    mha("torch-mha-split.kdim-only", kdim=10),
    layer("torch-mha.encoder-layer", "TransformerEncoderLayer", cross=False),
    layer("torch-mha.decoder-self", "TransformerDecoderLayer", cross=False),
    layer("torch-mha.decoder-cross", "TransformerDecoderLayer", cross=True),
]
