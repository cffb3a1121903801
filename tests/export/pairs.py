"""Models of real libraries loaded with what qkvinspect wrote for them: the same outputs as the model it came from.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
    python tests/export/pairs.py        # writes pairs.json beside it

For each pair, a model of random weights is saved, its attention converted to another library's layout, and from there
into the layout that the model stores. ``load_state_dict(strict=True)`` must take the result, ``from_pretrained`` the
same in shards, and the outputs on random inputs must be those of the first model within 2e-5.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from qkvinspect.cli import main

TOLERANCE = 2e-5
TEXT = {"vocab_size": 50}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, **TEXT}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, **TEXT}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **TEXT}

PAIRS: dict[str, tuple[str, str, dict[str, Any], str, str, str]] = {
    # name: (model, config, its options, the layout it stores, the layout on the way, heads)
    "bert through torch-mha": ("BertModel", "BertConfig", SMALL, "bert", "torch-mha", "4"),
    "bert through gpt2": ("BertModel", "BertConfig", SMALL, "bert", "gpt2", "4"),
    "bert through megatron-v1": ("BertModel", "BertConfig", SMALL, "bert", "megatron-v1", "4"),
    "gpt2 through bert": ("GPT2Model", "GPT2Config", GPT, "gpt2", "bert", "4"),
    "gpt2 through bloom": ("GPT2Model", "GPT2Config", GPT, "gpt2", "bloom", "4"),
    "bloom through torch-mha": (
        "BloomModel", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **TEXT}, "bloom", "torch-mha", "4",
    ),
    "falcon-new through qkv-proj": (
        "FalconModel", "FalconConfig", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}, "falcon-new",
        "qkv-proj", "4/2",
    ),
    "falcon-7b through phi3": (
        "FalconModel", "FalconConfig", {**FALCON, "multi_query": True, "new_decoder_architecture": False}, "falcon-7b",
        "phi3", "4/1",
    ),
    "falcon-rw through gpt2": (
        "FalconModel", "FalconConfig", {**FALCON, "multi_query": False, "alibi": True, "bias": True}, "falcon-rw",
        "gpt2", "4",
    ),
    "phi3 through megatron-core": (
        "Phi3Model", "Phi3Config", {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}, "phi3", "megatron-core",
        "4/2",
    ),
    "gpt-neox through bert": ("GPTNeoXModel", "GPTNeoXConfig", SMALL, "gpt-neox", "bert", "4"),
    "llama through megatron-core": (
        "LlamaModel", "LlamaConfig", {**SMALL, "num_key_value_heads": 2}, "qkv-proj", "megatron-core", "4/2",
    ),
    "llama through falcon-new": (
        "LlamaModel", "LlamaConfig", {**SMALL, "num_key_value_heads": 2}, "qkv-proj", "falcon-new", "4/2",
    ),
    "codegen through torch-mha": (
        "CodeGenModel", "CodeGenConfig", {"n_embd": 64, "n_layer": 2, "n_head": 8, "n_positions": 16, "n_ctx": 16,
        "rotary_dim": 4, **TEXT}, "codegen", "torch-mha", "8",
    ),
    "mpt through te-qkv-interleaved": (
        "MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16, **TEXT}, "wqkv-upper",
        "te-qkv-interleaved", "4",
    ),
}  # fmt: skip

RENAMED = {
    "llama through falcon-new": r"\.self_attention\.=.self_attn.",
    "gpt2 through bert": r"\.self\.=.attn.",
    "gpt2 through bloom": r"\.self_attention\.=.attn.",
    "mpt through te-qkv-interleaved": r"\.self_attention\.=.attn.",
}
"""Layers whose names the layout on the way changes, and their own does not demand."""


def run(*argv: object) -> None:
    code = main([str(word) for word in argv])
    if code:
        raise SystemExit(f"qkvinspect {argv[0]} failed")


def there_and_back(state: dict[str, torch.Tensor], name: str, folder: Path) -> None:
    """Write back.pt, and the same in shards, under the names that the model has."""
    *_, own, other, heads = PAIRS[name]
    counts = ["--heads", heads]
    way, rename = folder / "way.safetensors", ["--rename", RENAMED[name]] if name in RENAMED else []
    torch.save(state, folder / "model.pt")
    run("convert", folder / "model.pt", "--to", other, "-o", way, "--layout", own, *counts, "--verify")
    back = ("convert", way, "--to", own, "--layout", other, *counts, *rename)
    run(*back, "-o", folder / "back.pt", "--verify")
    run(*back, "-o", folder / "shards", "--max-shard-size", "20kB", "--verify")


def outputs(model: Any) -> torch.Tensor:
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=tokens).last_hidden_state


def gap(name: str) -> dict[str, Any]:
    import transformers

    pair = PAIRS[name]
    torch.manual_seed(0)
    config = getattr(transformers, pair[1])(**pair[2])
    model, fresh, another = (getattr(transformers, pair[0])(config).eval() for _ in range(3))
    for parameter in (*model.parameters(), *fresh.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(model.state_dict(), name, Path(folder))
        fresh.load_state_dict(torch.load(Path(folder, "back.pt"), weights_only=True), strict=True)
        config.save_pretrained(Path(folder, "shards"))
        sharded = getattr(transformers, pair[0]).from_pretrained(Path(folder, "shards"), dtype=torch.float32).eval()
    return {
        "model": pair[0],
        "transformers": transformers.__version__,
        "another model": float((outputs(model) - outputs(another)).abs().max()),
        "difference": float((outputs(model) - outputs(fresh)).abs().max()),
        "from shards": float((outputs(model) - outputs(sharded)).abs().max()),
    }


if __name__ == "__main__":
    found = {name: gap(name) for name in PAIRS}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    for name, result in found.items():
        print(f"{name}: {result['difference']:.1e}, from shards {result['from shards']:.1e}")
