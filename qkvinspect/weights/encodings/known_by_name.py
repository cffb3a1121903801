"""Formats that are recognised by their names but not decoded, with their true shape if a file has it.

HQQ keeps ``W_q`` with ``shape``, ``nbits`` and ``group_size`` beside it (hqq 0.2.8, core/quantize.py, state_dict);
quanto's qint2 and qint4 a ``_data`` within ``_data``, whose groups stand nowhere (optimum-quanto 0.2.7,
tensor/weights/qbits.py); torchao's other tensors parts of their own names (torchao 0.18, prototype/safetensors). The
others are named after what stands beside the codes, as each library's own module registers it.
"""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.weights.companions import lost, small_integers
from qkvinspect.weights.named_formats import BESIDE, FACTORS
from qkvinspect.weights.weight import Weight

_BY_LEAF = {"trellis": "ExLlamaV3 (exl3)", "onnx_codes": "codes of an ONNX operator"}

_MERGED = "merge the adapter into its base with the tool that wrote it"
_OF_HQQ = ("nbits", "group_size", "shape", "scale", "zero")
_HINT = "save it dequantised to see its numbers"


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of codes belongs to, with why it has no numbers; None where another module has it."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    if leaf in FACTORS:
        from qkvinspect.weights.adapters.module_names import dotted
        from qkvinspect.weights.adapters.sums import base_of

        if base_of(prefix, tensors):  # then it is said of that what is not added to it
            return None
        return replace(_named(f"{dotted(prefix)}.weight", tensors[marker], FACTORS[leaf], _MERGED), shape=(), info=None)
    if leaf == "qweight":  # which GPTQ and AWQ have too
        known = next((one for one in ("wscales", "lookup_table") if f"{prefix}{dot}{one}" in tensors), None)
        return find(f"{prefix}{dot}{known}", checkpoint) if known else None
    if leaf in BESIDE:
        beside, what = BESIDE[leaf]
        codes = tensors.get(f"{prefix}{dot}{beside}")
        whole = codes is not None and codes.dtype.kind in ("int", "uint")
        if codes is None or not whole:
            return None
        return replace(_named(f"{prefix}{dot}weight", codes, what), shape=(), info=None)
    codes = tensors[marker]
    if leaf == "W_q" and codes.dtype.kind == "float" and not any(f"{prefix}{dot}{key}" in tensors for key in _OF_HQQ):
        return None  # a query projection: HQQ's codes may be seen as numbers, too, but do not stand alone
    if leaf == "W_q":
        return _hqq(f"{prefix}{dot}", codes, checkpoint)
    if leaf == "_data" and prefix.endswith("._data"):
        return _named(prefix.removesuffix("._data"), codes, "quanto's packed integers, whose groups stand nowhere")
    if leaf == "_weight_qdata" and codes.dtype.name not in ("int8", "float8_e4m3fn"):
        return _named(f"{prefix}{dot}weight", codes, f"torchao's packed {codes.dtype.name}")
    if leaf == "onnx_codes":
        found = _named(prefix, codes, _BY_LEAF[leaf])
        return replace(found, shape=codes.shape, info=codes) if len(codes.shape) == 2 else found
    if leaf in _BY_LEAF:
        return _named(f"{prefix}{dot}weight", codes, _BY_LEAF[leaf])
    return None


def _named(name: str, codes: TensorInfo, what: str, hint: str = _HINT) -> Weight:
    return lost(name, codes, LayoutError(f"is stored as {what}, which is not decoded", tensor=codes.name, hint=hint))


def _hqq(prefix: str, codes: TensorInfo, checkpoint: Checkpoint) -> Weight:
    """With its true shape, which HQQ keeps beside it."""
    name, facts = f"{prefix}weight", {key: checkpoint.tensors.get(f"{prefix}{key}") for key in ("nbits", "group_size")}
    said = [f"{key} {number}" for key, info in facts.items() for number in _integers(info, 1)]
    found = _named(name, codes, " ".join(["HQQ's codes", *said]))
    sizes = _integers(checkpoint.tensors.get(f"{prefix}shape"), 2)
    if min(sizes, default=0) < 1:
        return found
    return Weight(name, sizes, codes.dtype, codes, why=found.why)


def _integers(info: TensorInfo | None, count: int) -> tuple[int, ...]:
    """What a tensor of so many integers says; () where it is none."""
    try:
        return small_integers(info, count) if info is not None else ()
    except LayoutError:
        return ()
