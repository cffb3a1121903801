"""A short way to write a row of the registry for Q, K and V apart."""

from __future__ import annotations

from typing import Literal

from qkvinspect.checkpoint import Orientation
from qkvinspect.layouts.layout import HeadTensor, Layout, Proof, StoredWeight
from qkvinspect.layouts.logits import Logits
from qkvinspect.layouts.packing import K, Q, V


def separate(
    id: str,
    libraries: str,
    q: str,
    k: str,
    v: str,
    *,
    source: str,
    out: tuple[str, ...],
    layer: str = "",
    label: str = "",
    suffix: str = ".weight",
    orientation: Orientation = "out_in",
    extras: tuple[tuple[str, str], ...] = (),
    siblings: tuple[str, ...] = (),
    unless: tuple[str, ...] = (),
    kv_heads: Literal["free", "equal", "one"] = "free",
    num_heads: int | None = None,
    v_free: bool = False,
    head_tensors: tuple[HeadTensor, ...] = (),
    no_bias: tuple[str, ...] = (),
    proof: Proof = "proven",
    logits: Logits = Logits(),  # noqa: B008  (immutable)
    note: str = "",
) -> Layout:
    """A row for three linear layers named ``q``, ``k`` and ``v``, each with an optional bias."""
    names = ((q, Q), (k, K), (v, V))
    return Layout(
        id=id,
        libraries=libraries,
        weights=tuple(StoredWeight(name + suffix, packing, orientation) for name, packing in names),
        biases=tuple(StoredWeight(f"{name}.bias", packing) for name, packing in names),
        out=out,
        layer=layer,
        label=label,
        extras=extras,
        siblings=siblings,
        unless=unless,
        kv_heads=kv_heads,
        num_heads=num_heads,
        v_free=v_free,
        head_tensors=head_tensors,
        no_bias=no_bias,
        source=source,
        proof=proof,
        logits=logits,
        note=note,
    )
