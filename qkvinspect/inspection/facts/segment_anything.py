"""Segment Anything: its mask decoder has 8 heads in every model, which no config says.

Sources: segment_anything/build_sam.py (_build_sam: ``TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048,
num_heads=8)``), which SAM-HQ, MobileSAM and SAM 2 (sam2/modeling/sam2_base.py, _build_sam_heads) keep.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import HeadedModule

_HEADS = 8
_DECODER = "mask_decoder.transformer."
_PROMPTS = ("prompt_encoder", "pe_layer", "positional_encoding_gaussian_matrix")
"""A buffer that only the library's own prompt encoder has: the file is of that model, and not of another's decoder."""


def facts(module: HeadedModule) -> Iterator[HeadFact]:
    """What the library builds, where the tensors say that it is the library's."""
    before, found, _ = f".{module.layer}".rpartition(f".{_DECODER}")
    prefix = tuple(filter(None, before.split(".")))
    if found and any(
        module.names.find_path((*prefix, *ending)) for ending in (_PROMPTS, ("sam_" + _PROMPTS[0], *_PROMPTS[1:]))
    ):
        yield HeadFact("library:segment_anything", _HEADS)
