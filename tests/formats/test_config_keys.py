"""Keys of configs are read word by word, as people and libraries spell them."""

from __future__ import annotations

import pytest

from qkvinspect.formats.config_keys import read
from tests.batches import batched

HEADS = [
    "num_attention_heads", "n_head", "n_heads", "num_heads", "head_count", "nhead", "nheads", "heads", "numHeads",
    "attention_heads", "transformer_heads", "num_attention_heads_per_stage", "num_attention_heads_per_layer",
]  # fmt: skip
KV_HEADS = [
    "num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "head_count_kv", "multi_query_group_num",
    "n_query_groups", "num_query_groups", "kv_n_heads", "num_key_value_attention_heads",
]  # fmt: skip
HEAD_DIM = [
    "head_dim", "d_kv", "kv_channels", "dim_head", "head_size", "attention_head_dim", "key_length", "d_head",
    "head_width", "transformer_dim_head",
]  # fmt: skip
EMBED_DIM = ["hidden_size", "d_model", "n_embd", "embed_dim", "dim", "width", "hidden_dim", "model_dim"]
OTHER = [
    "index_n_heads", "mamba_n_heads", "n_mamba_heads", "v_head_dim", "head_hidden_size", "head_ratio", "iou_head_depth",
    "heads_per_ngram", "num_conv_pos_embedding_groups", "norm_num_groups", "n_layer", "intermediate_size", "ffn_dim",
    "addition_embed_type_num_heads", "out_hidden_size", "head_in_index", "vocab_size",
]  # fmt: skip


@batched(
    "means key",
    [
        *(("num_heads", key) for key in HEADS),
        *(("num_kv_heads", key) for key in KV_HEADS),
        *(("head_dim", key) for key in HEAD_DIM),
        *(("embed_dim", key) for key in EMBED_DIM),
        ("nope_dim", "qk_nope_head_dim"),
        ("rope_dim", "qk_rope_head_dim"),
    ],
)
def test_a_key_of_the_whole_model(means: str, key: str) -> None:
    found = read(key)
    assert found is not None
    assert (found.means, found.roles) == (means, ())


@pytest.mark.parametrize("key", OTHER)
def test_a_key_of_something_else(key: str) -> None:
    assert read(key) is None


@pytest.mark.parametrize(
    ("key", "means", "roles"),
    [
        ("decoder_attention_heads", "num_heads", ("decoder",)),
        ("num_decoder_attention_heads", "num_heads", ("decoder",)),
        ("decoder_self_attention_heads", "num_heads", ("decoder", "self")),
        ("speech_encoder_attention_heads", "num_heads", ("speech", "encoder")),
        ("cross_num_key_value_heads", "num_kv_heads", ("cross",)),
        ("cross_attention_head_dim", "head_dim", ("cross",)),
        ("swa_num_attention_heads", "num_heads", ("swa",)),
        ("global_head_dim", "head_dim", ("global",)),
        ("memory_attention_num_attention_heads", "num_heads", ("memory",)),
        ("text_hidden_size", "embed_dim", ("text",)),
    ],
)
def test_a_key_of_one_part_of_the_model(key: str, means: str, roles: tuple[str, ...]) -> None:
    found = read(key)
    assert found is not None
    assert (found.means, found.roles) == (means, roles)
