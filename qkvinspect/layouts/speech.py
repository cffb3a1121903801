"""Libraries of speech: ESPnet, NeMo, SpeechBrain, torchaudio, Coqui, and what transformers took from them."""

from qkvinspect.layouts.fused import KV, fused
from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import PER_HEAD, Q
from qkvinspect.layouts.separate import separate

_SPEECHBRAIN = "speechbrain/nnet/attention.py, "

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
        source="espnet/nets/pytorch_backend/transformer/attention.py, MultiHeadedAttention",
    ),
    fused(
        "nemo-w-qkv",
        "NeMo SpeechLM: encoders with a fused projection",
        "w_qkv.weight",
        layer="attn",
        out=("w_out.weight", "out_proj.weight"),
        source="transformers conversion_mapping.py: rows ordered [query | key | value]",
        proof="source",
    ),
    *(
        fused(
            id,
            libraries,
            "in_proj_weight",
            PER_HEAD,
            layer=layer,
            siblings=siblings,
            unless=("in_proj_bias",),
            bias=(),
            out=("out_proj.weight",),
            square=True,
            head_tensors=(HeadTensor("pos_bias_u", 1, "num_heads"),),
            source=source,
            note="the names and shapes are those of nn.MultiheadAttention, the rows are not",
        )
        for id, libraries, layer, siblings, source in (
            (
                "speechbrain-relpos",
                "SpeechBrain RelPosMHAXL",
                "",
                ("out_proj.weight", "pos_bias_u", "linear_pos.weight"),
                f"{_SPEECHBRAIN}RelPosMHAXL.forward: view(..., num_heads, 3 * head_dim).chunk(3)",
            ),
            (
                "speechbrain-rope",
                "SpeechBrain RoPEMHA",
                "mha_layer|self_attn|self_att|multihead_attn|mutihead_attn|mha",
                ("out_proj.weight", "out_proj.bias"),
                f"{_SPEECHBRAIN}RoPEMHA.forward: view(..., num_heads, 3 * head_dim).chunk(3)",
            ),
        )
    ),
    Layout(
        id="emformer",
        libraries="torchaudio Emformer",
        weights=(StoredWeight("emb_to_query.weight", Q), StoredWeight("emb_to_key_value.weight", KV)),
        biases=(StoredWeight("emb_to_query.bias", Q), StoredWeight("emb_to_key_value.bias", KV)),
        layer="attention",
        out=("out_proj.weight",),
        kv_heads="equal",
        source="torchaudio/models/emformer.py, _EmformerAttention: chunk(2)",
        proof="proven",
    ),
    separate(
        "conv-q",
        "Coqui TTS: Glow-TTS, VITS; VITS itself",
        "conv_q",
        "conv_k",
        "conv_v",
        out=("conv_o.weight",),
        head_tensors=(HeadTensor("emb_rel_k", 2, "head_dim"),),
        source="TTS/tts/layers/glow_tts/transformer.py, RelativePositionMultiHeadAttention",
    ),
    separate(
        "cohere-asr-decoder",
        "NeMo's Transformer decoder, in Cohere's speech recognition",
        "query_net",
        "key_net",
        "value_net",
        out=("out_projection.weight",),
        source="transformers conversion_mapping.py",
        proof="source",
    ),
)
