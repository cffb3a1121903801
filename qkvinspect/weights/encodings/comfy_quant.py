"""What ComfyUI says of the weights that it quantised: NVFP4 and MXFP8 in its own order, and what is not decoded.

``comfy_quant`` beside a weight holds JSON with its ``format``; older files have it for all layers in the metadata,
``_quantization_metadata``. Its NVFP4 has ModelOpt's names and dtypes and may have the same shapes, but the high half of
a byte comes first and the scales lie in tiles. Float8 and int8 are stored as everywhere: their own modules know them.
Rotated weights (``convrot``) are not those that the model was trained with, and are only named.
Source: ComfyUI 0271a46, comfy/quant_ops.py and comfy/utils.py, convert_old_quants; comfy-kitchen 0.2.40.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.parsed import is_mapping
from qkvinspect.weights.companions import (
    POWERS_OF_TWO,
    companion,
    expect_dtype,
    expect_one_run,
    expect_shape,
    lost,
    packed_json,
    scale_of_all,
)
from qkvinspect.weights.encodings.micro_float import MicroFloat, expect_groups, weight_of
from qkvinspect.weights.tiled_scales import tiled_shape
from qkvinspect.weights.weight import Weight

_MAX_SAID = 1 << 12
_PLAIN = {"float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2", "int8_tensorwise": "int8"}
"""Formats that are stored as everywhere, and the dtype of their codes."""

_ROTATED = "convrot"


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that such a tensor or a scale belongs to; None where ComfyUI says nothing, or nothing of its own."""
    tensors = checkpoint.tensors
    prefix, dot, _ = marker.rpartition(".")
    name, form = f"{prefix}{dot}weight", tensors.get(f"{prefix}{dot}comfy_quant")
    codes = tensors.get(name)
    if codes is None:
        return None
    try:
        said = packed_json(form, _MAX_SAID) if form is not None else _of_metadata(checkpoint).get(prefix)
        if not is_mapping(said):
            return None
        found = _told(name, codes, said, checkpoint.tensors, (form,) if form is not None else ())
    except LayoutError as error:
        return lost(name, codes, error)
    return weight_of(name, found) if found is not None else None


def _told(
    name: str,
    codes: TensorInfo,
    said: Mapping[str, object],
    tensors: Mapping[str, TensorInfo],
    kept: tuple[TensorInfo, ...],
) -> MicroFloat | None:
    """Raises:
    LayoutError: it is none of the formats that are decoded, or its tensors do not fit.
    """
    kind = str(said.get("format"))
    rotated = _ROTATED if said.get(_ROTATED) else None
    if kind in _PLAIN and not rotated:
        expect_dtype(codes, _PLAIN[kind])
        return None
    if kind not in ("nvfp4", "mxfp8") or rotated:
        what = " ".join(part[:40] for part in (kind, rotated) if part)
        raise LayoutError(
            f"is stored as ComfyUI's {what}, which is not decoded",
            tensor=codes.name,
            hint="save it dequantised to see its numbers",
        )
    scales = companion(tensors, f"{name}_scale")
    if kind == "nvfp4":
        expect_dtype(codes, "uint8", "float4_e2m1fn_x2")
        expect_dtype(scales, "float8_e4m3fn", "uint8")
        whole = scale_of_all(tensors, f"{name}_scale_2")
        found = MicroFloat("NVFP4", codes, scales, whole, high_first=True, tiled=True, kept=kept)
    else:
        expect_dtype(codes, "float8_e4m3fn")
        expect_dtype(scales, *POWERS_OF_TWO)
        found = MicroFloat("MXFP8", codes, scales, tiled=True, kept=kept)
    if len(codes.shape) != 2:
        raise LayoutError("has another shape", tensor=codes.name, expected="two axes", found=list(codes.shape))
    expect_groups(found)
    rows, cols = found.shape
    if rows % found.group:  # it fills both axes up to whole groups
        expected = f"rows in a multiple of {found.group}"
        raise LayoutError("has another shape", tensor=codes.name, expected=expected, found=list(codes.shape))
    expect_shape(scales, tiled_shape(rows, cols // found.group))
    expect_one_run(codes, scales)
    return found


def _of_metadata(checkpoint: Checkpoint) -> Mapping[str, object]:
    """What the metadata says of each layer, by its name."""
    text = checkpoint.metadata.get("_quantization_metadata")
    return _layers(text) if isinstance(text, str) else {}


@lru_cache(2)
def _layers(text: str) -> Mapping[str, object]:
    try:
        parsed: object = json.loads(text)  # as long as a header may be
    except (ValueError, RecursionError):
        return {}
    layers = parsed.get("layers") if is_mapping(parsed) else None
    return layers if is_mapping(layers) else {}
