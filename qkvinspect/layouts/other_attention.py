"""Attention of other kinds: latent (DeepSeek), in stripes, linear, and hybrids that project gates or an MLP along."""

from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.logits import NO_SOFTMAX
from qkvinspect.layouts.packing import KV, KV_PER_HEAD, PER_HEAD, QKV, Packing, Q

_STATE_SPACE = ("A_log", "D", "dt_bias", "conv1d.weight")

LAYOUTS: tuple[Layout, ...] = (
    *(
        Layout(
            id=id,
            libraries=libraries,
            weights=(StoredWeight(f"{kv}_b{end}.weight", KV_PER_HEAD), StoredWeight(f"{q}.weight", Q)),
            siblings=(f"{kv}_a{end}_with_mqa.weight",),
            unless=unless,
            out=("o_proj|wo|dense.weight",),
            v_free=True,
            kv_heads="equal",
            source="transformers models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3Attention.forward",
            proof="proven" if kv == "kv" else "source",
            note="a head of Q ends with its rotary part; that of K is the same for all heads, in kv_a_proj_with_mqa",
            biases=(),
        )
        for id, libraries, kv, end, q, unless in (
            ("mla", "DeepSeek-V2, V3, R1, Kimi K2, MiniCPM3: latent attention", "kv", "_proj", "q_b_proj", ()),
            ("mla-lite", "DeepSeek-V2-Lite: latent attention with a plain query", "kv", "_proj", "q_proj", ()),
            ("mla-original", "Mistral's latent attention, as released", "wkv", "", "wq_b", ()),
            ("mla-original-lite", "Mistral's latent attention with a plain query", "wkv", "", "wq", ("wq_b.weight",)),
        )
    ),
    *(
        Layout(
            id=id,
            libraries=libraries,
            weights=(StoredWeight("linear_kv_up_proj.weight", KV_PER_HEAD), StoredWeight(f"{q}.weight", Q)),
            out=("linear_proj.weight",),
            v_free=True,
            kv_heads="equal",
            source="Megatron-LM megatron/core/transformer/multi_latent_attention.py, MLASelfAttention",
            proof="source",
            note="a head of Q ends with its rotary part; that of K is the same for all heads, in linear_kv_down_proj",
            biases=(),
        )
        for id, libraries, q in (
            ("megatron-mla", "Megatron-Core, NeMo: latent attention", "linear_q_up_proj"),
            ("megatron-mla-lite", "Megatron-Core, NeMo: latent attention with a plain query", "linear_q_proj"),
        )
    ),
    *(
        Layout(
            id="mimo-v2" if stripes == 4 else f"mimo-v2-{stripes}",
            libraries=libraries,
            weights=(StoredWeight("qkv_proj.weight", Packing(("q", "k", "v"), groups=stripes)),),
            layer="self_attn",
            siblings=("o_proj.weight",),
            unless=("output_gate.weight",),
            out=("o_proj.weight",),
            model_types=("mimo_v2*", "MiMoV2*"),
            flags={"num_key_value_heads": (stripes,)},
            needs_config=True,
            kv_heads="free",
            v_free=True,
            source="vLLM vllm/model_executor/models/mimo_v2.py (pull request 57508)",
            proof="excerpt",
            note=f"stripes of {stripes} ranks of tensor parallelism, each with its heads of Q, K and V in blocks; there"
            " are as many as the config's num_key_value_heads, also in layers whose kv heads are more (swa)",
        )
        for stripes, libraries in ((4, "MiMo-V2, V2.5"), (8, "MiMo-V2.5-Pro"))
    ),
    Layout(
        id="qwen3-next-gdn",
        libraries="transformers Qwen3-Next: gated delta net",
        weights=(StoredWeight("in_proj_qkvz.weight", Packing(("q", "k", "v", "vgate"), groups="heads")),),
        layer="linear_attn",
        out=("out_proj.weight",),
        v_free=True,
        head_tensors=(),
        head_keys=("linear_num_key_heads",),
        source="transformers models/qwen3_next/modeling_qwen3_next.py, fix_query_key_value_ordering",
        logits=NO_SOFTMAX,
        proof="source",
        note="heads are key heads: one of V stands for all the value heads of that key head",
    ),
    Layout(
        id="qwen3_5-gdn",
        libraries="transformers Qwen3.5: gated delta net",
        weights=(StoredWeight("in_proj_qkv.weight", QKV),),
        layer="linear_attn",
        out=("out_proj.weight",),
        v_free=True,
        head_tensors=(),
        head_keys=("linear_num_key_heads",),
        source="transformers models/qwen3_5/modeling_qwen3_5.py, Qwen3_5GatedDeltaNet.forward",
        logits=NO_SOFTMAX,
        proof="source",
        note="heads are key heads: one of V stands for all the value heads of that key head",
    ),
    Layout(
        id="xlstm-fused",
        libraries="xLSTM-7B with fused projections",
        weights=(StoredWeight("qkv_opreact.weight", Packing(("q", "k", "v", "vgate"))),),
        out=("out_proj.weight",),
        v_free=True,
        head_tensors=(),
        source="transformers models/xlstm/modeling_xlstm.py, weight_mode fused",
        logits=NO_SOFTMAX,
        proof="source",
        note="the output gate's rows come last; heads of Q and K are narrower than those of V",
    ),
    Layout(
        id="mamba-mha",
        libraries="mamba_ssm: attention layers of a hybrid, without an MLP",
        weights=(StoredWeight("in_proj.weight", QKV),),
        layer="mixer",
        siblings=("out_proj.weight",),
        unless=_STATE_SPACE,
        out=("out_proj.weight",),
        flags={"attn_cfg": (Ellipsis,)},
        needs_config=True,
        kv_heads="free",
        head_tensors=(),
        source="mamba_ssm/modules/mha.py, MHA.forward",
        proof="source",
    ),
    Layout(
        id="levit",
        libraries="transformers LeViT: between stages",
        weights=(StoredWeight("queries.linear.weight", Q), StoredWeight("keys_values.linear.weight", KV_PER_HEAD)),
        siblings=("attention_biases",),
        out=("projection.linear.weight",),
        kv_heads="equal",
        v_free=True,
        head_tensors=(HeadTensor("attention_biases", 0, "num_heads"),),
        source="transformers models/levit/modeling_levit.py, LevitAttentionSubsample.forward",
        note="batch norms follow: fold them in before the values mean anything",
        proof="source",
        biases=(),
    ),
    Layout(
        id="levit-fused",
        libraries="transformers LeViT",
        weights=(StoredWeight("queries_keys_values.linear.weight", PER_HEAD),),
        biases=(),
        siblings=("attention_biases",),
        out=("projection.linear.weight",),
        v_free=True,
        head_tensors=(HeadTensor("attention_biases", 0, "num_heads"),),
        source="transformers models/levit/modeling_levit.py, LevitAttention.forward",
        proof="source",
        note="a batch norm follows: fold it in before the values mean anything",
    ),
    *(
        Layout(
            id=id,
            libraries=libraries,
            weights=(StoredWeight(f"{q}.weight", Q), StoredWeight(f"{kv}.weight", KV)),
            layer=layer,
            kv_heads="equal",
            source="remembered",
            proof="memory",
        )
        for id, libraries, q, kv, layer in (
            ("hunyuan-dit-cross", "HunyuanDiT cross-attention", "q_proj", "kv_proj", "attn2"),
            ("pixart-cross", "PixArt cross-attention", "q_linear", "kv_linear", "cross_attn"),
        )
    ),
)
