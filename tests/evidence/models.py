"""Small transformers made by public code, and what each is trained to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import torch
import transformers
from data import MASK, VOCAB, images, masked, texts
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TORCHVISION = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")

Task = Callable[[nn.Module, torch.Generator, bool], Tensor]


@dataclass(frozen=True)
class Model:
    build: Callable[[Model], nn.Module]
    task: Task
    packing: str
    heads: int = 4
    kv_heads: int | None = None
    width: int = 128
    layers: int = 3
    rotary: str = "none"


class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCAB, width)
        self.position = nn.Embedding(128, width)

    def forward(self, text: Tensor) -> Tensor:
        return self.token(text) + self.position(torch.arange(text.shape[1]))


class ByteEncoder(nn.Module):
    def __init__(self, model: Model, norm_first: bool) -> None:
        super().__init__()
        self.embed = Embedding(model.width)
        layer = nn.TransformerEncoderLayer(
            model.width, model.heads, 4 * model.width, dropout=0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, model.layers, enable_nested_tensor=False)
        self.head = nn.Linear(model.width, VOCAB)

    def forward(self, text: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        return self.head(self.encoder(self.embed(text), causal, is_causal=True))


class ByteRepairer(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.embed = Embedding(model.width)
        self.transformer = nn.Transformer(
            model.width, model.heads, model.layers, model.layers, 4 * model.width, dropout=0, batch_first=True
        )
        self.head = nn.Linear(model.width, VOCAB)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(self.embed(source), self.embed(target), tgt_mask=causal, tgt_is_causal=True))


def hugging(name: str, sizes: tuple[str, ...], **settings: Any) -> Callable[[Model], nn.Module]:
    """A class of transformers, and its config's words for width, layers and heads."""

    def build(model: Model) -> nn.Module:
        made = getattr(transformers, name)
        values = dict(zip(sizes, (model.width, model.layers, model.heads), strict=True))
        config = made.config_class(
            vocab_size=VOCAB, bos_token_id=None, eos_token_id=None, use_cache=False, **values, **settings
        )
        return made(config)

    return build


def vit(model: Model, **settings: Any) -> nn.Module:
    for name in TORCHVISION:  # imported by timm and not called here
        sys.modules[f"torchvision{name}"] = MagicMock()
    from timm.models.vision_transformer import VisionTransformer

    for name in TORCHVISION:
        del sys.modules[f"torchvision{name}"]
    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=model.width,
        depth=model.layers,
        num_heads=model.heads,
        **settings,
    )


def next_byte(module: nn.Module, draw: torch.Generator, other: bool) -> Tensor:
    text = texts(draw, other)
    found = module(text[:, :-1])
    return cross_entropy(getattr(found, "logits", found).flatten(0, 1), text[:, 1:].flatten())


def hidden_byte(module: nn.Module, draw: torch.Generator, other: bool) -> Tensor:
    text = texts(draw, other)
    seen, hidden = masked(text, draw)
    return cross_entropy(module(seen).logits[hidden], text[hidden])


def repair(module: nn.Module, draw: torch.Generator, other: bool) -> Tensor:
    text = texts(draw, other)
    seen, _ = masked(text, draw)
    begun = nn.functional.pad(text[:, :-1], (1, 0), value=MASK)
    return cross_entropy(module(seen, begun).flatten(0, 1), text.flatten())


def classify(module: nn.Module, draw: torch.Generator, other: bool) -> Tensor:
    pixels, labels = images(draw, other)
    return cross_entropy(module(pixels), labels)


HF = ("hidden_size", "num_hidden_layers", "num_attention_heads")
GPT = ("n_embd", "n_layer", "n_head")
IN_PROJ = "in_proj_weight [3E, E]: Q, K, V, each heads in order"
SEPARATE = "q, k, v apart, heads in order"


def llama(kv_heads: int) -> Model:
    build = hugging("LlamaForCausalLM", HF, num_key_value_heads=kv_heads, intermediate_size=384)
    return Model(build, next_byte, SEPARATE, 8, kv_heads, rotary="rotate-half, whole head")


def gptj(rotary_dim: int) -> Model:
    build = hugging("GPTJForCausalLM", GPT, rotary_dim=rotary_dim)
    return Model(build, next_byte, SEPARATE, rotary=f"interleaved, first {rotary_dim} of 32")


def neox(part: float) -> Model:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": part}
    build = hugging("GPTNeoXForCausalLM", HF, intermediate_size=512, rope_parameters=rope)
    packing = "query_key_value [3E, E]: for each head q, k, v"
    return Model(build, next_byte, packing, rotary=f"rotate-half, first {int(32 * part)} of 32")


MODELS = {
    "torch-encoder": Model(partial(ByteEncoder, norm_first=True), next_byte, IN_PROJ, heads=8),
    "llama-gqa": llama(2),
    "vit": Model(vit, classify, "qkv [3E, E]: Q, K, V, each heads in order"),
    "gpt2": Model(hugging("GPT2LMHeadModel", GPT), next_byte, "c_attn [E, 3E] (Conv1D): Q, K, V, each heads in order"),
    "gptj": gptj(32),
    "gptj-half": gptj(16),
    "neox": neox(0.25),
    "neox-whole": neox(1.0),
    "llama-mha": llama(8),
    "llama-mqa": llama(1),
    "bert": Model(hugging("BertForMaskedLM", HF, intermediate_size=512), hidden_byte, SEPARATE),
    "vit-qknorm": Model(partial(vit, qk_norm=True), classify, "qkv [3E, E]: Q, K, V, each heads in order"),
    "encoder-decoder": Model(ByteRepairer, repair, IN_PROJ),
    "torch-encoder-64": Model(partial(ByteEncoder, norm_first=True), next_byte, IN_PROJ, width=64, layers=2),
    "torch-encoder-256": Model(partial(ByteEncoder, norm_first=False), next_byte, IN_PROJ, width=256),
}
