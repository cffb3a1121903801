"""Encoders with a fused projection and odd biases, and frameworks for training large models."""

from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import GROUPED, KV_PER_HEAD, PER_HEAD, QKV, Packing, Q, V

_QV_BIAS = (StoredWeight("q_bias", Q), StoredWeight("v_bias", V))
_MCORE = "megatron/core/transformer/attention.py"

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        id="deberta-v1",
        libraries="transformers DeBERTa (the first)",
        weights=(StoredWeight("in_proj.weight", PER_HEAD),),
        biases=_QV_BIAS,
        layer="self",
        siblings=("q_bias", "v_bias"),
        out=("../output.dense.weight",),
        source="transformers models/deberta/modeling_deberta.py, DisentangledSelfAttention.forward",
        proof="proven",
        no_bias=("k",),
        note="q_bias and v_bias are added after the division; K has no bias",
    ),
    Layout(
        id="layoutlmv2",
        libraries="transformers LayoutLMv2; UniLM s2s-ft",
        weights=(StoredWeight("qkv_linear.weight", QKV),),
        biases=_QV_BIAS,
        layer="self",
        out=("../output.dense.weight",),
        no_bias=("k",),
        source="transformers models/layoutlmv2/modeling_layoutlmv2.py, LayoutLMv2SelfAttention.compute_qkv",
        proof="proven",
    ),
    Layout(
        id="megatron-core",
        ranks_for="megatron",
        libraries="Megatron-Core, NeMo",
        weights=(StoredWeight("linear_qkv.weight", GROUPED),),
        out=("linear_proj.weight",),
        kv_heads="free",
        source=f"{_MCORE}, SelfAttention.get_query_key_value_tensors",
        proof="proven",
    ),
    Layout(
        id="megatron-core-gated",
        ranks_for="megatron",
        libraries="Megatron-Core with attention_output_gate",
        weights=(StoredWeight("linear_qkv.weight", Packing(("q", "gate", "k", "v"), groups="kv_heads")),),
        out=("linear_proj.weight",),
        kv_heads="free",
        flags={"attention_output_gate": (True,)},
        needs_config=True,
        source=f"{_MCORE}, SelfAttention.get_query_key_value_tensors",
        proof="proven",
    ),
    Layout(
        id="megatron-core-cross",
        ranks_for="megatron",
        libraries="Megatron-Core cross-attention",
        weights=(StoredWeight("linear_q.weight", Q), StoredWeight("linear_kv.weight", KV_PER_HEAD)),
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
        layer="ipa",
        kv_heads="equal",
        source="openfold/model/structure_module.py, InvariantPointAttention.forward",
        proof="source",
    ),
    *(
        Layout(
            id=f"te-{name}-{form}",
            libraries=f"TransformerEngine MultiheadAttention, {how}",
            weights=(StoredWeight(f"{name}.weight", packing),),
            layer="self_attention",
            out=("proj.weight",),
            kv_heads="free",
            flags={"qkv_weight_interleaved": (interleaved,)},
            needs_config=True,
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
