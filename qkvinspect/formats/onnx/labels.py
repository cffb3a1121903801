"""Names of initialisers that exporters, optimisers and quantisers make up."""

from __future__ import annotations

import re

from qkvinspect.late_pattern import late_pattern

_GENERATED = late_pattern(r"onnx::\w+|_?val_\d+(?:[_/].*)?|\d+|/.*|node_.*|ortshared_.*", re.DOTALL)
"""Names that exporters and optimisers make up."""

_OF_CODES = late_pattern(r"(.+?\.)(?:MatMul\.)?weight_(?:DQ_)?(?:Q\d|quant|quantized|qweight)", re.DOTALL)
"""What onnxruntime's quantisers and model builder call the codes of a weight."""

_QUANTISED, _DECODED = "_quantized", "_DequantizeLinear_Output"
"""What it adds to the name of a tensor, for its codes and for what is decoded of them."""


def is_generated(name: str) -> bool:
    """Whether an exporter made the name up."""
    return _GENERATED.fullmatch(name) is not None


def own_name(label: str) -> str | None:
    """The weight that codes were made of, where their name says it: ``q_proj.weight_quantized``."""
    found = None if is_generated(label) else _OF_CODES.fullmatch(label)
    return f"{found[1]}weight" if found else None


def before_quantising(codes: str, decoded: str) -> str | None:
    """The name of what onnxruntime's quantiser made codes of: those of a bias are decoded under its name."""
    if not is_generated(decoded) and not decoded.endswith(_DECODED):
        return decoded
    name = codes.removesuffix(_QUANTISED)
    return None if name == codes or is_generated(name) else name
