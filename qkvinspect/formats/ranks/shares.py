"""Tell from a tensor's name how tensor parallelism cuts it.

A column-parallel layer is cut by its rows, a row-parallel one by its columns, anything else is on every rank alike
(Megatron-LM, megatron/core/tensor_parallel/layers.py; vLLM, vllm/model_executor/layers/linear.py). A fused tensor
whose parts follow each other in blocks is cut part by part, so that each rank holds a block of each.
"""

from __future__ import annotations

import re
from typing import Literal

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.formats.ranks.file_names import Kind
from qkvinspect.late_pattern import late_pattern

Cut = Literal[
    "rows", "columns", "whole", "blocks of q, k, v", "two blocks", "copies of k, v", "rows or whole", "unknown"
]
"""How a tensor is cut. ``copies of k, v``: by rows, but where there are more ranks than kv heads several ranks hold
the same one. ``rows or whole``: as the layer was built, which what reads it tells. ``unknown``: nothing tells."""

QKV_IN_BLOCKS = late_pattern(r"(^|\.)(qkv_proj|qkv|Wqkv|W_pack|c_attn|att_proj|to_qkv|(attn|attention)[^.]*\.in_proj)$")
QUERY_KEY_VALUE = late_pattern(r"(^|\.)query_key_value$")
_K_OR_V = late_pattern(r"(^|\.)(k_proj|v_proj|wk|wv|Wk|Wv|key|value|to_k|to_v)$")
_TWO_BLOCKS = late_pattern(r"(^|\.)(gate_up_proj|linear_fc1|dense_h_to_4h|w13)$")
_ROWS = late_pattern(
    r"(^|\.)(q_proj|wq|Wq|query|to_q|linear_qkv|linear_q|linear_kv|key_value|layernorm_qkv|q_b_proj|kv_b_proj"
    r"|linear_q_proj|linear_q_up_proj|linear_kv_up_proj|gate_proj|up_proj|w1|w3|fc1|c_fc|fc_in|wi|wi_0|wi_1|intermediate\.dense"
    r"|word_embeddings|word_embeddings_for_head|embed_tokens|embed_in|wte|tok_embeddings|lm_head|output_layer|embed_out"
    r"|final_linear|final_layer)$"
)
_ROWS_OR_WHOLE = late_pattern(r"(^|\.)linear_(q|kv)_down_proj$")
_COLUMNS = late_pattern(
    r"(^|\.)(o_proj|out_proj|linear_proj|wo|to_out|attention\.dense|self_attention\.dense|inter_attention\.dense"
    r"|attn\.c_proj|mlp\.c_proj|c_proj|linear_fc2|dense_4h_to_h|down_proj|w2|fc2|fc_out|output\.dense)$"
)
_WHOLE = late_pattern(
    r"norm|(^|\.)ln_|rotary|inv_freq|position_embeddings|embed_positions|(^|\.)wpe|router|(^|\.)gate$"
    r"|fused_qkv_a_proj|kv_a_proj|q_a_proj|linear_q_down|linear_kv_down|tokentype|(^|\.)pooler|_extra_state|lm_head\.dense",
    re.IGNORECASE,
)
PARTNERS = {
    "blocks of q, k, v": ("o_proj", "out_proj", "dense", "c_proj", "wo", "linear_proj"),
    "two blocks": ("down_proj", "linear_fc2", "dense_4h_to_h", "w2"),
}
"""The row-parallel layer beside such a tensor: it reads what the first block (and no other) becomes."""

_LEAVES = frozenset(["weight", "bias", "weight_scale", "weight_scale_inv"])


@dataclass(frozen=True, slots=True)
class ShareOf:
    """A tensor's module, and its own last component."""

    module: str
    leaf: str


def named(name: str) -> ShareOf:
    """``in_proj_weight`` is the weight of ``in_proj``, as ``in_proj.weight`` would be."""
    module, _, leaf = re.sub(r"(?<=[a-z0-9])_(weight|bias)$", r".\1", name).rpartition(".")
    return ShareOf(module, leaf)


def cut_of(name: str, kind: Kind, version: object) -> Cut:
    """How a tensor is cut.

    Args:
        version: Megatron's ``checkpoint_version``, or None.
    """
    of = named(name)
    if of.leaf not in _LEAVES:
        return "whole" if _WHOLE.search(name) else "unknown"
    if _COLUMNS.search(of.module):
        return "whole" if of.leaf == "bias" else "columns"
    if QUERY_KEY_VALUE.search(of.module):
        # vLLM packs every fused projection in blocks; Megatron before its version 1 did, and after it by heads
        in_blocks = kind == "vllm" or (kind == "megatron" and version == 0 and version is not None)
        return "blocks of q, k, v" if in_blocks else "rows"
    if QKV_IN_BLOCKS.search(of.module):
        return "blocks of q, k, v"
    if _ROWS_OR_WHOLE.search(of.module):
        return "rows or whole"
    if _TWO_BLOCKS.search(of.module):
        return "two blocks"
    if _K_OR_V.search(of.module):
        return "copies of k, v"
    if _ROWS.search(of.module):
        return "rows"
    return "whole" if _WHOLE.search(name) else "unknown"
