"""Scales of Q, K and V differ, of which a loader keeps one.

vLLM makes one projection of the three, warns where their NVFP4 scales of the whole differ, and takes the largest for
all without rounding again (model_executor/layers/quantization: modelopt.py, ModelOptNvFp4LinearMethod, and
compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py, process_weights_after_loading). ModelOpt multiplies by
that scale, so that the parts of smaller ones grow; compressed-tensors divides by it, so that they shrink. Quantisers
give the three one scale where they know of this; such a layer was quantised without it. Of float8 with one scale a
part vLLM rounds the values anew (utils/w8a8_utils.py, requantize_with_max_scale), which is no fault of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf, log

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.companions import number_of
from qkvinspect.weights.encodings.micro_float import MicroFloat

CODE: FindingCode = FindingCode.FUSED_SCALES_DIFFER


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.attentions:
        scales = _scales(attention)
        if len(scales) > 1 and len(set(scales.values())) > 1:
            named = ", ".join(f"{name} {scale:.6g}" for name, (scale, _) in scales.items())
            name, times = max(_grown(scales).items(), key=lambda item: _far(item[1]))
            text = f"scales of the whole differ: {named}; vLLM, which fuses them, keeps the largest"
            yield attention.layer, f"{text}: values of {name} become {times:.3g} times what they are"


def _grown(scales: Mapping[str, tuple[float, bool]]) -> dict[str, float]:
    """What the values of each are taken times when the largest scale stands for all."""
    largest = max(scale for scale, _ in scales.values())
    times = {name: largest / scale if scale else inf for name, (scale, _) in scales.items()}
    return {name: 1 / times[name] if divides and times[name] else times[name] for name, (_, divides) in scales.items()}


def _far(times: float) -> float:
    """How far from one a factor is."""
    return abs(log(times)) if 0 < times < inf else inf


def _scales(attention: Attention) -> dict[str, tuple[float, bool]]:
    """The scale of each of the stored weights that hold Q, K and V, where it has one for the whole.

    And whether values are divided by it.
    """
    found: dict[str, tuple[float, bool]] = {}
    for weight in {part.weight.name: part.weight for part in attention.parts}.values():
        encoding = weight.encoding
        if isinstance(encoding, MicroFloat) and encoding.whole is not None:
            found[weight.name.rpartition(f"{attention.layer}.")[2]] = number_of(encoding.whole), encoding.divides
    return found
