"""Libraries of speech: ESPnet, NeMo, SpeechBrain, torchaudio, Coqui, and what transformers took from them."""

from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import KV, PER_HEAD, QKV, K, Q, V

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        id="linear-q",
        libraries="ESPnet, NeMo, transformers' Conformers and Parakeet, OpenFold, Boltz",
        weights=(
            StoredWeight("linear_q.weight", Q),
            StoredWeight("linear_k.weight", K),
            StoredWeight("linear_v.weight", V),
        ),
        out=("linear_out|out_linear|linear_o.weight",),
        head_tensors=(
            HeadTensor("pos_bias_u", 0, "num_heads"),
            HeadTensor("linear_pos_bias_u", 0, "num_heads"),
            HeadTensor("bias_u", 0, "num_heads"),
        ),
        proof="source",
        source="espnet/nets/pytorch_backend/transformer/attention.py, MultiHeadedAttention",
    ),
    Layout(
        id="nemo-w-qkv",
        libraries="NeMo SpeechLM: encoders with a fused projection",
        weights=(StoredWeight("w_qkv.weight", QKV),),
        layer="attn",
        out=("w_out.weight", "out_proj.weight"),
        proof="source",
        source="transformers conversion_mapping.py: rows ordered [query | key | value]",
    ),
    *(
        Layout(
            id=f"speechbrain-{kind}-{calls}{named}",
            libraries=f"SpeechBrain {cls}, {how}",
            weights=(StoredWeight("in_proj_weight", packing),),
            layer=layer,
            siblings=siblings,
            unless=("in_proj_bias",),
            out=("out_proj.weight",),
            square=True,
            needs_config=not named,
            head_tensors=(HeadTensor("pos_bias_u", 1, "num_heads"),) if kind == "relpos" else (),
            proof="source",
            source=f"speechbrain/nnet/attention.py, {cls}.forward: {code}",
            note="named as in nn.MultiheadAttention; how it is divided depends on whether query and key are one tensor",
        )
        for kind, cls, siblings, alone in (
            ("relpos", "RelPosMHAXL", ("out_proj.weight", "pos_bias_u", "linear_pos.weight"), ""),
            ("rope", "RoPEMHA", ("out_proj.weight", "out_proj.bias"), "self_attn|self_att|mha_layer|mha"),
        )
        for calls, how, packing, code, places in (
            (
                "self",
                "self-attention",
                PER_HEAD,
                "view(..., heads, 3 * head_dim).chunk(3)",
                "mha_layer|self_attn|self_att",
            ),
            ("cross", "cross-attention", QKV, "in_proj_weight.chunk(3)", "multihead_attn|mutihead_attn"),
        )
        for named, layer in (("", alone), ("-layer", f"layers.#.{places}"))
    ),
    Layout(
        id="emformer",
        libraries="torchaudio Emformer",
        weights=(StoredWeight("emb_to_query.weight", Q), StoredWeight("emb_to_key_value.weight", KV)),
        layer="attention",
        out=("out_proj.weight",),
        kv_heads="equal",
        proof="source",
        source="torchaudio/models/emformer.py, _EmformerAttention: chunk(2)",
    ),
    Layout(
        id="conv-q",
        libraries="Coqui TTS: Glow-TTS, VITS; VITS itself",
        weights=(StoredWeight("conv_q.weight", Q), StoredWeight("conv_k.weight", K), StoredWeight("conv_v.weight", V)),
        out=("conv_o.weight",),
        head_tensors=(HeadTensor("emb_rel_k", 2, "head_dim"),),
        proof="source",
        source="TTS/tts/layers/glow_tts/transformer.py, RelativePositionMultiHeadAttention",
    ),
    Layout(
        id="cohere-asr-decoder",
        libraries="NeMo's Transformer decoder, in Cohere's speech recognition",
        weights=(
            StoredWeight("query_net.weight", Q),
            StoredWeight("key_net.weight", K),
            StoredWeight("value_net.weight", V),
        ),
        out=("out_projection.weight",),
        proof="source",
        source="transformers conversion_mapping.py",
    ),
    Layout(
        id="transformer-xl",
        libraries="Transformer-XL; NeMo TTS, FastPitch",
        weights=(StoredWeight("qkv_net.weight", QKV),),
        siblings=("o_net.weight",),
        out=("o_net.weight",),
        kv_heads="equal",
        head_tensors=(HeadTensor("r_w_bias", 0, "num_heads"),),
        source="transformer-xl pytorch/mem_transformer.py, RelMultiHeadAttn: chunk(w_heads, 3, dim=-1); "
        "nemo/collections/tts/modules/transformer.py, MultiHeadAttn: chunk(qkv_net(inp), 3, dim=2); "
        "transformer_2501.py, SelfAttention: reshape(B, T, 3, n_heads, d_head)",
        proof="source",
    ),
    Layout(
        id="transformer-xl-kv",
        libraries="Transformer-XL with positions that are added; NeMo TTS, cross-attention",
        weights=(StoredWeight("q_net.weight", Q), StoredWeight("kv_net.weight", KV)),
        siblings=("o_net.weight",),
        out=("o_net.weight",),
        kv_heads="equal",
        source="transformer-xl pytorch/mem_transformer.py, MultiHeadAttn: chunk(kv_net(c), 2, -1); "
        "nemo/collections/tts/modules/transformer_2501.py, CrossAttention: reshape(B, T, 2, n_heads, d_head)",
        proof="source",
    ),
)
