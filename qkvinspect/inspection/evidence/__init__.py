"""Infer from trained weights alone how many heads there are, in which packing and orientation. numpy only."""

from __future__ import annotations

from qkvinspect.inspection.evidence.apart import APART, unless_apart
from qkvinspect.inspection.evidence.excerpt import Excerpt
from qkvinspect.inspection.evidence.odds import CHANCE, LIKELY
from qkvinspect.inspection.evidence.ways import rows_move, weighable
from qkvinspect.inspection.evidence.weigh import (
    SURE,
    WORK,
    Variants,
    agreeing,
    both_of_each,
    draw,
    each_by_itself,
    heads_of_each,
    layers_within,
    samples_of,
    stride_for,
    weigh_heads,
    weigh_packings,
    weigh_turns,
)

__all__ = [
    "APART",
    "CHANCE",
    "LIKELY",
    "SURE",
    "WORK",
    "Excerpt",
    "Variants",
    "agreeing",
    "both_of_each",
    "draw",
    "each_by_itself",
    "heads_of_each",
    "layers_within",
    "rows_move",
    "samples_of",
    "stride_for",
    "unless_apart",
    "weigh_heads",
    "weigh_packings",
    "weigh_turns",
    "weighable",
]
