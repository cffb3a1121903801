"""MLX's modes without biases: small floats in words of 32 bits, and ``scales`` of one byte for each group of a row.

mxfp4 and mxfp8 have groups of 32 with powers of two, nvfp4 groups of 16 with float8_e4m3fn. The lowest bits of a word
come first. Source: mlx 0.32, mlx.core.quantize, ``mode``.
"""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.parsed import is_mapping
from qkvinspect.weights.companions import expect_one_run, lost, said
from qkvinspect.weights.encodings.micro_float import BITS, MicroFloat, MicroFloatKind, weight_of
from qkvinspect.weights.weight import Weight


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of scales belongs to; None where there is none, or biases make it affine."""
    tensors, scales = checkpoint.tensors, checkpoint.tensors[marker]
    prefix, dot, _ = marker.rpartition(".")
    codes = tensors.get(f"{prefix}{dot}weight")
    if codes is None or codes.dtype.name != "uint32" or len(codes.shape) < 2 or scales.dtype.name != "uint8":
        return None
    if f"{prefix}{dot}biases" in tensors:
        return None
    try:
        return weight_of(codes.name, _micro_float(codes, scales, _mode(prefix, checkpoint)))
    except LayoutError as error:
        return lost(codes.name, codes, error)


def _micro_float(codes: TensorInfo, scales: TensorInfo, mode: str | None) -> MicroFloat:
    """The mode is what the shapes say, of which each has one of its own.

    Raises:
        LayoutError: the scales are those of no mode, or of another than the config says.
    """
    kinds: list[MicroFloatKind] = [kind for kind in BITS if mode in (None, kind.lower())]
    found = next((one for kind in kinds if scales.shape == (one := MicroFloat(kind, codes, scales)).scales_shape), None)
    if found is None or 0 in codes.shape:
        expected = f"scales of {mode}, as the config says" if mode else "scales of mxfp4, mxfp8 or nvfp4"
        raise LayoutError(
            "has other scales", tensor=codes.name, expected=expected, found=f"{list(codes.shape)}, {list(scales.shape)}"
        )
    expect_one_run(codes, scales)
    return found


def _mode(prefix: str, checkpoint: Checkpoint) -> str | None:
    """What the config says for this layer, or else for all."""
    modes = (
        values.get("mode") for found in said(checkpoint) for values in (found.get(prefix), found) if is_mapping(values)
    )
    return next((mode for mode in modes if isinstance(mode, str)), None)
