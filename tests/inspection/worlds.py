"""A third list of names, read in sources of repositories, after the detector was there: found, said, and decoys.

48 wide, 4 heads. What is listed as found has its layers; what is said has words of the reason; decoys are silent.
"""

from __future__ import annotations

from collections.abc import Mapping

E, H, D = 48, 4, 12
Shape = tuple[int, ...]
L: Shape = (E, E)
C1: Shape = (E, E, 1)
C2: Shape = (E, E, 1, 1)


def _all(layer: str, *names: str, shape: Shape = L, **others: Shape) -> dict[str, Shape]:
    """``name.weight`` for each name, all of one shape; others (``__`` for a dot) of their own."""
    named = {f"{layer}.{name}.weight": shape for name in names}
    return named | {f"{layer}.{name.replace('__', '.')}.weight": shape for name, shape in others.items()}


_MARIAN = ("encoder_l1_self", "encoder_l2_self", "decoder_l1_context")
FOUND: Mapping[str, tuple[dict[str, Shape], tuple[str, ...]]] = {
    "a Conformer: wrapped Linears": (
        _all("m.0.attention", *(f"{n}_proj.linear" for n in ("query", "key", "value", "pos", "out")))
        | {"m.0.attention.u_bias": (H, D), "m.0.attention.v_bias": (H, D)},
        ("m.0.attention",),
    ),
    "a Transformer for speech": (
        _all("selfattns.0", "key.linear_layer", "query.linear_layer", "value.linear_layer", residual=(E, 2 * E)),
        ("selfattns.0",),
    ),
    "RoseTTAFold": (
        _all("tr.0.attn", *(f"to_{n}" for n in ("query", "key", "value", "out")), to_b=(H, 32), to_g=(E, E)),
        ("tr.0.attn",),
    ),
    "graph transformers of DGL": (_all("layers.0.attention", "Q", "K", "V", "proj_e"), ("layers.0.attention",)),
    "EGT": (
        _all("layers.0", "lin_O_h", lin_QKV=(3 * E, E), lin_E=(H, 8), lin_G=(H, 8)),
        ("layers.0",),
    ),
    "Set Transformer": (_all("enc.0.mab0", "fc_q", "fc_k", "fc_v", "fc_o"), ("enc.0.mab0",)),
    "attention, learn to route": (
        {f"layers.0.0.module.W_{n}": (H, E, D) for n in ("query", "key", "val")}
        | {"layers.0.0.module.W_out": (H, D, E), "layers.0.1.normalizer.weight": (E,)},
        ("layers.0.0.module",),
    ),
    "FT-Transformer": (
        _all("blocks.0.attention", "W_q", "W_k", "W_v", "W_out"),
        ("blocks.0.attention",),
    ),
    "Lag-Llama": (
        _all("transformer.h.0.attn", "q_proj", "c_proj", kv_proj=(2 * E, E)),
        ("transformer.h.0.attn",),
    ),
    "PatchTST": (
        _all("backbone.encoder.layers.0.self_attn", "W_Q", "W_K", "W_V", "to_out.0"),
        ("backbone.encoder.layers.0.self_attn",),
    ),
    "TorchMD-Net, whose V holds three vectors a head": (
        _all("attention_layers.0", "q_proj", "k_proj", v_proj=(3 * E, E), o_proj=(3 * E, E), vec_proj=(3 * E, E)),
        ("attention_layers.0",),
    ),
    "Uni-Mol": (_all("encoder.layers.0.self_attn", "out_proj", in_proj=(3 * E, E)), ("encoder.layers.0.self_attn",)),
    "Molecule Attention Transformer": (
        _all("encoder.layers.0.self_attn", *(f"linears.{i}" for i in range(4))),
        ("encoder.layers.0.self_attn",),
    ),
    "OCNet": (
        _all("stages.0", "W", f_key__0=(24, E, 1, 1), f_value=(24, E, 1, 1), f_query__0=(24, E, 1, 1), shape=C2),
        ("stages.0",),
    ),
    "efficient attention": (_all("attn", "keys", "queries", "values", "reprojection", shape=C2), ("attn",)),
    "ViLBERT: two streams in one module": (
        _all("c_layer.0.biattention", *(f"{n}{i}" for i in (1, 2) for n in ("query", "key", "value"))),
        ("c_layer.0.biattention.1", "c_layer.0.biattention.2"),
    ),
    "MCAN": (_all("mhatt", "linear_v", "linear_k", "linear_q", "linear_merge"), ("mhatt",)),
    "meshed memory": (
        _all("enc_att.attention", "fc_q", "fc_k", "fc_v", "fc_o")
        | {"enc_att.attention.m_k": (1, 40, E), "enc_att.attention.m_v": (1, 40, E)},
        ("enc_att.attention",),
    ),
    "a universal Transformer": (
        _all("enc.0.multi_head_attention", *(f"{n}_linear" for n in ("query", "key", "value", "output"))),
        ("enc.0.multi_head_attention",),
    ),
    "OpenNMT": (
        _all("transformer.0.self_attn", "linear_keys", "linear_values", "linear_query", "final_linear"),
        ("transformer.0.self_attn",),
    ),
    "Marian: all in one name": (
        {f"{layer}_W{n}": L for layer in _MARIAN for n in "qkvo"}
        | {f"{layer}_b{n}": (1, E) for layer in _MARIAN for n in "qkvo"},
        ("encoder_l_1_self", "encoder_l_2_self", "decoder_l_1_context"),
    ),
    "THUMT": (_all("l.0.attention", *(f"{n}_transform" for n in "qkvo")), ("l.0.attention",)),
    "JoeyNMT": (
        _all("l.0.src_src_att", "k_layer", "v_layer", "q_layer", "output_layer"),
        ("l.0.src_src_att",),
    ),
    "Titans": (_all("layers.0.mem", "to_queries", "to_keys", "to_values", "combine_heads"), ("layers.0.mem",)),
    "a linear attention by Taylor": (
        _all("layers.0.mixer", "proj_q", "proj_k", "proj_v", "out_proj"),
        ("layers.0.mixer",),
    ),
    "slot attention": (
        _all("slot_attention", "project_q", "project_k", "project_v", gru__weight_ih=(3 * E, E)),
        ("slot_attention",),
    ),
    "Hopfield": (
        {"h.association_core.in_proj_weight": (3 * E, E), "h.association_core.out_proj.weight": L},
        ("h.association_core",),
    ),
    "stand-alone self-attention": (
        _all("layer1.0.conv2", "key_conv", "query_conv", "value_conv", shape=C2)
        | {"layer1.0.conv2.rel_h": (24, 1, 1, 7, 1)},
        ("layer1.0.conv2",),
    ),
    "SegFormer as released": (
        _all("block1.0.attn", "q", "proj", kv=(2 * E, E), sr=(E, E, 8, 8)),
        ("block1.0.attn",),
    ),
    "Nystromformer as released": (
        _all("encoder_0.mha", "W_q", "W_k", "W_v", "ff"),
        ("encoder_0.mha",),
    ),
    "AlphaFold in PyTorch: gated": (
        _all("evo.0.row.mha", "linear_q", "linear_k", "linear_v", "linear_g", "linear_o"),
        ("evo.0.row.mha",),
    ),
    "trajectory transformers": (
        _all("blocks.0.attn", "key", "query", "value", "proj") | {"blocks.0.attn.mask": (1, 1, 16, 16)},
        ("blocks.0.attn",),
    ),
    "a convolution's list of three": (
        _all("attn", "qkv_conv.q", "qkv_conv.k", "qkv_conv.v", "out", shape=C2),
        ("attn.qkv_conv",),
    ),
    "numbers behind the words": (_all("l.attn", "q1", "k1", "v1", "o1"), ("l.attn",)),
    "a language of one's own for the output": (_all("l.0.attn", "w_key", "w_query", "w_value", "unify"), ("l.0.attn",)),
    "underscores before": ({f"l.0._attn._{n}.weight": L for n in ("query", "key", "value", "out")}, ("l.0._attn",)),
    "q_w, k_w, v_w": ({f"blk.0.attn.{n}_w": L for n in "qkvo"}, ("blk.0.attn",)),
    "weights of queries": ({f"sa.{n}_weights": L for n in ("query", "key", "value")}, ("sa",)),
    "kv heads as a word": (
        {"a.heads_q.weight": L, "a.heads_k.weight": (24, E), "a.heads_v.weight": (24, E), "a.out.weight": L},
        ("a",),
    ),
    "Linformer, which shortens to as many tokens as it is wide": (
        _all("net.0.fn", "to_q", "to_k", "to_v", "to_out") | {f"net.0.fn.proj_{n}": (99, E) for n in "kv"},
        ("net.0.fn",),
    ),
    "dual attention for scenes": (
        _all("pam", value_conv=C2, query_conv=(6, E, 1, 1), key_conv=(6, E, 1, 1)) | {"pam.gamma": (1,)}, ("pam",),
    ),
}  # fmt: skip
"""What is found, and the layers of its modules."""

