"""Names of initialisers that exporters, optimisers and quantisers make up."""

from __future__ import annotations

import re

from qkvinspect.late_pattern import late_pattern

_GENERATED = late_pattern(r"onnx::\w+|_?val_\d+(?:[_/].*)?|\d+|/.*|node_.*|ortshared_.*", re.DOTALL)
"""Names that exporters and optimisers make up."""

_OF_CODES = late_pattern(r"(.+?\.)(?:MatMul\.)?weight_(?:DQ_)?(?:Q\d|quant|quantized|qweight)", re.DOTALL)
"""What onnxruntime's quantisers and model builder call the codes of a weight."""


def is_generated(name: str) -> bool:
    """Whether an exporter made the name up."""
    return _GENERATED.fullmatch(name) is not None


def own_name(label: str) -> str | None:
    """The weight that codes were made of, where their name says it: ``q_proj.weight_quantized``."""
    found = None if is_generated(label) else _OF_CODES.fullmatch(label)
    return f"{found[1]}weight" if found else None
