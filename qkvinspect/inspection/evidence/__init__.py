"""What trained weights betray about themselves: how many heads, which packing, which way round. numpy only."""

from __future__ import annotations

from qkvinspect.inspection.evidence.weigh import (
    APART,
    WORK,
    Variants,
    draw,
    layers_within,
    samples_of,
    unless_apart,
    weigh_heads,
    weigh_packings,
    weigh_turns,
)

__all__ = [
    "APART",
    "WORK",
    "Variants",
    "draw",
    "layers_within",
    "samples_of",
    "unless_apart",
    "weigh_heads",
    "weigh_packings",
    "weigh_turns",
]
