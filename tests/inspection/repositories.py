"""How repositories name attention: names that were read in their sources, and what only looks like it.

A second list beside ``conventions``; 48 wide, 4 heads. Where a row of the registry knows the packing, ``layout`` is
its id; "" stands for a pattern. ``None`` for the modules: the tensors are attention, and nobody can tell which they
are from their names; they are said not to be understood.
"""

from __future__ import annotations

from collections.abc import Mapping

E, H, D = 48, 4, 12
Shape = tuple[int, ...]
L: Shape = (E, E)
C: Shape = (E, E, 1, 1)
C1: Shape = (E, E, 1)


def _all(layer: str, *names: str, shape: Shape = L, **others: Shape) -> dict[str, Shape]:
    """``name.weight`` for each name, all of one shape; others (``__`` for a dot) of their own."""
    named = {f"{layer}.{name}.weight": shape for name in names}
    return named | {f"{layer}.{name.replace('__', '.')}.weight": shape for name, shape in others.items()}


FOUND: Mapping[str, tuple[dict[str, Shape], tuple[str, ...], str]] = {
    "minGPT": (_all("blocks.0.attn", "key", "query", "value", "proj"), ("blocks.0.attn",), "openai-whisper"),
    "labml.ai": (
        _all("layers.0.self_attn", "query.linear", "key.linear", "value.linear", "output"),
        ("layers.0.self_attn",),
        "",
    ),
    "BERT-pytorch": (
        _all("b.0.attention", *(f"linear_layers.{i}" for i in range(3)), "output_linear"),
        ("b.0.attention",),
        "bert-pytorch",
    ),
    "OpenFold": (
        _all("msa_att_row.mha", *(f"linear_{part}" for part in "qkvog")),
        ("msa_att_row.mha",),
        "linear-q",
    ),
    "Transformer-XL": (
        _all("layers.0.dec_attn", "r_net", "o_net", qkv_net=(3 * E, E)),
        ("layers.0.dec_attn",),
        "transformer-xl",
    ),
    "BigGAN": (
        _all("att", theta=(6, E, 1, 1), phi=(6, E, 1, 1), g=(24, E, 1, 1), o=(E, 24, 1, 1)),
        ("att",),
        "non-local-2d",
    ),
    "SlowFast": (
        _all("nl", "conv_theta", "conv_phi", "conv_g", "conv_out", shape=(E, E, 1, 1, 1)),
        ("nl",),
        "non-local-slowfast",
    ),
    "mmcv": (
        _all("nl", "theta.conv", "phi.conv", "g.conv", "conv_out.conv", shape=C),
        ("nl",),
        "non-local-mmcv",
    ),
    "Restormer": (
        _all("e.0.attn", "project_out", shape=C, qkv=(3 * E, E, 1, 1), qkv_dwconv=(3 * E, 1, 3, 3))
        | {"e.0.attn.temperature": (H, 1, 1)},
        ("e.0.attn",),
        "restormer",
    ),
    "Uformer": (
        _all("e.0.attn", "qkv.to_q", "proj", qkv__to_kv=(2 * E, E)),
        ("e.0.attn.qkv",),
        "to-q-and-kv",
    ),
    "CrossViT": (_all("fusion.0.attn", "wq", "wk", "wv", "proj"), ("fusion.0.attn",), "wq"),
    "Conditional DETR": (
        _all("layers.0", "sa_qcontent_proj", "sa_qpos_proj", "sa_kcontent_proj", "sa_kpos_proj", "sa_v_proj"),
        ("layers.0.sa",),
        "conditional-detr-sa",
    ),
    "LoFTR": (_all("layers.0", "q_proj", "k_proj", "v_proj", "merge"), ("layers.0",), "qkv-proj"),
    "LightGlue": (
        _all("t.0.self_attn", "out_proj", Wqkv=(3 * E, E), ffn__0=(2 * E, 2 * E), ffn__1=(2 * E,), ffn__3=(E, 2 * E)),
        ("t.0.self_attn",),
        "lightglue",
    ),
    "LightGlue, cross": (_all("t.0.cross_attn", "to_qk", "to_v", "to_out"), ("t.0.cross_attn",), ""),
    "icefall Conformer": (
        _all("enc.0.self_attn", "out_proj", "linear_pos", in_proj=(3 * E, E)),
        ("enc.0.self_attn",),
        "moshi",
    ),
    "VITS": (
        _all("enc.attn_layers.0", *(f"conv_{part}" for part in "qkvo"), shape=C1)
        | {f"enc.attn_layers.0.emb_rel_{part}": (1, 9, D) for part in "kv"},
        ("enc.attn_layers.0",),
        "conv-q",
    ),
    "T2T-ViT": (_all("attention1", "proj", kqv=(3 * E, 147)) | {"attention1.w": (24, E)}, ("attention1",), ""),
    "CvT": (
        _all("blocks.0.attn", "proj_q", "proj_k", "proj_v", "proj")
        | _all("blocks.0.attn", *(f"conv_proj_{part}.conv" for part in "qkv"), shape=(E, 1, 3, 3)),
        ("blocks.0.attn",),
        "",
    ),
    "Point Transformer": (
        _all("enc1.1.transformer2", "linear_q", "linear_k", "linear_v", linear_w__2=(6, E), linear_p__0=(3, 3)),
        ("enc1.1.transformer2",),
        "linear-q",
    ),
    "PCT": (
        _all("sa1", "v_conv", "trans_conv", shape=C1, q_conv=(D, E, 1), k_conv=(D, E, 1)),
        ("sa1",),
        "",
    ),
    "HGT: a projection for each kind of node": (
        _all("gcs.0.conv", *(f"{part}_linears.{i}" for part in "kqva" for i in range(5))),
        tuple(f"gcs.0.conv.{i}" for i in range(5)),
        "",
    ),
    "SAN": (_all("layers.0.attention_h", "Q", "K", "E", "Q_2", "K_2", "E_2", "V"), ("layers.0.attention_h",), ""),
    "AutoInt: bare parameters": (
        {f"int_layers.0.{name}": L for name in ("W_Query", "W_key", "W_Value", "W_Res")},
        ("int_layers.0",),
        "",
    ),
    "xFormers": (
        _all("mha", *(f"in_proj_container.{part}_proj" for part in "qkv"), "proj"),
        ("mha.in_proj_container",),
        "qkv-proj",
    ),
    "Linformer, whose proj_k and proj_v shorten the sequence": (
        _all("0.fn", "to_q", "to_k", "to_v", "to_out") | {"0.fn.proj_k": (64, 16), "0.fn.proj_v": (64, 16)},
        ("0.fn",),
        "to-qkv",
    ),
    "a retention network": (
        {f"retentions.0.W_{part}": (E, D) for part in "QKV"},
        ("retentions.0",),
        "",
    ),
    "Point-E": (_all("resblocks.0.attn", "c_proj", c_qkv=(3 * E, E)), ("resblocks.0.attn",), "point-e"),
    "Shap-E": (_all("resblocks.0.attn", "c_q", "c_proj", c_kv=(2 * E, E)), ("resblocks.0.attn",), "point-e-cross"),
    "EDM": (
        _all("enc.16x16_block0", affine=(2 * E, E), conv0=(E, E, 3, 3), norm2=(E,), qkv=(3 * E, E, 1, 1), proj=C),
        ("enc.16x16_block0",),
        "edm",
    ),
    "EDM2": (
        _all("enc.16x16_block0", conv_res0=(E, E, 3, 3), attn_qkv=(3 * E, E, 1, 1), attn_proj=C),
        ("enc.16x16_block0",),
        "edm2",
    ),
    "score_sde": ({f"all_modules.10.NIN_{i}.W": L for i in range(4)}, ("all_modules.10",), "score-sde"),
    "Music Transformer": (_all("layers.0.rga", "Wq", "Wk", "Wv", "fc"), ("layers.0.rga",), "ctrl"),
    "Jukebox": (
        {"_attn_mods.0.attn.c_attn.w": (E, 3 * D), "_attn_mods.0.attn.c_proj.w": (D, E)},
        ("_attn_mods.0.attn",),
        "jukebox",
    ),
    "Jukebox, cross": (
        {"a.attn.c_attn.w": (E, D), "a.attn.c_enc_kv.w": (E, 2 * D), "a.attn.c_proj.w": (D, E)},
        ("a.attn",),
        "jukebox-cross",
    ),
    "Keras": (
        {f"layers.0.{name}_dense.kernel": (E, H, D) for name in ("query", "key", "value")}
        | {"layers.0.output_dense.kernel": (H, D, E)},
        ("layers.0",),
        "",
    ),
    "Tensor2Tensor, ported": (
        {f"0.multihead_attention.{name}.kernel": L for name in ("q", "k", "v", "output_transform")},
        ("0.multihead_attention",),
        "",
    ),
    "TiSASRec": (_all("attention_layers.0", "Q_w", "K_w", "V_w"), ("attention_layers.0",), ""),
    "Neighborhood Attention": (
        _all("0.attn", "proj", qkv=(3 * E, E)) | {"0.attn.rpb": (H, 13, 13)},
        ("0.attn",),
        "timm-vit",
    ),
    "BoTNet": (_all("l.mhsa", "query", "key", "value", shape=C), ("l.mhsa",), ""),
    "CogView2, two sets in one module": (
        _all("0.attention", "dense", "dense_plus", query_key_value=(3 * E, E), query_key_value_plus=(3 * E, E)),
        ("0.attention", "0.attention.plus"),
        "",
    ),
    "names without dots": ({f"layer_0_{name}_weight": L for name in ("query", "key", "value")}, ("",), ""),
    "TensorFlow's slashes": (
        {f"bert/layer_0/attention/self/{name}/kernel": L for name in ("query", "key", "value")},
        ("bert/layer_0/attention/self",),
        "",
    ),
    "Haiku": (
        {f"transformer/h0_attn/{name}/w": L for name in ("query", "key", "value", "linear")},
        ("transformer/h0_attn",),
        "",
    ),
    "Keras in TensorFlow's own files": (
        {f"block_0/multi_head_attention/{name}/kernel:0": (E, 4, D) for name in ("query", "key", "value")}
        | {"block_0/multi_head_attention/attention_output/kernel:0": (4, D, E)},
        ("block_0/multi_head_attention",),
        "",
    ),
    "PyTorch's tutorial with nested tensors": (
        {"layers.0.mha.packed_proj.weight": (3 * E, E), "layers.0.mha.out_proj.weight": L},
        ("layers.0.mha",),
        "packed-proj",
    ),
}
"""What is found: tensors, the layers of the modules, the id of the layout."""

