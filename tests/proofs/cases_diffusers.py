"""diffusers: fused projections, and the towers that it carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, save_pretrained
from nesting import block
from torch import nn

E, H, D = 12, 4, 3


def attention(**kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0

        module = Attention(E, heads=H, dim_head=D, bias=True, **kwargs)
        module.fuse_projections()
        module.set_processor(FusedAttnProcessor2_0())
        return module

    return build


def joint() -> nn.Module:
    from diffusers.models.attention_processor import Attention, FusedJointAttnProcessor2_0

    module = Attention(E, heads=H, dim_head=D, bias=True, added_kv_proj_dim=E, context_pre_only=False, out_dim=E)
    module.fuse_projections()
    module.set_processor(FusedJointAttnProcessor2_0())
    return module


def kolors(*, multi_query: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, SelfAttention

        config = ChatGLMConfig(**{**KOLORS, "multi_query_attention": multi_query})
        return SelfAttention(config, 1)

    return build


def run_kolors(module: nn.Module) -> object:
    """Sequence first, no rotary positions."""
    return module(torch.randn(3, 2, E).double(), None, None)


def two(module: nn.Module) -> object:
    return module(torch.randn(2, 3, E).double(), encoder_hidden_states=torch.randn(2, 4, E).double())


KOLORS = {"hidden_size": E, "num_attention_heads": H, "kv_channels": D, "multi_query_group_num": 2, "num_layers": 1,
          "ffn_hidden_size": 8, "padded_vocab_size": 12, "add_qkv_bias": True}  # fmt: skip
CHATGLM = {"model_type": "chatglm", **KOLORS}
KOLORS_KEY = "encoder.layers.0.self_attention."


def flux2() -> nn.Module:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, mlp_ratio=1.0, axes_dims_rope=(2, 2, 2, 2), timestep_guidance_channels=8,
    )  # fmt: skip


def run_flux2(module: nn.Module) -> object:
    """One text and one image token, both at position 0."""
    return module(
        hidden_states=torch.randn(1, 1, 4).double(), encoder_hidden_states=torch.randn(1, 1, 8).double(),
        timestep=torch.ones(1).double(), img_ids=torch.zeros(1, 4).double(), txt_ids=torch.zeros(1, 4).double(),
        guidance=torch.ones(1).double(),
    )  # fmt: skip


def fused_flux2() -> nn.Module:
    module = flux2()
    module.fuse_qkv_projections()  # pyright: ignore[reportCallIssue]
    return module


def stable_audio(*, cross: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from diffusers.models.transformers import transformer_stable_audio3 as home

        return home.StableAudio3CrossAttention(E, E, D) if cross else home.StableAudio3SelfAttention(E, D)

    return build


def turned(module: nn.Module) -> object:
    return module(torch.randn(2, 3, E).double(), torch.zeros(3, 2).double())


def wan(module_name: str, cls: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from importlib import import_module

        return getattr(import_module(f"diffusers.models.autoencoders.{module_name}"), cls)(E)

    return build


CASES = [
    block(
        "diffusers-to-qkv",
        "diffusers",
        attention(),
        "to_qkv.weight",
        "transformer_blocks.0.attn1",
        H,
        D,
        shape=(2, 3, E),
        note="to_q, to_k and to_v stay in the file",
    ),
    block(
        "diffusers-to-kv",
        "diffusers",
        attention(cross_attention_dim=E + 2),
        ("to_q.weight", "to_kv.weight"),
        "transformer_blocks.0.attn2",
        H,
        D,
        run=lambda m: m(torch.randn(2, 3, E).double(), encoder_hidden_states=torch.randn(2, 4, E + 2).double()),
        note="to_k and to_v stay in the file",
    ),
    block(
        "diffusers-to-added-qkv",
        "diffusers",
        joint,
        ("to_qkv.weight",),
        "transformer_blocks.0.attn",
        H,
        D,
        run=two,
        note="joint attention: the sample's tokens come first",
    ),
    block(
        "diffusers-to-added-qkv.text",
        "diffusers",
        joint,
        ("to_added_qkv.weight",),
        "transformer_blocks.0.attn",
        H,
        D,
        run=two,
        note="joint attention: the text's tokens come last",
    ),
    block(
        "chatglm2",
        "diffusers",
        kolors(multi_query=True),
        "query_key_value.weight",
        KOLORS_KEY,
        H,
        D,
        kv_heads=2,
        run=run_kolors,
        config={**CHATGLM, "multi_query_attention": True},
    ),
    block(
        "chatglm2-mq-off",
        "diffusers",
        kolors(multi_query=False),
        "query_key_value.weight",
        KOLORS_KEY,
        H,
        D,
        run=run_kolors,
        config={**CHATGLM, "multi_query_attention": False},
    ),
    Case(
        "flux2-single",
        "diffusers",
        flux2,
        run_flux2,
        ("single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight",),
        2,
        8,
        save=save_pretrained,
        directions=True,
        frozen=("norm_q", "norm_k"),
        keep=("single_transformer_blocks.",),
        single=True,
        note="rows of the MLP come last",
    ),
    block(
        "stable-audio3-differential",
        "diffusers",
        stable_audio(cross=False),
        "to_qkv.weight",
        "transformer.layers.0.self_attn",
        H,
        D,
        q_heads=2 * H,
        wanted="v",
        run=turned,
    ),
    block(
        "wan-vae",
        "diffusers",
        wan("autoencoder_kl_wan", "WanAttentionBlock"),
        "to_qkv.weight",
        "encoder.mid_block.attentions.0",
        1,
        E,
        shape=(1, E, 2, 2, 3),
    ),
]
