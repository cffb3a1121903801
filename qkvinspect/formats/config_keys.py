"""Interpret the keys of configs word by word: ``decoder_num_attention_heads`` is num_heads of the decoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.parsed import is_size

Meaning = Literal["num_heads", "num_kv_heads", "head_dim", "embed_dim", "nope_dim", "rope_dim"]

_NUMBER = frozenset({"n", "num", "number", "nb", "count", "of", "total"})
_ATTENTION = frozenset({"attention", "attn", "att", "mha", "multihead", "multi", "transformer"})
_OF_EACH = frozenset({"per", "stage", "stages", "layer", "layers"})
_HEADS = frozenset({"head", "heads", "nhead", "nheads"})

_HEAD_DIM: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            ("head", "dim"),
            ("heads", "dim"),
            ("dim", "head"),
            ("dim", "heads"),
            ("head", "size"),
            ("head", "width"),
            ("head", "channels"),
            ("d", "head"),
            ("d", "kv"),
            ("kv", "channels"),
            ("key", "length"),
            ("key", "dim"),
        ),
    )
)
_EMBED_DIM: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            ("hidden", "size"),
            ("hidden", "sizes"),
            ("hidden", "dim"),
            ("d", "model"),
            ("dim", "model"),
            ("model", "dim"),
            ("n", "embd"),
            ("embed", "dim"),
            ("embed", "dims"),
            ("emb", "dim"),
            ("dim",),
            ("width",),
        ),
    )
)
_OTHER_THINGS = frozenset(
    {
        "index",
        "indexer",
        "mamba",
        "ssm",
        "router",
        "ngram",
        "addition",
        "iou",
        "prediction",
        "box",
        "roi",
        "rope",
        "nope",
        "qk",
        "v",
        "value",
        "classifier",
        "segmentation",
        "mask",
        "depth",
        "ffn",
        "mlp",
        "lm",
        "in",
        "out",
        "output",
        "intermediate",
        "lora",
        "cond",
        "time",
    }
)
"""Words by which a key means something else than the heads of an attention."""


_SWITCHES = {"num_query_groups": "group_query_attention", "multi_query_group_num": "multi_query_attention"}
"""Keys that mean nothing while another one beside them is false (Megatron-LM, megatron/training/arguments.py; ChatGLM,
modeling_chatglm.py): their default, 1, is written out all the same."""


class ConfigKey(NamedTuple):
    """The meaning of a key.

    Attributes:
        means: which of a layer's sizes.
        roles: the words that name a part of the model; empty where the key is for the whole model.
    """

    means: Meaning
    roles: tuple[str, ...] = ()


_LATENT = {"qk_head_dim": ConfigKey("nope_dim"), "qk_pos_emb_head_dim": ConfigKey("rope_dim")}
"""Megatron-LM's keys of latent attention (megatron/core/transformer/transformer_config.py, MLATransformerConfig), which
it writes out with their defaults where there is none; elsewhere ``qk_head_dim`` is the sum of both."""


@cache
def read(key: str) -> ConfigKey | None:
    """The meaning of a key, or None where it is not about heads or widths."""
    words = tuple(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()))
    held = frozenset(words)
    if means := _meaning(held):
        roles = tuple(word for word in words if word not in _said(means, held))
        if not _OTHER_THINGS & frozenset(roles):
            return ConfigKey(means, roles)
    return None


def sizes(values: Mapping[str, object]) -> Iterator[tuple[str, ConfigKey, object]]:
    """Every key of heads and widths of one object of a config, with its value."""
    latent = values.get("multi_latent_attention") is True
    architecture = values.get("architecture")
    own = f"{architecture}." if isinstance(architecture, str) else ""  # GGUF: ernie4_5.attention.head_count
    for name, value in values.items():
        key = _LATENT[name] if latent and name in _LATENT else read(name.removeprefix(own))
        if key is not None and values.get(_SWITCHES.get(name, name)) is not False:
            yield name, key, value


def kv_heads(values: Mapping[str, object]) -> int | None:
    """How many heads of K and V a model has, as one object of its config says; None where that contradicts itself."""
    said = {value for _, key, value in sizes(values) if key == ConfigKey("num_kv_heads") and is_size(value)}
    return said.pop() if len(said) == 1 else None


def _meaning(words: frozenset[str]) -> Meaning | None:
    if {"qk", "head", "dim"} <= words:
        return "nope_dim" if "nope" in words else "rope_dim" if "rope" in words else None
    if any(form <= words for form in _HEAD_DIM) and not words & {"n", "num", "hidden"}:
        return "head_dim"
    if words & _HEADS and not words & {"dim", "dims", "size", "hidden", "width", "channels", "ratio"}:
        if "kv" in words or {"key", "value"} <= words:
            return "num_kv_heads"
        counted = words & (_NUMBER | _ATTENTION | {"heads", "nhead", "nheads"})
        return "num_heads" if counted and "key" not in words else None
    if words & {"groups", "group"} and "query" in words and "head" not in words:
        return "num_kv_heads"
    if any(form <= words for form in _EMBED_DIM) and not words & {"head", "heads", "ff", "proj", "projection"}:
        return "embed_dim"
    return None


def _said(means: Meaning, words: frozenset[str]) -> frozenset[str]:
    """The words that make up the meaning itself."""
    common = _NUMBER | _ATTENTION | _OF_EACH | _HEADS
    match means:
        case "num_heads":
            return common
        case "num_kv_heads":
            return common | {"kv", "key", "value", "query", "groups", "group"}
        case "head_dim":
            return common | next(form for form in _HEAD_DIM if form <= words)
        case "nope_dim" | "rope_dim":
            return common | {"qk", "nope", "rope", "dim"}
        case "embed_dim":
            return common | next(form for form in _EMBED_DIM if form <= words)