SAID: Mapping[str, tuple[dict[str, Shape], str]] = {
    "SuperGlue": (_all("gnn.0.attn", "proj.0", "proj.1", "proj.2", "merge", shape=C1), "4 square matrices"),
    "axial attention": (_all("block", qkv_transform=(2 * E, E, 1)), "not those of Q, K and V"),
    "Temporal Fusion Transformer": (
        _all("multihead_attn", "v_layer", *(f"{part}_layers.{i}" for part in "qk" for i in range(4)), shape=(D, E)),
        "no Q, K and V of one kind",
    ),
    "Zipformer": (_all("l.self_attn_weights", in_proj=(112, E)), "not those of Q, K and V"),
    "Bahdanau's attention": (_all("attention", "W_k", "W_q", w_v=(1, E)), "additive attention"),
    "Tacotron 2": (
        _all("d.attention_layer", query_layer=(32, 128), memory_layer=(32, 64), v=(1, 32)),
        "no Q, K and V of one kind",
    ),
    "a Linformer's half": ({"attn.proj_k": (64, 16), "attn.proj_v": (64, 16)}, "k and v alone"),
}
"""What is attention, or stands where attention does, and cannot be cut: it is said, with these words."""

_TOWERS = ("query_tower.0", "key_tower.0", "value_tower.0")
DECOYS: Mapping[str, dict[str, Shape]] = {
    "a gated MLP": _all("mlp", gate_up_proj=(6 * E, E), down_proj=(E, 3 * E)),
    "an LSTM with projections": {"r.weight_ih_l0": (4 * E, E), "r.weight_hh_l0": (4 * E, E), "r.weight_hr_l0": L},
    "Mamba": _all("mixer", in_proj=(96, E), conv1d=(96, 1, 4), out_proj=(E, 96)) | {"mixer.A_log": (96, 16)},
    "Mamba 2, three times as many rows": _all("0.mixer", "out_proj", in_proj=(3 * E, E), conv1d=(E, 1, 4))
    | {"0.mixer.dt_bias": (4,)},
    "LFM2's gated convolution": _all("conv", "out_proj", in_proj=(3 * E, E), conv=(E, 1, 3)),
    "Hyena's projections": _all("mixer", "out_proj", projections=(3 * E, E)),
    "adaptive norms": _all("b", "proj", adaLN_modulation__1=(3 * E, E)),
    "a VQ-VAE": _all("quantizer", codebook=(512, E), in_proj=(8, E, 1), out_proj=(E, 8, 1)),
    "codebooks": _all("vq", "key_codebook", "value_codebook", "query_codebook"),
    "a memory network": {f"memory.{name}_memory": (64, E) for name in ("key", "value", "query")},
    "product-key memory": {"m.keys": (4, 2, 128, D), "m.values.weight": (1024, E), "m.query_proj.0.weight": (96, E)},
    "a contrastive queue": {f"{name}_queue": (4096, E) for name in ("query", "key", "value")},
    "momentum contrast": _all("m", "encoder_q.fc", "encoder_k.fc", shape=(128, E)) | {"m.queue": (128, 4096)},
    "three encoders": _all("m", "encoder_q.0", "encoder_k.0", "encoder_v.0"),
    "three towers": _all("m", *_TOWERS),
    "a quantum circuit": _all("circuit", "q", "k", shape=(4, 16)),
    "potential, kinetic energy, charge": _all("m", "V", "K", "Q", shape=(1, E)),
    "soft actor-critic": _all("sac", "q1.0", "q2.0", "v.0", q1__2=(E, E), q2__2=(E, E), v__2=(E, E)),
    "a duelling network": _all("m", q=(4, 64), value=(1, 64), advantage=(4, 64)),
    "action and state values": _all("m", "q", "v"),
    "networks of two layers": _all("m", "q_net.0", "k_net.0", "v_net.0") | _all("m", "q_net.2", "k_net.2", "v_net.2"),
    "classifiers of ten classes": _all("heads", "query", "key", "value", shape=(10, E)),
    "classifiers of twenty classes": _all("extractor", "query", "key", "value", shape=(20, E)),
    "classifiers of forms": _all("m", "key_classifier", "value_classifier", "question_classifier", shape=(32, E)),
    "tables": _all("m", "query_embedding", "key_embedding", "value_embedding", shape=(100, E)),
    "key points": _all("m", keypoint_q=(17, E), keypoint_v=(17, E), keypoint_k=(17, E)),
    "a quaternion, a vector, a number": _all("head", q=(4, E), v=(3, E), k=(1, E)),
    "angles": _all("head", "theta", "phi", "g", shape=(1, E)),
    "network in network": _all("features", "NIN_0", "NIN_1", "NIN_2", shape=C),
    "channel attention of squeeze and excitation": _all("se", fc1=(D, E), fc2=(E, D)),
    "CBAM": _all("attn", channel__mlp__0=(D, E), channel__mlp__2=(E, D), spatial__conv=(1, 2, 7, 7)),
    "graph attention": {"convs.0.lin.weight": L, "convs.0.att_src": (1, H, D), "convs.0.att_dst": (1, H, D)},
    "graph attention, version 2": _all("convs.0", "lin_l", "lin_r") | {"convs.0.att": (1, H, D)},
    "video memory: 3x3 convolutions": _all("kv_q", Key=(128, 96, 3, 3), Value=(512, 96, 3, 3)),
    "a database's keys": _all("table", "primary_key", "foreign_key"),
    "a value head": _all("v_head", summary=(1, E)),
    "query tokens": {"query_tokens": (1, 32, E), "q_former.latents": (32, E)},
    "scales": {f"blocks.0.ls_{part}.weight": (E,) for part in "qkv"},
    "rotations": _all("rotary", "q", "k", "v", shape=(16, 16)),
}  # fmt: skip
"""What only uses such words."""
