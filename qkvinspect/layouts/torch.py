"""PyTorch's own attention, and the libraries that use it as it is."""

from qkvinspect.layouts.layout import BIAS_KV, HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import QKV, K, Q, V

_OUT = ("out_proj.weight",)
_SOURCE = "torch/nn/modules/activation.py, MultiheadAttention; torch/nn/functional.py, _in_projection_packed"

_OPEN_CLIP = (
    HeadTensor("logit_scale", 0, "num_heads"),
    HeadTensor("head_scale", 0, "num_heads"),
    HeadTensor("ln_q.weight", 0, "head_dim"),
)

LAYOUTS = (
    Layout(
        id="torch-mha",
        libraries="torch nn.MultiheadAttention and nn.Transformer, CLIP, open_clip, DETR",
        weights=(StoredWeight("in_proj_weight", QKV),),
        biases=(StoredWeight("in_proj_bias", QKV),),
        out=_OUT,
        extras=BIAS_KV,
        square=True,
        head_tensors=_OPEN_CLIP,
        source=_SOURCE,
        proof="proven",
        nn_multihead=True,
        why=(
            "torch.nn.functional._in_projection_packed takes the weight as 'packed along dimension 0, in q, k, v "
            "order', and chunks it in three; MultiheadAttention registers it as [3 * embed_dim, embed_dim]."
        ),
        why_stored=(
            "If kdim or vdim differed from embed_dim, q_proj_weight, k_proj_weight and v_proj_weight would be stored "
            "instead."
        ),
    ),
    Layout(
        id="audiocraft",
        libraries="audiocraft MusicGen, AudioGen with kv_repeat",
        weights=(StoredWeight("in_proj_weight", QKV),),
        biases=(StoredWeight("in_proj_bias", QKV),),
        out=_OUT,
        siblings=_OUT,
        source="audiocraft/modules/transformer.py, StreamingMultiheadAttention",
        proof="proven",
        note="fewer kv heads than heads, under the names of nn.MultiheadAttention",
        kv_heads="free",
        head_tensors=(),
    ),
    Layout(
        id="torch-ao-mha",
        libraries="torch.ao.nn.quantizable.MultiheadAttention",
        weights=(
            StoredWeight("linear_Q.weight", Q),
            StoredWeight("linear_K.weight", K),
            StoredWeight("linear_V.weight", V),
        ),
        out=_OUT,
        kv_heads="equal",
        supersedes=("torch-mha", "audiocraft"),
        source="torch/ao/nn/quantizable/modules/activation.py, MultiheadAttention",
        proof="proven",
        note="the in_proj_weight beside them is a stale copy",
    ),
    Layout(
        id="torch-mha-split",
        libraries="torch nn.MultiheadAttention with kdim or vdim other than embed_dim",
        weights=(StoredWeight("q_proj_weight", Q), StoredWeight("k_proj_weight", K), StoredWeight("v_proj_weight", V)),
        biases=(StoredWeight("in_proj_bias", QKV),),
        out=_OUT,
        extras=BIAS_KV,
        kv_heads="equal",
        square=True,
        source=_SOURCE,
        proof="proven",
        nn_multihead=True,
        why=(
            "MultiheadAttention registers q_proj_weight, k_proj_weight and v_proj_weight when kdim or vdim is not "
            "embed_dim; multi_head_attention_forward still chunks one in_proj_bias in three."
        ),
        why_stored=(
            "kdim is {k} and vdim is {v} where embed_dim is {embed_dim}, so PyTorch keeps three weights instead of "
            "one in_proj_weight."
        ),
        note="the weights are apart, but their bias is still one packed in_proj_bias",
    ),
)
