"""Every way of storing attention that is known. A new family is one module here and one line below."""

from qkvinspect.layouts import (
    c_attn,
    decoders,
    diffusion,
    encoders,
    other_attention,
    query_key_value,
    separate,
    torch,
    vision,
)
from qkvinspect.layouts.layout import HeadTensor, Layout, Stored

LAYOUTS: tuple[Layout, ...] = (
    *torch.LAYOUTS,
    *separate.LAYOUTS,
    *c_attn.LAYOUTS,
    *decoders.LAYOUTS,
    *query_key_value.LAYOUTS,
    *encoders.LAYOUTS,
    *vision.LAYOUTS,
    *diffusion.LAYOUTS,
    *other_attention.LAYOUTS,
)
"""All rows. Where two fit equally well and store the same things, the earlier one is taken."""

__all__ = ["LAYOUTS", "HeadTensor", "Layout", "Stored"]
