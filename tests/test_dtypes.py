"""Element types: every bit pattern of the narrow floats must be the number that torch (or the OCP spec) says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights.reading import numbers

TORCH_NAMES = [name for name in DTYPES if isinstance(getattr(torch, name, None), torch.dtype)]
QUANTISED = {"qint32", "qint8", "quint8", "quint4x2", "quint2x4"}


def test_names_and_widths_are_torch_s() -> None:
    for name in TORCH_NAMES:
        dtype = getattr(torch, name)
        assert DTYPES[name].bits == 8 * dtype.itemsize, name
        if name not in QUANTISED:
            assert (DTYPES[name].kind == "complex") == dtype.is_complex, name
            assert (DTYPES[name].kind == "float") == dtype.is_floating_point, name
    assert set(DTYPES) - set(TORCH_NAMES) == {"float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"}
    assert all(name == dtype.name for name, dtype in DTYPES.items())


@pytest.mark.parametrize(
    ("name", "numel", "nbytes"),
    [
        ("float32", 3, 12),
        ("complex128", 2, 32),
        ("float4_e2m1fn", 0, 0),
        ("float4_e2m1fn", 1, 1),
        ("float4_e2m1fn", 2, 1),
        ("float4_e2m1fn", 3, 2),
        ("float6_e2m3fn", 4, 3),
        ("float6_e3m2fn", 5, 4),
        ("float4_e2m1fn_x2", 3, 3),
    ],
)
def test_bytes_of_so_many_elements(name: str, numel: int, nbytes: int) -> None:
    assert DTYPES[name].nbytes(numel) == nbytes


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal numbers, equal signs of zero, NaN in the same places."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        ours = ours.astype(np.float64)
    nan = np.isnan(theirs)
    return bool(
        np.array_equal(ours, theirs, equal_nan=True)
        and np.array_equal(np.signbit(ours)[~nan], np.signbit(theirs)[~nan])
    )


@pytest.mark.parametrize(
    "name",
    ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"],
)
def test_every_bit_pattern(name: str) -> None:
    dtype = DTYPES[name]
    words = np.arange(1 << dtype.bits, dtype=f"u{dtype.bits // 8}")
    theirs = torch.from_numpy(words.copy()).view(getattr(torch, name)).to(torch.float64).numpy()
    shaped = words.reshape(16, -1)
    (ours,) = numbers(shaped, dtype)
    assert ours.dtype == np.float32
    assert ours.shape == shaped.shape
    assert same(ours.ravel(), theirs)
    (transposed,) = numbers(shaped.T, dtype)
    assert same(transposed.T.ravel(), theirs)


FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
E2M3 = [*(n / 8 for n in range(16)), *(n / 4 for n in range(8, 16)), *(n / 2 for n in range(8, 16))]
E3M2 = [
    *(n / 16 for n in range(8)),
    *(n * scale for scale in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4) for n in range(4, 8)),
]
"""The positive values of the narrow types as the OCP Microscaling spec 1.0 lists them (section 5.3)."""


@pytest.mark.parametrize(
    ("name", "width", "positive", "largest"),
    [
        ("float4_e2m1fn", 4, FP4, 6.0),
        ("float4_e2m1fn_x2", 4, FP4, 6.0),
        ("float6_e2m3fn", 6, E2M3, 7.5),
        ("float6_e3m2fn", 6, E3M2, 28.0),
    ],
)
def test_packed_floats(name: str, width: int, positive: list[float], largest: float) -> None:
    assert positive[-1] == largest
    table = np.array([*positive, *(-float(value) for value in positive)], dtype=np.float64)
    assert len(table) == 1 << width
    data = np.random.default_rng(0).integers(0, 256, (5, 48), np.uint8)
    codes = [
        [int.from_bytes(row.tobytes(), "little") >> at & ((1 << width) - 1) for at in range(0, 8 * 48, width)]
        for row in data
    ]
    (ours,) = numbers(data, DTYPES[name])
    assert ours.shape == (5, 48 * 8 // width)
    assert same(ours, table[codes])
    if name == "float4_e2m1fn_x2":
        assert ours.size == data.size * DTYPES[name].values


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_wide_floats(name: str) -> None:
    dtype = DTYPES[name]
    words = (
        np.random.default_rng(0).integers(0, 1 << 64, (4, 32), np.uint64, endpoint=False).view(f"u{dtype.bits // 8}")
    )
    words[0, :4] = np.array([np.nan, np.inf, -np.inf, -0.0]).astype(name).view(words.dtype)
    (ours,) = numbers(words, dtype)
    assert np.array_equal(ours.view(words.dtype), words)
    assert str(ours.dtype) == name


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
def test_integers(name: str) -> None:
    dtype = DTYPES[name]
    values = [0, 1] if name == "bool" else [np.iinfo(name).min, np.iinfo(name).max, 0, 1, 77]
    whole = np.array([values], dtype=name)
    (ours,) = numbers(whole.view(f"u{dtype.bits // 8}"), dtype)
    assert ours.dtype == np.float64
    assert np.array_equal(ours, whole.astype(np.float64))


@pytest.mark.parametrize(("name", "half"), [("complex128", "f8"), ("complex64", "f4"), ("complex32", "f2")])
def test_complex_numbers_are_two(name: str, half: str) -> None:
    values = np.array([[1.5, -2, np.inf, 0.25], [np.nan, 3, -0.0, 7]], half)
    word = half.replace("f", "u")
    real, imag = numbers(values.view([("real", word), ("imag", word)]), DTYPES[name])
    assert same(real, values[:, ::2].astype(np.float64))
    assert same(imag, values[:, 1::2].astype(np.float64))
