"""Diffusion models, and the to_qkv of lucidrains' libraries."""

from qkvinspect.layouts.fused import HEAD_DIM_KEYS, KV, fused
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import PER_HEAD, QKV, Packing, Q

_TO_OUT = ("to_out.0.weight", "to_out.weight")

LAYOUTS: tuple[Layout, ...] = (
    fused(
        "to-qkv-fused",
        "diffusers after fuse_qkv_projections; vit-pytorch; latent-diffusion's linear attention",
        "to_qkv.weight",
        out=_TO_OUT,
        supersedes=("to-qkv",),
        source="diffusers models/attention_processor.py, Attention.fuse_projections; vit_pytorch/vit.py, Attention",
    ),
    fused(
        "stable-audio3",
        "diffusers Stable Audio 3: differential attention",
        "to_qkv.weight",
        out_ratio=5,
        out=_TO_OUT,
        v_free=True,
        subheads=(("q", 2), ("k", 2)),
        head_tensors=(),
        source="diffusers models/transformers/transformer_stable_audio3.py",
        proof="source",
        note="[q1; q2; k1; k2; v]: the heads of Q and K come twice",
    ),
    Layout(
        id="to-q-and-kv",
        libraries="diffusers fused cross-attention; vit-pytorch CaiT, cross-attention; Perceiver, Flamingo",
        weights=(StoredWeight("to_q.weight", Q), StoredWeight("to_kv.weight", KV)),
        biases=(StoredWeight("to_q.bias", Q), StoredWeight("to_kv.bias", KV)),
        out=_TO_OUT,
        kv_heads="equal",
        supersedes=("to-qkv",),
        head_tensors=HEAD_DIM_KEYS,
        source="vit_pytorch/cait.py, Attention; diffusers models/attention_processor.py",
        proof="proven",
    ),
    fused(
        "to-added-qkv",
        "diffusers SD3, Flux after fuse_qkv_projections: the second stream",
        "to_added_qkv.weight",
        label="added",
        supersedes=("diffusers-added",),
        out=("to_add_out.weight",),
        source="diffusers models/attention_processor.py, Attention.fuse_projections",
    ),
    *(
        fused(
            f"adm-{form}",
            f"guided-diffusion, latent-diffusion: AttentionBlock, {how}",
            "qkv.weight",
            packing,
            ndim=3,
            ratio=3,
            out=("proj_out.weight",),
            flags={"use_new_attention_order": (new,)},
            needs_config=True,
            head_tensors=(),
            source="guided_diffusion/unet.py, QKVAttentionLegacy and QKVAttention",
            proof="source",
            note="use_new_attention_order is not in the file",
        )
        for form, how, packing, new in (
            ("legacy", "the default order", PER_HEAD, False),
            ("new", "use_new_attention_order", QKV, True),
        )
    ),
    fused(
        "adm-pool",
        "guided-diffusion: AttentionPool2d",
        "qkv_proj.weight",
        ndim=3,
        ratio=3,
        out=("c_proj.weight",),
        head_tensors=(),
        source="guided_diffusion/unet.py, AttentionPool2d",
        proof="source",
    ),
    fused(
        "flux-single",
        "Flux of Black Forest Labs: single blocks",
        "linear1.weight",
        Packing(("q", "k", "v", "mlp")),
        layer="single_blocks.#",
        square=True,
        source="flux modules/layers.py, SingleStreamBlock.forward",
        proof="source",
        note="rows of the MLP come last",
    ),
    fused(
        "flux2-single",
        "diffusers Flux2: single blocks",
        "to_qkv_mlp_proj.weight",
        Packing(("q", "k", "v", "mlp")),
        square=True,
        source="diffusers models/transformers/transformer_flux2.py",
        note="rows of the MLP come last",
    ),
)
