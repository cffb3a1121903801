"""Encoders with a fused projection and odd biases, and frameworks for training large models."""

from qkvinspect.layouts.fused import KV_PER_HEAD, fused
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, QKV, Packing, Q, V

_QV_BIAS = (StoredWeight("q_bias", Q), StoredWeight("v_bias", V))
_MCORE = "megatron/core/transformer/attention.py"

LAYOUTS: tuple[Layout, ...] = (
    fused(
        "deberta-v1",
        "transformers DeBERTa (the first)",
        "in_proj.weight",
        PER_HEAD,
        layer="self",
        siblings=("q_bias", "v_bias"),
        bias=_QV_BIAS,
        out=("../output.dense.weight",),
        source="transformers models/deberta/modeling_deberta.py, DisentangledSelfAttention.forward",
        no_bias=("k",),
        note="q_bias and v_bias are added after the division; K has no bias",
    ),
    fused(
        "layoutlmv2",
        "transformers LayoutLMv2; UniLM s2s-ft",
        "qkv_linear.weight",
        layer="self",
        bias=_QV_BIAS,
        out=("../output.dense.weight",),
        no_bias=("k",),
        source="transformers models/layoutlmv2/modeling_layoutlmv2.py, LayoutLMv2SelfAttention.compute_qkv",
    ),
    fused(
        "megatron-core",
        "Megatron-Core, NeMo",
        "linear_qkv.weight",
        GROUPED,
        out=("linear_proj.weight",),
        kv_heads="free",
        source=f"{_MCORE}, SelfAttention.get_query_key_value_tensors",
    ),
    fused(
        "megatron-core-gated",
        "Megatron-Core with attention_output_gate",
        "linear_qkv.weight",
        Packing(("q", "gate", "k", "v"), groups="kv_heads"),
        out=("linear_proj.weight",),
        kv_heads="free",
        flags={"attention_output_gate": (True,)},
        needs_config=True,
        source=f"{_MCORE}, SelfAttention.get_query_key_value_tensors",
    ),
    Layout(
        id="megatron-core-cross",
        libraries="Megatron-Core cross-attention",
        weights=(StoredWeight("linear_q.weight", Q), StoredWeight("linear_kv.weight", KV_PER_HEAD)),
        biases=(StoredWeight("linear_q.bias", Q), StoredWeight("linear_kv.bias", KV_PER_HEAD)),
        layer="cross_attention",
        out=("linear_proj.weight",),
        kv_heads="equal",
        source=f"{_MCORE}, CrossAttention.get_query_key_value_tensors",
        proof="proven",
    ),
    Layout(
        id="openfold-ipa",
        libraries="OpenFold, ESMFold: invariant point attention",
        weights=(StoredWeight("linear_q.weight", Q), StoredWeight("linear_kv.weight", KV_PER_HEAD)),
        biases=(StoredWeight("linear_q.bias", Q), StoredWeight("linear_kv.bias", KV_PER_HEAD)),
        layer="ipa",
        kv_heads="equal",
        source="openfold/model/structure_module.py, InvariantPointAttention.forward",
        proof="source",
    ),
    *(
        fused(
            f"te-{name}-{form}",
            f"TransformerEngine MultiheadAttention, {how}",
            f"{name}.weight",
            packing,
            layer="self_attention",
            out=("proj.weight",),
            kv_heads="free",
            flags={"qkv_weight_interleaved": (interleaved,)},
            needs_config=True,
            bias=(StoredWeight(f"{name}.bias", packing),),
            source="transformer_engine/pytorch/attention/multi_head_attention.py",
            proof="source",
        )
        for name in ("qkv", "layernorm_qkv")
        for form, how, packing, interleaved in (
            ("interleaved", "its default", GROUPED, True),
            ("blocked", "qkv_weight_interleaved=False", QKV, False),
        )
    ),
    Layout(
        id="te-unfused",
        libraries="TransformerEngine MultiheadAttention without fuse_qkv_params",
        weights=tuple(
            StoredWeight(f"{part}_weight", packing)
            for part, packing in (("query", Q), ("key", Packing(("k",))), ("value", V))
        ),
        biases=tuple(
            StoredWeight(f"{part}_bias", packing)
            for part, packing in (("query", Q), ("key", Packing(("k",))), ("value", V))
        ),
        layer="layernorm_qkv|qkv",
        out=("../proj.weight",),
        source="transformer_engine/pytorch/attention/multi_head_attention.py, parameters_split",
        proof="memory",
    ),
)
