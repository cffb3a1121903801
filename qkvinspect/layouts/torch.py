"""PyTorch's own attention, and the libraries that use it as it is."""

from qkvinspect.layouts.layout import BIAS_KV, Layout, Stored
from qkvinspect.packing import QKV, K, Q, V

_OUT = ("out_proj.weight",)
_SOURCE = "torch/nn/modules/activation.py, MultiheadAttention; torch/nn/functional.py, _in_projection_packed"

LAYOUTS = (
    Layout(
        id="torch-mha",
        libraries="torch nn.MultiheadAttention and nn.Transformer, CLIP, open_clip, DETR",
        weights=(Stored("in_proj_weight", QKV),),
        biases=(Stored("in_proj_bias", QKV),),
        out=_OUT,
        extras=BIAS_KV,
        grouped_query=False,
        square=True,
        source=_SOURCE,
        proof="proven",
    ),
    Layout(
        id="torch-mha-split",
        libraries="torch nn.MultiheadAttention with kdim or vdim other than embed_dim",
        weights=(Stored("q_proj_weight", Q), Stored("k_proj_weight", K), Stored("v_proj_weight", V)),
        biases=(Stored("in_proj_bias", QKV),),
        out=_OUT,
        extras=BIAS_KV,
        grouped_query=False,
        square=True,
        source=_SOURCE,
        proof="proven",
        note="the weights are apart, but their bias is still one packed in_proj_bias",
    ),
)
