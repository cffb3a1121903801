"""A fourth list of names, that nobody told the detector of, and a fourth list of what only looks like attention."""

from __future__ import annotations

from tests.batches import batched
from tests.inspection.test_patterns import report

E, H, D = 48, 4, 12
Shape = tuple[int, ...]
Shapes = dict[str, Shape]
L: Shape = (E, E)


def al(layer: str, *names: str, shape: Shape = L, **others: Shape) -> Shapes:
    """``name.weight`` for each name, all of one shape; others (``__`` for a dot) of their own."""
    named = {f"{layer}.{name}.weight": shape for name in names}
    return named | {f"{layer}.{name.replace('__', '.')}": size for name, size in others.items()}


NAMES: dict[str, Shapes] = {
    "spanish": al("capas.0.atencion", "consulta", "clave", "valor", "salida"),
    "german": al("schicht.0.aufmerksamkeit", "abfrage", "schluessel", "wert", "ausgabe"),
    "pinyin": al("ceng.0.zhuyi", "q_xianxing", "k_xianxing", "v_xianxing", "shuchu"),
    "mmdet": al("layers.0.attentions.0.attn", "out_proj", in_proj_weight=(3 * E, E)),
    "flax dense general": {
        **{
            f"params.encoderblock_0.MultiHeadDotProductAttention_0.{n}.kernel": (E, H, D)
            for n in ("query", "key", "value")
        },
        "params.encoderblock_0.MultiHeadDotProductAttention_0.out.kernel": (H, D, E),
    },
    "maxtext": {
        **{f"params.decoder.layers_0.self_attention.{n}.kernel": (E, H, D) for n in ("query", "key", "value")},
        "params.decoder.layers_0.self_attention.out.kernel": (H, D, E),
    },
    "keras dense": {
        **{f"layers.multi_head_attention.{n}_dense.vars.0": (E, H, D) for n in ("query", "key", "value")},
        "layers.multi_head_attention.output_dense.vars.0": (H, D, E),
    },
    "mlx": al("layers.0.attention", "query_proj", "key_proj", "value_proj", "out_proj"),
    "tinygrad": al("blocks.0.attn", "c_attn", "c_proj") | {"blocks.0.attn.c_attn.weight": (3 * E, E)},
    "t5x": {
        **{f"decoder.layers_0.self_attention.{n}.kernel": (E, H * D) for n in ("query", "key", "value")},
        "decoder.layers_0.self_attention.out.kernel": (H * D, E),
    },
    "haiku mha": {f"transformer/~/layer_0/attn/{n}/w": L for n in ("query", "key", "value", "linear")},
    "nnx": {
        **{f"blocks.0.attn.{n}.kernel.value": (E, H, D) for n in ("query", "key", "value")},
        "blocks.0.attn.out.kernel.value": (H, D, E),
    },
    "equinox": al("layers.0.attention", "query_proj", "key_proj", "value_proj", "output_proj"),
    "q_lin": al("m.enc.0.mha", "lin_q", "lin_k", "lin_v", "lin_o"),
    "proj_queries": al("m.0.mixer", "proj_queries", "proj_keys", "proj_values", "proj_back"),
    "linearQ": al("m.0.att", "linearQ", "linearK", "linearV", "linearO"),
    "WQ": al("m.0.MHA", "WQ", "WK", "WV", "WO"),
    "fc_query": al("tsf.0.temporal", "fc_query", "fc_key", "fc_value", "fc_out"),
    "qry": al("m.0.attn", "qry", "key", "val", "out"),
    "attn.qkv_bias": al("b.0.attn", "to_qkv", "to_out") | {"b.0.attn.to_qkv.weight": (3 * E, E)},
    "proj dict": al("b.0.attn.proj", "query", "key", "value", "out"),
    "conv1d": al("b.0.att", "conv_query", "conv_key", "conv_value", "conv_out", shape=(E, E, 1)),
    "theta phi g": al("nl", "theta", "phi", "g", "W", shape=(E, E, 1, 1)),
    "feature names": al("fusion.0", "q_transform", "k_transform", "v_transform", "o_transform"),
    "cross img txt": {f"x.0.{s}_{n}_proj.weight": L for s in ("img", "txt") for n in "qkv"},
    "head_i suffix": {f"a.0.mha.query_{h}.weight": (D, E) for h in range(H)}
    | {f"a.0.mha.key_{h}.weight": (D, E) for h in range(H)}
    | {f"a.0.mha.value_{h}.weight": (D, E) for h in range(H)}
    | {"a.0.mha.out.weight": L},
    "q_heads list": {f"a.0.mha.{p}_heads.{h}.weight": (D, E) for h in range(H) for p in "qkv"}
    | {"a.0.mha.out.weight": L},
    "attention_head": {
        f"a.0.attention_head_{h}.{p}.weight": (D, E) for h in range(H) for p in ("query", "key", "value")
    }
    | {"a.0.linear.weight": L},
    "packed": al("m.0.attn", "qkvproj", "oproj") | {"m.0.attn.qkvproj.weight": (3 * E, E)},
    "k_q_v": al("m.0.attn", "k_q_v", "o") | {"m.0.attn.k_q_v.weight": (3 * E, E)},
    "query_mlp": al("m.0.attn", "query_mlp", "key_mlp", "value_mlp"),
    "w_q_linear": al("m.0.attn", "w_q_linear", "w_k_linear", "w_v_linear", "w_o_linear"),
    "QueryLayer": al("m.0.Attn", "QueryLayer", "KeyLayer", "ValueLayer", "DenseLayer"),
    "caffe": {f"blob.attn_{n}_w": L for n in ("q", "k", "v", "o")},
}


