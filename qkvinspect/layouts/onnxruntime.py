"""Attention operators of onnxruntime that hold the projections themselves, called after the place of the operator."""

from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import QKV

LAYOUTS = (
    Layout(
        id="onnxruntime-attention",
        libraries="onnxruntime's optimiser: the operator Attention of com.microsoft",
        weights=(StoredWeight("qkv_weight", QKV),),
        biases=(StoredWeight("qkv_bias", QKV),),
        out=("../output.dense.weight", "o_proj|out_proj|proj|dense.weight", "../dense.weight"),
        source="onnxruntime docs/ContribOperators.md, com.microsoft.Attention: weights and qkv_hidden_sizes",
        proof="source",
        v_free=True,
        note="in the file it lies [in, out]",
        head_tensors=(),
    ),
    Layout(
        id="onnxruntime-packed",
        libraries="a packed projection whose product an attention operator of onnxruntime takes whole",
        weights=(StoredWeight("qkv_proj|qkv|Wqkv|wqkv|c_attn|query_key_value|in_proj.weight", QKV),),
        out=("o_proj|out_proj|proj|dense|c_proj|wo.weight",),
        source="onnxruntime docs/ContribOperators.md, com.microsoft.GroupQueryAttention: packed QKV in query",
        proof="source",
        flags={"packed_qkv_of_operator": (True,)},
        needs_config=True,
        only_told=True,
        kv_heads="free",
        head_tensors=(),
    ),
)
