"""Read the tensors and config entries that belong to a quantised weight, with an error for each mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.parsed import is_mapping, is_size
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

POWERS_OF_TWO = ("uint8", "float8_e8m0fnu")
"""Dtypes in which scales that are powers of two are stored."""

_PLACES = ("quantization_config", "compression_config", "quantization")
_PARTS = ("text_config", "llm_config", "thinker_config", "language_config")


def companion(tensors: Mapping[str, TensorInfo], name: str) -> TensorInfo:
    """A tensor that must exist.

    Raises:
        LayoutError: it is not.
    """
    found = tensors.get(name)
    if found is None:
        raise LayoutError("is missing", tensor=name)
    return found


def expect_shape(info: TensorInfo, *shapes: tuple[int, ...]) -> None:
    """Raises:
    LayoutError: it has none of these shapes.
    """
    if info.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise LayoutError("has another shape", tensor=info.name, expected=expected, found=list(info.shape))


def expect_dtype(info: TensorInfo, *names: str) -> None:
    """Raises:
    LayoutError: it has none of these dtypes.
    """
    if info.dtype.name not in names:
        raise LayoutError("has another dtype", tensor=info.name, expected=" or ".join(names), found=info.dtype.name)


def expect_float(info: TensorInfo) -> None:
    """Raises:
    LayoutError: it holds no floats of 16 bits or more.
    """
    expect_dtype(info, "float16", "bfloat16", "float32", "float64")


def expect_axes(info: TensorInfo, count: int) -> None:
    """Raises:
    LayoutError: it has another number of axes, or one of no elements.
    """
    if len(info.shape) != count or 0 in info.shape:
        raise LayoutError("has another shape", tensor=info.name, expected=f"{count} axes", found=list(info.shape))


def expect_one_run(*infos: TensorInfo) -> None:
    """Raises:
    LayoutError: a tensor lies in several runs of bytes.
    """
    for info in infos:
        if not info.contiguous:
            raise LayoutError("does not lie in one run of bytes", tensor=info.name)


def scale_of_all(tensors: Mapping[str, TensorInfo], name: str) -> TensorInfo:
    """The one number that all scales are multiplied with or divided by.

    Raises:
        LayoutError: it is missing, or not one float.
    """
    whole = companion(tensors, name)
    expect_dtype(whole, "float32", "bfloat16", "float16")
    if whole.numel != 1:
        expect_shape(whole, (), (1,))
    return whole


def is_mxfp8(codes: TensorInfo, scales: TensorInfo) -> bool:
    """Whether these are float8 codes with a power of two for each 32 of a row."""
    return (
        codes.dtype.name == "float8_e4m3fn"
        and scales.dtype.name in POWERS_OF_TWO
        and codes.shape[-1] % 32 == 0
        and 0 not in codes.shape
        and scales.shape == (*codes.shape[:-1], codes.shape[-1] // 32)
        and codes.contiguous
        and scales.contiguous
    )


def lost(name: str, codes: TensorInfo, error: LayoutError) -> Weight:
    """A weight that cannot be decoded, with the reason; where several codes share a word, its shape is lost too."""
    one_each = codes.dtype.name == "int8" or codes.dtype.kind == "float"
    if one_each:
        return Weight(name, codes.shape, codes.dtype, codes, why=str(error))
    return Weight(name, (), codes.dtype, None, why=str(error))


def number_of(info: TensorInfo) -> float:
    """The only number of a tensor.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: it holds more than one.
    """
    return float(numbers_of(info, 1)[0])


def numbers_of(info: TensorInfo, count: int) -> Array:
    """All numbers of a small tensor.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: it holds another number of them.
    """
    from qkvinspect.weights.strided import strided_matrix
    from qkvinspect.weights.values import whole

    if info.numel != count:
        raise LayoutError("has another size", tensor=info.name, expected=f"{count} numbers", found=list(info.shape))
    return whole(strided_matrix(info, "out_in")).ravel()


def small_integers(info: TensorInfo, count: int) -> tuple[int, ...]:
    """The integers of a small tensor.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: it holds others.
    """
    expect_dtype(info, "int64", "int32")
    return tuple(int(number) for number in numbers_of(info, count))


def packed_json(info: TensorInfo, limit: int) -> dict[str, object]:
    """An object of JSON that is kept in the bytes of a tensor.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: it is none.
    """
    if info.dtype.name != "uint8" or len(info.shape) != 1 or not info.contiguous or info.numel > limit:
        found = f"{info.dtype.name} {list(info.shape)}"
        raise LayoutError("holds no packed JSON", tensor=info.name, expected=f"at most {limit} uint8", found=found)
    try:
        parsed: object = json.loads(info.region.read(info.offset, info.numel).decode())
    except (ValueError, RecursionError) as error:
        raise LayoutError("holds no JSON", tensor=info.name) from error
    if not is_mapping(parsed):
        raise LayoutError("holds JSON that is no object", tensor=info.name)
    return parsed


def said(checkpoint: Checkpoint) -> Iterator[Mapping[str, object]]:
    """What each config says of how the weights are quantised, the most trusted first."""
    for config in checkpoint.configs:
        inner = [part for key in _PARTS if is_mapping(part := config.values.get(key))]
        for values in (config.values, *inner):
            yield from (found for key in _PLACES if is_mapping(found := values.get(key)))
        if any(key in config.values for key in ("quant_method", "q_group_size", "desc_act")):
            yield config.values  # quantize_config.json, quant_config.json


def said_size(checkpoint: Checkpoint, *keys: str) -> int | None:
    """The first whole number that a config gives under one of these keys."""
    return next((value for found in said(checkpoint) for key in keys if is_size(value := found.get(key))), None)


def said_text(checkpoint: Checkpoint, *keys: str) -> str | None:
    """The first text that a config gives under one of these keys."""
    values = (found.get(key) for found in said(checkpoint) for key in keys)
    return next((value for value in values if isinstance(value, str)), None)


def schemes(checkpoint: Checkpoint) -> list[dict[str, object]]:
    """What compressed-tensors says of the weights of each group of layers."""
    return [scheme for found in said(checkpoint) for scheme in schemes_in(found)]


def schemes_in(found: Mapping[str, object]) -> list[dict[str, object]]:
    """The same, of one config."""
    groups = found.get("config_groups")
    weights = [group.get("weights") for group in groups.values() if is_mapping(group)] if is_mapping(groups) else []
    return [scheme for scheme in weights if is_mapping(scheme)]
