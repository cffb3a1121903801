"""Q, K and V that a loader fuses into one weight have scales of the whole that differ: it keeps one of them.

vLLM makes one projection of the three and takes the largest of their NVFP4 scales for all
(model_executor/layers/quantization, process_weights_after_loading): the values of the others are no longer those that
were stored. Quantisers give the three one scale where they know that; such a layer was quantised without it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Subject, Told
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.companions import number_of
from qkvinspect.weights.encodings.float4 import Float4

CODE: FindingCode = FindingCode.FUSED_SCALES_DIFFER


def told(subject: Subject) -> Iterator[Told]:
    for attention in subject.attentions:
        scales = _scales(attention)
        if len(scales) > 1 and len(set(scales.values())) > 1:
            named = ", ".join(f"{name} {scale:.6g}" for name, scale in scales.items())
            yield attention.layer, f"scales of the whole differ: {named}; a loader that fuses them keeps one"


def _scales(attention: Attention) -> dict[str, float]:
    """The scale of each of the stored weights that hold Q, K and V, where it has one for the whole."""
    found: dict[str, float] = {}
    for weight in {part.weight.name: part.weight for part in attention.parts}.values():
        encoding = weight.encoding
        if isinstance(encoding, Float4) and encoding.whole is not None:
            found[weight.name.rpartition(f"{attention.layer}.")[2]] = number_of(encoding.whole)
    return found
