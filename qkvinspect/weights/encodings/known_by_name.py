"""Formats that are recognised by their names but not decoded.

HQQ keeps ``W_q`` with ``shape``, ``nbits`` and ``group_size`` beside it (hqq 0.2.8, core/quantize.py, state_dict);
quanto's qint2 and qint4 a ``_data`` within ``_data``, whose groups stand nowhere (optimum-quanto 0.2.7,
tensor/weights/qbits.py); torchao's other tensors parts of their own names (torchao 0.18, prototype/safetensors).
"""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.weights.companions import lost, small_integers
from qkvinspect.weights.weight import Weight

_BY_LEAF = {"trellis": "ExLlamaV3 (exl3)", "onnx_codes": "codes of an ONNX operator"}
_HINT = "save it dequantised to see its numbers"


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of codes belongs to, with why it has no numbers; None where another module has it."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    codes = tensors[marker]
    if leaf == "W_q":
        return _hqq(f"{prefix}{dot}", codes, checkpoint)
    if leaf == "_data" and prefix.endswith("._data"):
        return _named(prefix.removesuffix("._data"), codes, "quanto's packed integers, whose groups stand nowhere")
    if leaf == "_weight_qdata" and codes.dtype.name not in ("int8", "float8_e4m3fn"):
        return _named(f"{prefix}{dot}weight", codes, f"torchao's packed {codes.dtype.name}")
    if leaf in _BY_LEAF:
        return _named(f"{prefix}{dot}weight", codes, _BY_LEAF[leaf])
    return None


def _named(name: str, codes: TensorInfo, what: str) -> Weight:
    return lost(name, codes, LayoutError(f"is stored as {what}, which is not decoded", tensor=codes.name, hint=_HINT))


def _hqq(prefix: str, codes: TensorInfo, checkpoint: Checkpoint) -> Weight:
    """With its true shape, which HQQ keeps beside it."""
    name, facts = f"{prefix}weight", {key: checkpoint.tensors.get(f"{prefix}{key}") for key in ("nbits", "group_size")}
    numbers = {key: info for key, info in facts.items() if info is not None and info.numel == 1}
    said = [f"{key} {small_integers(info, 1)[0]}" for key, info in numbers.items()]
    found = _named(name, codes, " ".join(["HQQ's codes", *said]))
    sizes = checkpoint.tensors.get(f"{prefix}shape")
    if sizes is None or sizes.numel != 2:
        return found
    return Weight(name, small_integers(sizes, 2), codes.dtype, codes, why=found.why)