DECOYS: dict[str, Shapes] = {
    "a German embedding of words": al("modell", "wertigkeit", "schluesselbein", "abfragen"),
    "valence, clef, query of a music model": al("m", "valence", "clef", "queue"),
    "numbered queries of a critic": {f"critic.q{i}.{j}.weight": L for i in (1, 2) for j in (0, 2)},
    "values of a duelling network": al("net", "value_stream.0", "value_stream.2", "advantage_stream.0"),
    "keys of a piano": al("roll", "key_on", "key_off", "velocity", shape=(88, E)),
    "variables of Keras that are no matrices": {f"layers.dense_{i}.vars.{j}": (E,) for i in range(3) for j in range(2)},
    "dense layers of Keras": {f"layers.dense_{i}.vars.0": L for i in range(3)},
    "Flax's nnx without attention": {f"blocks.{i}.linear.kernel.value": L for i in range(3)},
    "heads of a detector": {f"heads.{i}.{n}.weight": (20, E) for i in range(3) for n in ("cls", "reg", "ctr")},
    "heads of tasks": {f"heads.{i}.{j}.weight": L for i in range(4) for j in (0, 2)},
    "language model's heads": {f"lm_heads.{i}.weight": (1000, E) for i in range(4)},
    "Medusa": {f"medusa_head.{i}.0.linear.weight": L for i in range(4)},
    "a posterior": {f"vae.{n}_{m}.weight": (16, E) for n in ("q_z", "p_z") for m in ("mu", "logvar")},
    "the moments of keys and values": {f"m.{n}.{m}.weight": (16, E) for n in ("key", "value") for m in ("mean", "std")},
    "a vector quantiser": {"vq.embedding.weight": (512, E), "vq.project_in.weight": (16, E)},
    "a gated unit of linear units": al("mlp", "w1", "w2", "v"),
    "S4": {"s4.kernel.C": (E, 32, 2), "s4.kernel.log_dt": (E,), "s4.D": (1, E)},
    "a Kalman filter of a tracker": {f"kalman.{n}": (8, 8) for n in "FHQRPK"},
    "voltage, current, charge": al("cell", "v", "i", "q", shape=(16, E)),
    "normal maps": {f"render.{n}.weight": (3, E) for n in ("kd", "ks", "normal")},
    "a hypernetwork": al("hyper", "key_net.0", "key_net.2", "value_net.0", "value_net.2"),
    "an optimiser's state": {f"state.{i}.{n}": L for i in range(3) for n in ("exp_avg", "exp_avg_sq")},
    "an index of retrieval": {"index.keys": (100_000, 64), "index.values": (100_000,)},
    "quaternions": {f"{n}.rotation.q": (4, 1) for n in ("left", "right")},
    "a tokenizer": {"tok.key_to_id": (1000,), "tok.value_to_id": (1000,)},
    "a codec": {f"quantizer.layers.{i}._codebook.embed": (1024, E) for i in range(4)},
    "depthwise convolutions": {f"dw.{n}_conv.weight": (E, 1, 3, 3) for n in "qkv"},
    "networks of three convolutions a word": {
        f"m.{n}.{i}.weight": (E, E, 3, 3) for n in ("query", "key", "value") for i in (0, 2, 4, 6)
    },
    "a graph convolution": {f"conv.lin_{n}.weight": L for n in ("rel", "root")},
    "a value in a name": {"valve.weight": L, "kernel.weight": L, "quality.weight": L},
    "a mixture's experts": {f"experts.{i}.{n}.weight": L for i in range(8) for n in ("w1", "w2", "w3")},
}


@batched("name", [*NAMES])
def test_further_names_are_found(name: str) -> None:
    found = report(NAMES[name])
    assert found.attentions != ()
    assert found.account is not None
    assert found.account.unrecognised == ()
    stored = {info.name for one in found.attentions for weight in one.weights for info in weight.stored}
    outputs = {one.out.name for one in found.attentions if one.out is not None}
    rest = [tensor for tensor in NAMES[name] if tensor not in stored | outputs]
    assert all(not any(f"{word}" in tensor for word in ("query", "key", "value", "qkv")) for tensor in rest)


@batched("shapes", DECOYS)
def test_further_decoys_are_none(shapes: Shapes) -> None:
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert told.account.unrecognised == ()
