"""Diffusion models, and the to_qkv of lucidrains' libraries."""

from qkvinspect.layouts.layout import QK_NORMS, HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import KV, PER_HEAD, QKV, Packing, Q

_TO_OUT = ("to_out.0.weight", "to_out.weight")

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        id="to-qkv-fused",
        libraries="diffusers after fuse_qkv_projections; vit-pytorch; latent-diffusion's linear attention",
        weights=(StoredWeight("to_qkv.weight", QKV),),
        out=_TO_OUT,
        may_share_kv=True,
        supersedes=("to-qkv",),
        source="diffusers models/attention_processor.py, Attention.fuse_projections; vit_pytorch/vit.py, Attention",
        proof="proven",
    ),
    Layout(
        id="stable-audio3",
        libraries="diffusers Stable Audio 3 and its autoencoder SAME: differential attention",
        weights=(StoredWeight("to_qkv.weight", QKV),),
        out_ratio=5,
        out=_TO_OUT,
        v_free=True,
        subheads=(("q", 2), ("k", 2)),
        subheads_apart=True,
        head_tensors=(HeadTensor("q_norm.gamma|weight", 0, "head_dim"),),
        source="diffusers models/transformers/transformer_stable_audio3.py",
        proof="source",
        note="[q1; q2; k1; k2; v]: the heads of Q and K come twice",
    ),
    Layout(
        id="to-q-and-kv",
        libraries="diffusers fused cross-attention; vit-pytorch CaiT, cross-attention; Perceiver, Flamingo",
        weights=(StoredWeight("to_q.weight", Q), StoredWeight("to_kv.weight", KV)),
        out=_TO_OUT,
        kv_heads="equal",
        may_share_kv=True,
        supersedes=("to-qkv",),
        head_tensors=QK_NORMS,
        source="vit_pytorch/cait.py, Attention; diffusers models/attention_processor.py",
        proof="proven",
    ),
    Layout(
        id="to-added-qkv",
        libraries="diffusers SD3, Flux after fuse_qkv_projections: the second stream",
        weights=(StoredWeight("to_added_qkv.weight", QKV),),
        label="added",
        supersedes=("diffusers-added",),
        out=("to_add_out.weight",),
        source="diffusers models/attention_processor.py, Attention.fuse_projections",
        proof="proven",
    ),
    *(
        Layout(
            id=f"adm-{form}",
            libraries=f"guided-diffusion, latent-diffusion: AttentionBlock, {how}",
            weights=(StoredWeight("qkv.weight", packing),),
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
    Layout(
        id="adm-pool",
        libraries="guided-diffusion: AttentionPool2d",
        weights=(StoredWeight("qkv_proj.weight", QKV),),
        ndim=3,
        ratio=3,
        out=("c_proj.weight",),
        head_tensors=(),
        source="guided_diffusion/unet.py, AttentionPool2d",
        proof="source",
    ),
    Layout(
        id="flux-single",
        libraries="Flux of Black Forest Labs: single blocks",
        weights=(StoredWeight("linear1.weight", Packing(("q", "k", "v", "mlp"))),),
        layer="single_blocks.#",
        square=True,
        source="flux modules/layers.py, SingleStreamBlock.forward",
        proof="source",
        note="rows of the MLP come last",
    ),
    Layout(
        id="flux2-single",
        libraries="diffusers Flux2: single blocks",
        weights=(StoredWeight("to_qkv_mlp_proj.weight", Packing(("q", "k", "v", "mlp"))),),
        square=True,
        source="diffusers models/transformers/transformer_flux2.py",
        proof="proven",
        note="rows of the MLP come last",
    ),
)
