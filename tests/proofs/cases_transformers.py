"""transformers: language models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from case import Case, ids, save_pretrained
from torch import nn

E, H, D = 24, 4, 6
SHAPE = {"hidden_size": E, "num_hidden_layers": 1, "num_attention_heads": H, "intermediate_size": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**SHAPE, **IDS, "vocab_size": 12, "max_position_embeddings": 8}
NARROW = {**TEXT, "hidden_size": 16, "num_attention_heads": 2}  # two heads of eight
GPT = {**IDS, "vocab_size": 12, "n_embd": E, "n_layer": 1, "n_head": H, "n_positions": 8, "n_inner": 8}
SMALL, SMALL_D = 12, 3  # for models whose MLP is four times as wide
SMALL_GPT = {**GPT, "n_embd": SMALL}


def model(target: str, kwargs: dict[str, Any]) -> Callable[[], nn.Module]:
    """``module:Class`` or ``Class`` of the top level, built from its configuration class."""

    def build() -> nn.Module:
        home, _, name = target.rpartition(":")
        package = importlib.import_module(f"transformers.models.{home}" if home else "transformers")
        cls = getattr(package, name)
        return cls(cls.config_class(**kwargs))

    return build


def text(module: nn.Module) -> object:
    """One token at position 0: rotary embeddings are the identity there."""
    return module(input_ids=ids())


def longer(module: nn.Module) -> object:
    return module(input_ids=ids(length=3))


def hf(
    id: str,
    target: str,
    tensors: str | tuple[str, ...],
    kwargs: dict[str, Any],
    forward: Callable[[nn.Module], object] = text,
    heads: int = H,
    head_dim: int = D,
    **rest: Any,
) -> Case:
    names = (tensors,) if isinstance(tensors, str) else tensors
    return Case(
        id, "transformers", model(target, kwargs), forward, names, heads, head_dim, save=save_pretrained, **rest
    )


def decision(module: nn.Module) -> object:
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    return module(
        states=torch.randn(1, 2, 3).double(),
        actions=torch.randn(1, 2, 2).double(),
        returns_to_go=one,
        timesteps=torch.zeros(1, 2, dtype=torch.long),
        attention_mask=torch.ones(1, 2),
    )


def crossed(module: nn.Module) -> object:
    return module(input_ids=ids(length=3), encoder_hidden_states=torch.randn(3, 4, SMALL, dtype=torch.float64))


FALCON = {
    **IDS,
    "vocab_size": 12,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "ffn_hidden_size": 8,
}
FALCON_KEY = "h.0.self_attention.query_key_value.weight"
NEXT = {**TEXT, "hidden_size": 16, "num_key_value_heads": 2, "head_dim": D, "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "decoder_sparse_step": 1,
        "layer_types": ["full_attention"], "experts_implementation": "eager"}  # fmt: skip
LATENT = {**TEXT, "num_key_value_heads": H, "kv_lora_rank": 5, "q_lora_rank": 7, "qk_rope_head_dim": 4,
          "qk_nope_head_dim": 6,
          "v_head_dim": 5, "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
          "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_shared_experts": 1}  # fmt: skip
DBRX = {**IDS, "vocab_size": 12, "d_model": E, "n_heads": H, "n_layers": 1, "max_seq_len": 8}
BARK = {"block_size": 8, "input_vocab_size": 12, "output_vocab_size": 12, "num_layers": 1, "num_heads": H,
        "hidden_size": SMALL}  # fmt: skip

CASES = [
    hf("gpt2", "GPT2Model", "h.0.attn.c_attn.weight", GPT, longer),
    hf(
        "gpt2-cross",
        "GPT2Model",
        ("h.0.crossattention.q_attn.weight", "h.0.crossattention.c_attn.weight"),
        {**SMALL_GPT, "add_cross_attention": True},
        crossed,
        head_dim=SMALL_D,
    ),
    hf("gpt2.openai-gpt", "OpenAIGPTModel", "h.0.attn.c_attn.weight", SMALL_GPT, longer, head_dim=SMALL_D),
    hf(
        "gpt2.imagegpt",
        "ImageGPTModel",
        "h.0.attn.c_attn.weight",
        {**SMALL_GPT, "vocab_size": 13},
        longer,
        head_dim=SMALL_D,
    ),
    hf(
        "gpt2.decision-transformer",
        "DecisionTransformerModel",
        "encoder.h.0.attn.c_attn.weight",
        {
            "state_dim": 3,
            "act_dim": 2,
            "hidden_size": SMALL,
            **IDS,
            "n_layer": 1,
            "n_head": H,
            "n_positions": 8,
            "max_ep_len": 4,
            "vocab_size": 12,
        },
        decision,
        head_dim=SMALL_D,
        keep=("encoder.h.",),
    ),
    hf(
        "bloom",
        "BloomModel",
        "h.0.self_attention.query_key_value.weight",
        {**IDS, "vocab_size": 12, "hidden_size": SMALL, "n_layer": 1, "n_head": H},
        longer,
        head_dim=SMALL_D,
    ),
    hf("gpt-neox", "GPTNeoXModel", "layers.0.attention.query_key_value.weight", TEXT),
    hf(
        "gpt-neox.no-bias",
        "GPTNeoXForCausalLM",
        "gpt_neox.layers.0.attention.query_key_value.weight",
        {**NARROW, "attention_bias": False},
        heads=2,
        head_dim=8,
    ),
    hf(
        "gpt-neox-japanese",
        "GPTNeoXJapaneseModel",
        "layers.0.attention.query_key_value.weight",
        {**NARROW, "intermediate_multiple_size": 1},
        heads=2,
        head_dim=8,
    ),
    hf(
        "persimmon",
        "PersimmonModel",
        "layers.0.self_attn.query_key_value.weight",
        {**NARROW, "qk_layernorm": False},
        heads=2,
        head_dim=8,
    ),
    hf(
        "falcon-new",
        "FalconModel",
        FALCON_KEY,
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
        heads=6,
        head_dim=4,
        kv_heads=2,
    ),
    hf(
        "falcon-7b",
        "FalconModel",
        FALCON_KEY,
        {**FALCON, "multi_query": True, "new_decoder_architecture": False},
        heads=6,
        head_dim=4,
        kv_heads=1,
    ),
    hf(
        "falcon-rw",
        "FalconModel",
        FALCON_KEY,
        {**FALCON, "multi_query": False, "alibi": True, "bias": True, "new_decoder_architecture": False},
        longer,
        heads=6,
        head_dim=4,
        late_biases=("h.0.self_attention.query_key_value.bias",),
    ),
    hf(
        "gpt-bigcode-mqa",
        "GPTBigCodeModel",
        "h.0.attn.c_attn.weight",
        {**SMALL_GPT, "multi_query": True},
        longer,
        head_dim=SMALL_D,
        kv_heads=1,
    ),
    hf(
        "gpt-bigcode-mha",
        "GPTBigCodeModel",
        "h.0.attn.c_attn.weight",
        {**SMALL_GPT, "multi_query": False},
        longer,
        head_dim=SMALL_D,
    ),
    hf(
        "codegen",
        "CodeGenModel",
        "h.0.attn.qkv_proj.weight",
        {**GPT, "n_embd": 32, "n_head": 8, "n_ctx": 8, "rotary_dim": 2},
        heads=8,
        head_dim=4,
        single=True,
        keep=("transformer.h.", "h."),
    ),
    hf("phi3", "Phi3Model", "layers.0.self_attn.qkv_proj.weight", {**TEXT, "num_key_value_heads": 2}, kv_heads=2),
    hf(
        "mpt",
        "MptModel",
        "blocks.0.attn.Wqkv.weight",
        {"vocab_size": 12, "d_model": SMALL, "n_heads": H, "n_layers": 1, "max_seq_len": 8},
        longer,
        head_dim=SMALL_D,
    ),
    hf(
        "dbrx",
        "DbrxModel",
        "blocks.0.norm_attn_norm.attn.Wqkv.weight",
        {
            **DBRX,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1e6, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 8, "moe_num_experts": 2, "moe_top_k": 1},
        },
        kv_heads=2,
        keep=("blocks.",),
    ),
]
