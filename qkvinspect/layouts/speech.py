"""Libraries of speech: ESPnet, NeMo, SpeechBrain, torchaudio, Coqui, and what transformers took from them."""

from qkvinspect.layouts.apart import separate
from qkvinspect.layouts.fused import KV, fused
from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import PER_HEAD, QKV, Q

LAYOUTS: tuple[Layout, ...] = (
    separate(
        "linear-q",
        "ESPnet, NeMo, transformers' Conformers and Parakeet, OpenFold, Boltz",
        "linear_q",
        "linear_k",
        "linear_v",
        out=("linear_out|out_linear|linear_o.weight",),
        head_tensors=(
            HeadTensor("pos_bias_u", 0, "num_heads"),
            HeadTensor("linear_pos_bias_u", 0, "num_heads"),
            HeadTensor("bias_u", 0, "num_heads"),
        ),
        proof="source",
        source="espnet/nets/pytorch_backend/transformer/attention.py, MultiHeadedAttention",
    ),
    fused(
        "nemo-w-qkv",
        "NeMo SpeechLM: encoders with a fused projection",
        "w_qkv.weight",
        layer="attn",
        out=("w_out.weight", "out_proj.weight"),
        proof="source",
        source="transformers conversion_mapping.py: rows ordered [query | key | value]",
    ),
    *(
        fused(
            f"speechbrain-{kind}-{calls}{named}",
            f"SpeechBrain {cls}, {how}",
            "in_proj_weight",
            packing,
            layer=layer,
            siblings=siblings,
            unless=("in_proj_bias",),
            bias=(),
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
        biases=(StoredWeight("emb_to_query.bias", Q), StoredWeight("emb_to_key_value.bias", KV)),
        layer="attention",
        out=("out_proj.weight",),
        kv_heads="equal",
        proof="source",
        source="torchaudio/models/emformer.py, _EmformerAttention: chunk(2)",
    ),
    separate(
        "conv-q",
        "Coqui TTS: Glow-TTS, VITS; VITS itself",
        "conv_q",
        "conv_k",
        "conv_v",
        out=("conv_o.weight",),
        head_tensors=(HeadTensor("emb_rel_k", 2, "head_dim"),),
        proof="source",
        source="TTS/tts/layers/glow_tts/transformer.py, RelativePositionMultiHeadAttention",
    ),
    separate(
        "cohere-asr-decoder",
        "NeMo's Transformer decoder, in Cohere's speech recognition",
        "query_net",
        "key_net",
        "value_net",
        out=("out_projection.weight",),
        proof="source",
        source="transformers conversion_mapping.py",
    ),
)
