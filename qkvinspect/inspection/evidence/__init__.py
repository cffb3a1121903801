"""Infer from trained weights alone how many heads there are, in which packing and orientation. numpy only."""

from __future__ import annotations

from qkvinspect.inspection.evidence.index import index_of
from qkvinspect.inspection.evidence.weigh import (
    APART,
    SURE,
    WORK,
    Variants,
    draw,
    layers_within,
    samples_of,
    stride_for,
    unless_apart,
    weigh_heads,
    weigh_packings,
    weigh_turns,
)

__all__ = [
    "APART",
    "SURE",
    "WORK",
    "Variants",
    "draw",
    "index_of",
    "layers_within",
    "samples_of",
    "stride_for",
    "unless_apart",
    "weigh_heads",
    "weigh_packings",
    "weigh_turns",
]
