"""Writes ``data/``: small models, adapters that PEFT made for them, and the weights that PEFT itself merges.

Run on a CPU with peft 0.21.2, transformers 5.0.0, torch 2.13.0: ``python make_adapters.py [NAME ...]``. For each case
``NAME.base.safetensors`` holds the attention of the model as it is, ``NAME.adapter.safetensors`` and
``NAME.adapter.json`` are PEFT's ``adapter_model.safetensors`` and ``adapter_config.json``, and
``NAME.merged.safetensors`` holds the weights that ``merge_and_unload`` changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent / "data"
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 8}
TEXT = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 16}


class Block(torch.nn.Module):
    """timm's attention: one fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.qkv = torch.nn.Linear(16, 48)
        self.attn.proj = torch.nn.Linear(16, 16)


class Vision(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))


class Convolutions(torch.nn.Module):
    """Attention whose projections are 1x1 convolutions, as autoencoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.to_qkv = torch.nn.Conv2d(16, 48, 1, bias=False)
        self.attn.to_out = torch.nn.Conv2d(16, 16, 1)


class Encoder(torch.nn.Module):
    """torch.nn.MultiheadAttention, as it packs its projections."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.TransformerEncoderLayer(16, 4, 16) for _ in range(2)])


def llama(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).to(dtype)


def gpt2() -> torch.nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=16, vocab_size=8))


QV = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj"]

CASES: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, Any]]] = {
    "llama-qv": (llama, {"target_modules": QV}),
    "llama-all": (llama, {"target_modules": ALL}),
    "llama-rslora": (llama, {"target_modules": ALL, "use_rslora": True}),
    "llama-dora": (llama, {"target_modules": ALL, "use_dora": True}),
    "llama-patterns": (
        llama,
        {
            "target_modules": ALL,
            "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "v_proj": 6},
            "alpha_pattern": {"o_proj": 3, r".*\.1\..*k_proj": 5},
        },
    ),
    "llama-bfloat16": (lambda: llama(torch.bfloat16), {"target_modules": ALL}),
    "llama-dora-bfloat16": (lambda: llama(torch.bfloat16), {"target_modules": QV, "use_dora": True}),
    "mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)), {"target_modules": ALL}),
    "qwen2-bias": (lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT)), {"target_modules": ALL, "bias": "lora_only"}),
    "gpt2": (gpt2, {"target_modules": r".*attn\.(c_attn|c_proj)", "fan_in_fan_out": True}),
    "gpt2-dora": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
    "neox": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL)),
        {"target_modules": ["query_key_value", "dense"]},
    ),
    "bloom": (
        lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=16, n_layer=2, n_head=4, vocab_size=8)),
        {"target_modules": ["query_key_value"]},
    ),
    "falcon": (
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**SMALL, num_kv_heads=2, new_decoder_architecture=True)),
        {"target_modules": ["query_key_value"]},
    ),
    "phi3": (lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**TEXT, pad_token_id=0)), {"target_modules": ["qkv_proj"]}),
    "mpt": (
        lambda: hf.MptForCausalLM(hf.MptConfig(d_model=16, n_layers=2, n_heads=4, vocab_size=8, max_seq_len=16)),
        {"target_modules": ["Wqkv"]},
    ),
    "bert": (
        lambda: hf.BertModel(hf.BertConfig(**SMALL)),
        {"target_modules": ["query", "key", "value"], "use_dora": True},
    ),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4, vocab_size=8)
        ),
        {"target_modules": ["q", "v"]},
    ),
    "opt": (
        lambda: hf.OPTForCausalLM(
            hf.OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=8)
        ),
        {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]},
    ),
    "vit": (
        lambda: hf.ViTModel(hf.ViTConfig(**{k: v for k, v in SMALL.items() if k != "vocab_size"}, image_size=16)),
        {"target_modules": ["query", "value"], "use_rslora": True},
    ),
    "timm": (Vision, {"target_modules": ["qkv", "proj"]}),
    "timm-dora": (Vision, {"target_modules": ["qkv"], "use_dora": True}),
    "convolution": (Convolutions, {"target_modules": ["to_qkv", "to_out"]}),
    "multihead": (Encoder, {"target_modules": ["self_attn"]}),
}


def attention(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of attention modules, each with memory of its own."""
    words = ("attn", "attention", "Attention")
    return {name: value.clone().contiguous() for name, value in state.items() if any(word in name for word in words)}


def make(name: str) -> None:
    torch.manual_seed(sum(map(ord, name)))
    build, said = CASES[name]
    model = build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    before = attention(model.state_dict())
    options = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, **said}
    adapted = get_peft_model(model, LoraConfig(**options))
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        save_file(load_file(f"{folder}/adapter_model.safetensors"), DATA / f"{name}.adapter.safetensors")
        config = json.loads(Path(folder, "adapter_config.json").read_text())
    kept = {key: value for key, value in config.items() if value not in (None, [], {}, False) or key == "use_dora"}
    (DATA / f"{name}.adapter.json").write_text(json.dumps(kept, sort_keys=True) + "\n")
    merged = attention(adapted.merge_and_unload().state_dict())
    changed = {key: value for key, value in merged.items() if not torch.equal(value, before[key])}
    save_file(before, DATA / f"{name}.base.safetensors")
    save_file(changed, DATA / f"{name}.merged.safetensors")
    print(name, len(changed), "weights")


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        make(case)
