"""How people name the projections of attention, written down before the detector that has to find them.

Each was seen in a tutorial, a repository or a library. The names are theirs, the sizes are small: 48 wide, 4 heads.
None of them is in the registry for its own sake: the detector never sees this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

E, H, D = 48, 4, 12
Shape = tuple[int, ...]


class Convention(NamedTuple):
    """One way of naming.

    Attributes:
        seen: where, for people.
        tensors: what is stored.
        modules: for each attention module, its tensors by the parts that they hold (``q``, ``qkv``, ``kv`` ...).
        packed: whether only the weights, or a person, can tell how a fused tensor is divided.
        beside: tensors of the same module that are not attention's projections.
    """

    seen: str
    tensors: Mapping[str, Shape]
    modules: Mapping[str, Mapping[str, str]]
    packed: bool = False
    beside: Mapping[str, Shape] = {}


def apart(
    seen: str,
    layer: str,
    q: str,
    k: str,
    v: str,
    *others: str,
    shape: Shape = (E, E),
    bias: bool = False,
    named: str = "",
    beside: Mapping[str, Shape] | None = None,
) -> Convention:
    """Three tensors, and square ones beside them."""
    names = {part: f"{layer}.{name}" for part, name in (("q", q), ("k", k), ("v", v))}
    tensors = dict.fromkeys([*names.values(), *(f"{layer}.{name}" for name in others)], shape)
    if bias:
        tensors |= {name.removesuffix("weight") + "bias": (shape[0],) for name in names.values()}
    return Convention(seen, tensors, {named or layer: names}, beside=beside or {})


def fused(seen: str, layer: str, name: str, *others: str, shape: Shape = (3 * E, E)) -> Convention:
    """One tensor for all three."""
    tensors = {f"{layer}.{name}": shape, **{f"{layer}.{other}": (E, E) for other in others}}
    return Convention(seen, tensors, {layer: {"qkv": f"{layer}.{name}"}}, packed=True)


_HEAD_LIST = {f"blocks.0.sa.heads.{h}.{part}.weight": (D, E) for h in range(H) for part in ("key", "query", "value")}
_LIST_OF_HEADS = {f"attn.{part}.{h}.weight": (D, E) for h in range(H) for part in ("keys", "queries", "values")}

CONVENTIONS: tuple[Convention, ...] = (
    apart(
        "a how-to of 2018",
        "encoder.layers.0.attn",
        "q_linear.weight",
        "k_linear.weight",
        "v_linear.weight",
        "out.weight",
        bias=True,
    ),
    apart(
        "seq2seq tutorials",
        "decoder.layers.0.self_attention",
        "fc_q.weight",
        "fc_k.weight",
        "fc_v.weight",
        "fc_o.weight",
        bias=True,
    ),
    apart(
        "attention-is-all-you-need-pytorch",
        "encoder.layer_stack.0.slf_attn",
        "w_qs.weight",
        "w_ks.weight",
        "w_vs.weight",
        "fc.weight",
    ),
    apart("Dive into Deep Learning", "blks.0.attention", "W_q.weight", "W_k.weight", "W_v.weight", "W_o.weight"),
    apart(
        "ESPnet, NeMo, Conformers",
        "encoders.0.self_attn",
        "linear_q.weight",
        "linear_k.weight",
        "linear_v.weight",
        "linear_out.weight",
        bias=True,
        beside={"encoders.0.self_attn.linear_pos.weight": (E, E), "encoders.0.self_attn.pos_bias_u": (H, D)},
    ),
    apart(
        "a video course: one small matrix for all heads",
        "layers.0.attention",
        "queries.weight",
        "keys.weight",
        "values.weight",
        shape=(D, D),
        beside={"layers.0.attention.fc_out.weight": (E, E)},
    ),
    apart(
        "LLMs from scratch", "trf_blocks.0.att", "W_query.weight", "W_key.weight", "W_value.weight", "out_proj.weight"
    ),
    Convention(
        "a lecture's language model: a module a head",
        {**_HEAD_LIST, "blocks.0.sa.proj.weight": (E, E)},
        {"blocks.0.sa": {part[0]: f"blocks.0.sa.heads.*.{part}.weight" for part in ("query", "key", "value")}},
    ),
    Convention(
        "lists of projections, one a head",
        {**_LIST_OF_HEADS, "attn.out.weight": (E, E)},
        {"attn": {part[0]: f"attn.{part}.*.weight" for part in ("queries", "keys", "values")}},
    ),
    apart("former", "tblocks.0.attention", "toqueries.weight", "tokeys.weight", "tovalues.weight", "unifyheads.weight"),
    apart(
        "Informer and its kin",
        "encoder.attn_layers.0.attention",
        "query_projection.weight",
        "key_projection.weight",
        "value_projection.weight",
        "out_projection.weight",
        bias=True,
    ),
    apart(
        "nlp-tutorial", "layers.0.enc_self_attn", "W_Q.weight", "W_K.weight", "W_V.weight", "linear.weight", bias=True
    ),
    apart("one more layer in the name", "block.mha", "query_layer.weight", "key_layer.weight", "value_layer.weight"),
    apart(
        "image diffusion, 1x1 convolutions",
        "downblocks.1.attn",
        "proj_q.weight",
        "proj_k.weight",
        "proj_v.weight",
        "proj.weight",
        shape=(E, E, 1, 1),
        bias=True,
    ),
    apart(
        "autoencoders of latent diffusion",
        "decoder.mid.attn_1",
        "q.weight",
        "k.weight",
        "v.weight",
        "proj_out.weight",
        shape=(E, E, 1, 1),
        bias=True,
    ),
    Convention(
        "SAGAN: Q and K an eighth as wide",
        {
            "attn1.query_conv.weight": (6, E, 1, 1),
            "attn1.key_conv.weight": (6, E, 1, 1),
            "attn1.value_conv.weight": (E, E, 1, 1),
        },
        {"attn1": {part[0]: f"attn1.{part}_conv.weight" for part in ("query", "key", "value")}},
        beside={"attn1.gamma": (1,)},
    ),
    apart("graph transformers", "convs.0", "lin_query.weight", "lin_key.weight", "lin_value.weight", "lin_skip.weight"),
    apart("capital letters", "enc.attn", "Q.weight", "K.weight", "V.weight", "O.weight"),
    Convention(
        "parameters of three axes, as an interpretability library keeps them",
        {f"blocks.0.attn.W_{part}": (H, E, D) for part in "QKV"} | {"blocks.0.attn.W_O": (H, D, E)},
        {"blocks.0.attn": {part: f"blocks.0.attn.W_{part.upper()}" for part in "qkv"}},
        beside={f"blocks.0.attn.b_{part}": (H, D) for part in "QKV"},
    ),
    Convention(
        "Transformer-XL's descendants",
        {
            "layers.0.dec_attn.q_net.weight": (E, E),
            "layers.0.dec_attn.kv_net.weight": (2 * E, E),
            "layers.0.dec_attn.o_net.weight": (E, E),
        },
        {"layers.0.dec_attn": {"q": "layers.0.dec_attn.q_net.weight", "kv": "layers.0.dec_attn.kv_net.weight"}},
        packed=True,
    ),
    apart(
        "a verb before the noun", "net.0.fn", "to_queries.weight", "to_keys.weight", "to_values.weight", "to_out.weight"
    ),
    apart("classes as names", "model.SelfAttention", "Query.weight", "Key.weight", "Value.weight", "Output.weight"),
    apart(
        "each a Sequential",
        "layers.3.attn",
        "q_proj.0.weight",
        "k_proj.0.weight",
        "v_proj.0.weight",
        beside={f"layers.3.attn.{part}_proj.1.weight": (E,) for part in "qkv"},
    ),
    apart(
        "each a convolution and its norm",
        "stage.2.attn",
        "q.conv.weight",
        "k.conv.weight",
        "v.conv.weight",
        shape=(E, E, 1, 1),
        beside={f"stage.2.attn.{part}.bn.weight": (E,) for part in "qkv"},
    ),
    apart("transforms", "att", "query_transform.weight", "key_transform.weight", "value_transform.weight"),
    apart(
        "camels", "layers.0.multiHeadAttn", "queryProj.weight", "keyProj.weight", "valueProj.weight", "outProj.weight"
    ),
    apart("a dictionary of projections", "attn.projections", "q.weight", "k.weight", "v.weight", "o.weight"),
    apart("a feature extractor's", "tower.attention", "wq.weight", "wk.weight", "wv.weight", "wo.weight", bias=True),
    Convention(
        "two attentions in one module, told apart by a prefix",
        {f"layers.0.{kind}_attn_{part}.weight": (E, E) for kind in ("self", "cross") for part in "qkv"},
        {
            f"layers.0.{kind}_attn": {part: f"layers.0.{kind}_attn_{part}.weight" for part in "qkv"}
            for kind in ("self", "cross")
        },
    ),
    Convention(
        "cross-attention with one tensor for K and V",
        {"cross.query.weight": (E, E), "cross.key_value.weight": (2 * E, E), "cross.dense.weight": (E, E)},
        {"cross": {"q": "cross.query.weight", "kv": "cross.key_value.weight"}},
        packed=True,
    ),
    Convention(
        "streaming speech",
        {"emformer.0.attn.emb_to_query.weight": (E, E), "emformer.0.attn.emb_to_key_value.weight": (2 * E, E)},
        {
            "emformer.0.attn": {
                "q": "emformer.0.attn.emb_to_query.weight",
                "kv": "emformer.0.attn.emb_to_key_value.weight",
            }
        },
        packed=True,
    ),
    fused("a repository's own", "layers.0.attn", "qkv_linear.weight", "out_linear.weight"),
    fused("another order in the name", "blocks.0.attention", "kqv.weight", "proj.weight"),
    fused("a video course, packed per head", "encoder.layers.0.attention", "qkv_layer.weight", "linear_layer.weight"),
    fused("projections in full", "blocks.2.attn", "qkv_projection.weight", "output_projection.weight"),
    fused("an in_proj in a Linear", "layers.1.attention", "in_proj.weight", "out_proj.weight"),
    Convention(
        "two streams side by side",
        {
            f"double.0.{stream}.weight": shape
            for side in ("img", "txt")
            for stream, shape in ((f"{side}_to_qkv", (3 * E, E)), (f"{side}_out", (E, E)))
        },
        {f"double.0.{side}": {"qkv": f"double.0.{side}_to_qkv.weight"} for side in ("img", "txt")},
        packed=True,
    ),
)
"""Thirty and more."""