SAID: Mapping[str, dict[str, Shape]] = {
    "a layer that is called attention, and its output": {"l.mixer.attn_in.weight": (3 * E, E)}
    | {"l.mixer.attn_out.weight": (E, E), "l.mixer.mlp_out.weight": (E, 4 * E)},
    "an MLP in the same matrix, and the way back from it": {"l.attn.fused_proj.weight": (7 * E, E)}
    | {"l.attn.out_proj.weight": (E, E), "l.attn.mlp_out.weight": (E, 4 * E)},
    "an MLP in the same matrix by its name": {"l.fused_attn_ff.weight": (11 * E, E), "l.attn_out.weight": (E, E)},
    "three in a mixer along the first axis": {"l.mixer.W": (3, E, E), "l.mixer.Wo": (E, E)},
    "flax's layers that are counted": {
        "l/Attention_0/Dense_0/kernel": (E, 3 * E),
        "l/Attention_0/Dense_1/kernel": (E, E),
    },
    "inpainting of video: matrices that are called embeddings": _all(
        "transformer.0.attention", "query_embedding", "key_embedding", "value_embedding", "output_linear"
    ),
    "the same as convolutions": _all("t.0.attention", "query_embedding", "key_embedding", "value_embedding", shape=C2)
    | {"t.0.attention.output_linear.0.weight": (E, E, 3, 3)},
    "HSTU: u, v, q and k": {"_attention_layers.0._uvqk": (E, 4 * E), "_attention_layers.0._o.weight": L},
    "CRATE: Q, K and V are one": _all("layers.0.0.fn", "qkv", "to_out.0"),
    "Sockeye: in and out": _all("encoder.layers.0.self_attention", "ff_out", ff_in=(3 * E, E)),
    "FLASH: one for Q and K": _all("layers.0.attn", to_qk__0=(16, E), to_hidden__0=(4 * E, E), to_out__0=(E, 2 * E)),
    "Demucs: V is called content": _all("dconv.0.4", "query", "key", "content", "proj", shape=C1),
    "RWKV": _all("blocks.0.att", "receptance", "key", "value", "output") | {"blocks.0.att.time_decay": (E,)},
}
"""What is attention, or stands in its place, and is not cut: it is said or found, and never passed over."""

