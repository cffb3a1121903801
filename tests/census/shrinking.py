"""Smaller configs of transformers and diffusers: every size divided by the same number, the heads left as they are."""

from __future__ import annotations

import re
from typing import Any

SIZES = re.compile(
    r"(hidden|intermediate|ffn|embed|model|head|encoder|decoder|inner|feature|conv|latent|state|expert|key|value|mlp)"
    r"[a-z_0-9]*(size|dim|dims|width|channels)s?$|^(hidden_sizes?|d_model|d_ff|d_kv|dim|dims|dim_head|d_inner|n_embd|"
    r"n_inner|emb_dim|d_head|head_dim|embed_dims?|encoder_ffn_dim|decoder_ffn_dim|width|q_lora_rank|kv_lora_rank|"
    r"qk_nope_head_dim|qk_rope_head_dim|v_head_dim|index_head_dim|o_lora_rank|conv_dim|projection_dim|ffn_dim|mlp_dim|"
    r"ffn_hidden_size|depths_dim|attention_head_size|rotary_dim|lru_width|mrope_section|rotary_ndims|key_dim|value_dim|"
    r"mamba_d_ssm|attention_hidden_size|decoder_hidden_size|neck_hidden_sizes|expert_hidden_size|output_dim|"
    r"hidden_dim|d_embed|d_proj|embedding_size|bottleneck_size|word_embed_proj_dim|moe_intermediate_size|dim_model)$"
)
LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|num_encoder_layers|num_decoder_layers|depth|"
    r"num_blocks|n_blocks|num_hidden_groups|num_attention_layers|num_encoder_blocks_|l_layers|x_layers|r_layers|"
    r"num_single_layers|encoder_num_layers|decoder_num_layers|num_dual_layers|num_refiner_layers|"
    r"num_double_layers|transformer_num_layers|num_transformer_layers|n_dense_layers|detector_layers|"
    r"prefix_decoder_layers|num_encoder_layers_|qformer_layers|num_mtp_layers|num_nextn_predict_layers)$"
)
EXPERTS = re.compile(r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)$")
GROUPED = {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2}
VOCABULARY = 1024


def smaller(config: Any, factor: int, layers: int, kv: bool, key: str = "") -> Any:
    """``config`` (what ``to_dict`` gives) with sizes divided, few layers, few words; sub-configs likewise.

    Args:
        kv: fewer heads for K and V where there are as many as for Q, and for a decoder where the encoder has as many.
    """
    if isinstance(config, list):
        return [smaller(value, factor, layers, kv, key) for value in config]
    if not isinstance(config, dict):
        return _value(key, config, factor)
    result = {name: smaller(value, factor, layers, kv, str(name)) for name, value in config.items()}
    _fewer_layers(config, result, layers)
    for name, value in config.items():
        if isinstance(name, str) and isinstance(value, int) and not isinstance(value, bool):
            if "vocab_size" in name and value > VOCABULARY:
                result[name] = VOCABULARY
            elif re.search(r"(token|tok)_(id|index)$|_id$", name) and value >= VOCABULARY:
                result[name] = VOCABULARY - 100 + value % 97
            elif EXPERTS.match(name) and value > 4:
                result[name] = 4
            elif name in GROUPED and value > GROUPED[name]:
                result[name] = GROUPED[name]
    if kv:
        _fewer_heads(result)
    return result


def _value(key: str, value: Any, factor: int) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or not SIZES.search(key):
        return value
    if "image" in key or "patch" in key or "kernel" in key or "window" in key:
        return value
    if key == "mrope_section":
        return max(1, value // factor)
    return value // factor if value >= 8 * factor and value % factor == 0 else value


def _fewer_layers(config: dict[str, Any], result: dict[str, Any], layers: int) -> None:
    counts = {value for name, value in config.items() if isinstance(value, int) and LAYERS.match(str(name))}
    kept = list(range(layers))
    for name, value in config.items():
        if isinstance(value, list) and len(value) in counts and "type" in str(name) and len(value) > layers:
            firsts = sorted(value.index(kind) for kind in dict.fromkeys(map(str, value)) if kind in value)
            others = [place for place in range(len(value)) if place not in firsts]
            kept = sorted([*firsts[:4], *others[: max(0, layers - len(firsts))]])
            break
    for name, value in config.items():
        if isinstance(value, list) and len(value) in counts and len(value) > len(kept) and len(value) > 4:
            result[name] = [result[name][place] for place in kept]
        elif LAYERS.match(str(name)) and isinstance(value, int) and value > len(kept):
            result[name] = len(kept)


def _fewer_heads(result: dict[str, Any]) -> None:
    for one, other in (
        ("num_attention_heads", "num_key_value_heads"), ("num_heads", "num_kv_heads"), ("n_heads", "n_kv_heads"),
        ("encoder_attention_heads", "decoder_attention_heads"),
    ):  # fmt: skip
        if isinstance(result.get(one), int) and result[one] == result.get(other) and result[one] % 2 == 0:
            result[other] = result[one] // 2
