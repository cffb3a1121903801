"""Every way of storing attention that is known. A new family is one module here and one line below."""

from qkvinspect.layouts import separate, torch
from qkvinspect.layouts.layout import HeadTensor, Layout, Stored

LAYOUTS: tuple[Layout, ...] = (*torch.LAYOUTS, *separate.LAYOUTS)
"""All rows. Where two fit equally well, the earlier one is taken."""

__all__ = ["LAYOUTS", "HeadTensor", "Layout", "Stored"]