DECOYS: Mapping[str, dict[str, Shape]] = {
    "a memory with product keys": {"l.pkm.keys": (2, 128, 24), "l.pkm.query.weight": (E, E)}
    | {"l.pkm.values.weight": (16384, E)},
    "layers that score with attention": {f"l.{n}.weight": (E, E) for n in ("attention1", "attention2", "attention3")},
    "RAFT's recurrence": _all("update_block.gru", *(f"conv{g}{i}" for g in "zrq" for i in (1, 2)), shape=(E, E, 1, 5)),
    "a GRU's three gates apart": _all("cell", "W_r", "W_z", "W_h", "U_r", "U_z", "U_h"),
    "an LSTM's gates apart": _all("cell", "W_i", "W_f", "W_o", "W_c"),
    "a GRU cell": {"cell.weight_ih": (3 * E, E), "cell.weight_hh": (3 * E, E), "cell.bias_ih": (3 * E,)},
    "T5's gated unit": _all("b.DenseReluDense", wi_0=(128, E), wi_1=(128, E), wo=(E, 128)),
    "Llama's, original names": _all("layers.0.feed_forward", w1=(E, E), w2=(E, E), w3=(E, E)),
    "GLU in one": _all("mlp", "fc2", fc1=(2 * E, E)),
    "experts": _all("m.experts.0", "w1", "w2", "w3") | {"m.gate.weight": (8, E)},
    "experts as a stack": {"m.experts.gate_up_proj": (8, E, 2 * E), "m.experts.down_proj": (8, E, E)},
    "a Mamba of hybrids": _all("l.0.mamba", "out_proj", in_proj=(2 * E, E), x_proj=(35, E), dt_proj=(E, 3))
    | {"l.0.mamba.A_log": (E, 16), "l.0.mamba.D": (E,)},
    "Mamba 2, its five parts": _all("l.0.mixer", "out_proj", in_proj=(3 * E + 4, E)) | {"l.0.mixer.dt_bias": (4,)},
    "Griffin's recurrence": _all("b.recurrent", "linear_x", "linear_y", "linear_out")
    | {"b.recurrent.rg_lru.a_param": (E,)},
    "RWKV's channel mixing": _all("blocks.0.ffn", "key", "receptance", "value"),
    "Hyena": _all("l.mixer", "out_proj", in_proj=(3 * E, E), short_filter=(3 * E, 1, 3)),
    "a cache of keys and values": {
        f"past.{i}.{n}": (1, H, 16, D) for i in range(2) for n in ("key", "value")
    },
    "a cache, other names": {f"layers.0.attn.{n}_cache": (2, 16, H, D) for n in "kv"},
    "scales of a cache": {f"layers.0.attn.{n}_scale": (1,) for n in "qkv"},
    "a tokenizer's table": {"tokenizer.keys": (1000,), "tokenizer.values": (1000,)},
    "a hash table": {"table.keys": (4096, 2), "table.values": (4096, E)},
    "a datastore of neighbours": {"datastore.keys": (4096, E), "datastore.vals": (4096, 1)},
    "knowledge tracing": {
        "m.q_embed_layer.weight": (200, E), "m.mem_key": (20, E), "m.mem_value": (20, E), "m.v_embed.weight": (400, E)
    },
    "a Kalman filter": {f"kf.{n}": (6, 6) for n in "FQRPK"},
    "cameras": {"cam.K": (3, 3), "cam.R": (3, 3), "cam.Q": (4, 4), "cam.T": (3, 1)},
    "singular vectors": {"svd.U": L, "svd.S": (E,), "svd.V": L},
    "factors of a matrix": {"fc.U.weight": (8, E), "fc.V.weight": (E, 8)},
    "deformable attention: V and places": _all(
        "l.0.self_attn", "value_proj", "output_proj", sampling_offsets=(64, E), attention_weights=(32, E)
    ),
    "gated convolutions": _all("b", "value_conv", "gate_conv", shape=(E, E, 3)),
    "residual gated graph convolutions": _all("convs.0", "lin_key", "lin_query", "lin_value", "lin_skip")
    | {f"convs.0.lin_{n}.bias": (E,) for n in ("key", "query", "value")}
    | {"convs.0.bias": (E,)},
    "an aggregate of words": _all("attn", encoder_att=(32, E), decoder_att=(32, E), full_att=(1, 32)),
    "a variational posterior": _all("vae", "q_mu", "q_logvar", "p_mu", "p_logvar", shape=(16, E)),
    "a quantiser's convolutions": _all("vae", "quant_conv", "post_quant_conv", shape=C2),
    "a value iteration": _all("vin", h=(150, 2, 3, 3), r=(1, 150, 1, 1), q=(10, 1, 3, 3)),
    "twin critics": _all("critic", "q1.0", "q1.2", "q2.0", "q2.2"),
    "a piano's heads": _all("m", key_head=(88, E), quality_head=(88, E), velocity_head=(88, E)),
    "a mixer": _all("b.0", token_mixing__0=(24, 16), token_mixing__3=(16, 24), channel_mixing__0=(96, E)),
    "gMLP": _all("l.0", proj_in__0=(96, E), proj_out=(E, E)) | {"l.0.sgu.weight": (1, 16, 16)},
    "TabNet": _all("att_transformers.0", fc=(32, 8)),
    "dense heads of a detector": _all("head", "cls", "reg", "obj", shape=C2),
    "three projections of a loss": _all("head", "q_mlp.0", "k_mlp.0", shape=(128, E)) | {"head.queue": (128, 99)},
    "global context": _all("gc", conv_mask=(1, E, 1, 1), channel_add_conv__0=(12, E, 1, 1)),
    "norms of Q and K alone": {f"attn.{n}_norm.weight": (D,) for n in "qk"},
    "points, a query and a loss": _all("qa", "query", "key_points", "val_loss"),
    "kinds of convolutions": _all("m", query_conv=(6, E, 1, 1), key_conv=(7, E, 1, 1), value_conv=(5, E, 1, 1)),
    "Mamba": _all("l.0.mixer", "out_proj", in_proj=(2 * E, E), x_proj=(35, E), dt_proj=(E, 3)) | {"l.0.mixer.D": (E,)},
    "Mamba 2 whose five parts are as three": _all("l.0.mixer", "out_proj", in_proj=(3 * E, E)) | {"l.0.mixer.D": (4,)},
    "RWKV's time mixing in a mixer": _all("l.0.mixer", "receptance", "a", "b", "output"),
    "Hyena's mixer": _all("l.0.mixer", "output", input=(3 * E, E), filter_fn__0=(64, 3)),
    "MLP-Mixer": _all("mixer.0.token", fc1=(3 * E, E), fc2=(E, 3 * E)) | _all("mixer.0.chan", fc1=(99, E), fc2=(E, 99)),
    "an MLP of squares in a mixer": _all("l.0.mixer", "fc1", "fc2", "fc3", "fc4"),
    "gMLP's block": _all("blocks.0", "proj_out", proj_in=(2 * E, E)) | {"blocks.0.sgu.proj.weight": (16, 16, 1)},
    "FNet": _all("encoder.layer.0", "output.dense", intermediate__dense=(4 * E, E)),
    "adaptive norms of a block": _all("blocks.0", "proj", modulation=(3 * E, E)),
    "a GRU by hand": _all("gru_block", "h2h_out", x2h=(3 * E, E), h2h=(3 * E, E)),
    "an LSTM in a mixer": _all("mixer", "i", "f", "o", "c") | _all("mixer", "U_i", "U_f", "U_o", "U_c"),
    "three layers of a block": _all("blocks.0", "a", "b", "c"),
    "gates of functions": _all("m", "f", "g", "h"),
    "the names of norms without dots": {f"ema.layers{i}self_attn_norm_layerweight": (E,) for i in range(3)},
    "layers of a quantum chemist": {f"net.{n}": (H, H) for n in ("kinetic", "potential", "charge")},
}  # fmt: skip
"""What is no attention: nothing is found."""
