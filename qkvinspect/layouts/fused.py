"""What the tables of fused layouts share: the common packings, and a short way to write a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from qkvinspect.checkpoint import Orientation
from qkvinspect.layouts.layout import HeadTensor, Layout, Proof, StoredWeight
from qkvinspect.layouts.logits import Logits
from qkvinspect.layouts.packing import QKV, Packing

CONFIG_ONLY: Mapping[str, tuple[object, ...]] = {}
KV = Packing(("k", "v"))
KV_PER_HEAD = Packing(("k", "v"), groups="heads")
QK = Packing(("q", "k"))
KVQ = Packing(("k", "v", "q"))
HEAD_DIM_KEYS = (
    HeadTensor("q_norm|q_layernorm|norm_q.weight", 0, "head_dim"),
    HeadTensor("norm.query_norm.scale", 0, "head_dim"),
)


def fused(
    id: str,
    libraries: str,
    key: str,
    packing: Packing = QKV,
    *,
    source: str,
    proof: Proof = "proven",
    orientation: Orientation = "out_in",
    layer: str = "",
    label: str = "",
    bias: tuple[StoredWeight, ...] | None = None,
    out: tuple[str, ...] = (),
    out_orientation: Orientation = "out_in",
    siblings: tuple[str, ...] = (),
    unless: tuple[str, ...] = (),
    ratio: int | None = None,
    out_ratio: int | None = None,
    ndim: int | None = None,
    square: bool = False,
    model_types: tuple[str, ...] = (),
    flags: Mapping[str, tuple[object, ...]] = CONFIG_ONLY,
    needs_config: bool = False,
    settled_by: tuple[str, ...] = (),
    kv_heads: Literal["free", "equal", "one"] = "equal",
    subheads: tuple[tuple[str, int], ...] = (),
    head_tensors: tuple[HeadTensor, ...] = HEAD_DIM_KEYS,
    head_keys: tuple[str, ...] = (),
    v_free: bool = False,
    v_ratio: int | None = None,
    no_bias: tuple[str, ...] = (),
    num_heads: int | None = None,
    head_dim: int | None = None,
    supersedes: tuple[str, ...] = (),
    logits: Logits = Logits(),  # noqa: B008  (immutable)
    note: str = "",
) -> Layout:
    """A row for one tensor that holds several parts; its bias lies beside it and is packed alike."""
    if bias is None:
        bias = (StoredWeight(key.removesuffix("weight") + "bias", packing),) if key.endswith(".weight") else ()
    return Layout(
        id=id,
        libraries=libraries,
        weights=(StoredWeight(key, packing, orientation),),
        source=source,
        proof=proof,
        layer=layer,
        label=label,
        biases=bias,
        out=out,
        out_orientation=out_orientation,
        siblings=siblings,
        unless=unless,
        ratio=ratio,
        out_ratio=out_ratio,
        ndim=ndim,
        square=square,
        model_types=model_types,
        flags=flags,
        needs_config=needs_config,
        settled_by=settled_by,
        kv_heads=kv_heads,
        subheads=subheads,
        head_tensors=head_tensors,
        head_keys=head_keys,
        v_free=v_free,
        v_ratio=v_ratio,
        no_bias=no_bias,
        num_heads=num_heads,
        head_dim=head_dim,
        supersedes=supersedes,
        logits=logits,
        note=note,
    )
