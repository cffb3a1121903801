"""Modules that attend over two streams: a set of projections each, or keys and values of a second one."""

from qkvinspect.layouts.apart import separate
from qkvinspect.layouts.fused import KV, fused
from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import K, Q, V

_DIFFUSERS = "diffusers models/transformers/"

LAYOUTS: tuple[Layout, ...] = (
    *(
        fused(
            f"double-stream-{stream}",
            f"HunyuanVideo as released, JoyImage: the {what} stream",
            f"{stream}_attn_qkv.weight",
            label=stream,
            out=(f"{stream}_attn_proj.weight",),
            head_tensors=(HeadTensor(f"{stream}_attn_q_norm.weight", 0, "head_dim"),),
            proof="source",
            source=f"{_DIFFUSERS}transformer_joyimage.py: chunk(3)",
        )
        for stream, what in (("img", "image's"), ("txt", "text's"))
    ),
    fused(
        "prx-image",
        "diffusers PRX: the image's stream",
        "img_qkv_proj.weight",
        label="img",
        out=("to_out.0.weight",),
        proof="source",
        source=f"{_DIFFUSERS}transformer_prx.py: reshape(..., 3, heads, head_dim)",
    ),
    fused(
        "prx-text",
        "diffusers PRX: keys and values of the text",
        "txt_kv_proj.weight",
        KV,
        label="txt",
        proof="source",
        source=f"{_DIFFUSERS}transformer_prx.py: reshape(..., 2, heads, head_dim)",
    ),
    separate(
        "hidream-text",
        "diffusers HiDream: the text's stream",
        "to_q_t",
        "to_k_t",
        "to_v_t",
        label="text",
        out=("to_out_t.weight",),
        proof="source",
        source=f"{_DIFFUSERS}transformer_hidream_image.py, HiDreamAttention",
    ),
    Layout(
        id="diffusers-added-kv",
        libraries="diffusers Wan, IP-Adapter, NucleusMoE: keys and values of a second stream",
        weights=(StoredWeight("add_k_proj.weight", K), StoredWeight("add_v_proj.weight", V)),
        biases=(StoredWeight("add_k_proj.bias", K), StoredWeight("add_v_proj.bias", V)),
        label="added",
        unless=("add_q_proj.weight", "to_added_qkv.weight"),
        proof="source",
        source=f"{_DIFFUSERS}transformer_wan.py, WanAttention.add_k_proj",
    ),
    Layout(
        id="stable-audio3-cross",
        libraries="diffusers Stable Audio 3: differential cross-attention",
        weights=(StoredWeight("to_kv.weight", KV), StoredWeight("to_q.weight", Q)),
        siblings=("to_q.weight", "to_out.weight"),
        out=("to_out.weight",),
        out_ratio=3,
        kv_heads="equal",
        v_free=True,
        subheads=(("q", 2), ("k", 2)),
        proof="source",
        source=f"{_DIFFUSERS}transformer_stable_audio3.py, StableAudio3CrossAttention",
        note="[q1; q2] and [k1; k2; v]: the heads of Q and K come twice",
    ),
    *(
        separate(
            f"conditional-detr-{short}",
            f"transformers Conditional DETR: {what}-attention of the decoder",
            f"{short}_qcontent_proj",
            f"{short}_kcontent_proj",
            f"{short}_v_proj",
            label=short,
            out=(f"{out}.out_proj.weight",),
            proof="source",
            source="transformers models/conditional_detr/modeling_conditional_detr.py",
            note="positions have projections of their own, qpos and kpos, whose results are added",
        )
        for short, what, out in (("sa", "self", "self_attn"), ("ca", "cross", "encoder_attn"))
    ),
    separate(
        "grounding-dino-fusion",
        "transformers Grounding DINO: the image attends to the text",
        "vision_proj",
        "text_proj",
        "values_text_proj",
        label="vision",
        out=("out_vision_proj.weight",),
        kv_heads="equal",
        extras=(("values_vision_proj.weight", "V of the other direction, in which the text attends to the image"),),
        proof="source",
        source="transformers models/grounding_dino/modeling_grounding_dino.py, GroundingDinoBiMultiHeadAttention",
        note="the text attends to the image with the same two: vision_proj is its K and text_proj its Q",
    ),
    *(
        separate(
            f"evolla-{what}",
            f"transformers Evolla: attention to the {what}",
            "query",
            f"key_{what}",
            f"value_{what}",
            label=what if what != "protein" else "",
            out=("out_proj.weight",),
            proof="source",
            source="transformers models/evolla/modeling_evolla.py, EvollaSequenceAlignerCrossAttention",
        )
        for what in ("protein", "structure", "msa")
    ),
    fused(
        "sana-camera",
        "diffusers SANA-WM: linear attention beside a camera's branch",
        "qkv.weight",
        ndim=2,
        ratio=3,
        siblings=("q_proj_cam.weight", "A_log"),
        out=("proj.weight",),
        head_tensors=(HeadTensor("A_log", 0, "num_heads"),),
        proof="source",
        source=f"{_DIFFUSERS}transformer_sana_wm.py",
    ),
    separate(
        "sana-camera-branch",
        "diffusers SANA-WM: the camera's branch",
        "q_proj_cam",
        "k_proj_cam",
        "v_proj_cam",
        label="cam",
        out=("out_proj_cam.weight",),
        head_tensors=(HeadTensor("A_log", 0, "num_heads"),),
        proof="source",
        source=f"{_DIFFUSERS}transformer_sana_wm.py",
    ),
    separate(
        "inkling",
        "transformers Inkling",
        "wq_du",
        "wk_dv",
        "wv_dv",
        out=("wo_ud.weight",),
        proof="source",
        source="transformers conversion_mapping.py",
    ),
    Layout(
        id="zaya",
        libraries="transformers Zaya: compressed convolutional attention",
        weights=(StoredWeight("q_proj.weight", Q), StoredWeight("k_proj.weight", K)),
        biases=(StoredWeight("q_proj.bias", Q), StoredWeight("k_proj.bias", K)),
        layer="self_attn.qkv_proj",
        siblings=("v_proj_current.weight", "v_proj_delayed.weight"),
        out=("../o_proj.weight",),
        extras=(
            ("v_proj_current.weight", "the first half of V's rows, of the same token"),
            ("v_proj_delayed.weight", "the second half of V's rows, of the token before"),
        ),
        proof="source",
        source="transformers models/zaya/modeling_zaya.py, ZayaCCAProjection.forward",
        note="V is made of two projections, of this token and of the one before",
    ),
)
