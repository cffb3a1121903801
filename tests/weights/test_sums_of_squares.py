"""Sums of squares of every value of the small types, and of rows whose form is unusual."""

from __future__ import annotations

import numpy as np
import pytest

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights import sums_of_squares as squares
from qkvinspect.weights.reading import numbers
from qkvinspect.weights.sums_of_squares import row_squares
from tests.batches import batched
from tests.some import crossed

SMALL = [
    *("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float4_e2m1fn_x2", "float4_e2m1fn"),
]


def every(name: str) -> np.ndarray:
    """Each bit pattern four times in a row of its own."""
    bits = 16 if DTYPES[name].bits == 16 else 8
    return np.repeat(np.arange(1 << bits, dtype=f"u{bits // 8}")[:, None], 4, axis=1)


@crossed(name=SMALL, form=["rows", "columns", "odd", "gaps"], subnormal=[False, True])
def test_every_value(name: str, form: str, subnormal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "_subnormal", lambda _: subnormal)
    words = every(name)
    words = {
        "rows": words,
        "columns": np.asfortranarray(words),
        "odd": np.ascontiguousarray(words[:, :3]),
        "gaps": np.repeat(words, 2, axis=1)[:, ::2],
    }[form]
    (values,) = numbers(words, DTYPES[name])
    with np.errstate(invalid="ignore"):
        expected = np.square(values.astype(np.float64)).sum(axis=1)
    found, odd = row_squares(words, DTYPES[name])
    sure = np.setdiff1d(np.arange(len(words)), odd)
    assert np.isfinite(expected[sure]).all()
    np.testing.assert_allclose(found[sure], expected[sure], rtol=3e-7, atol=0)
    common = (expected > 1e-20) & (expected < 2.0**32)
    assert not common[odd].any()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float8_e4m3fn"])
@batched("cols", [1, 2, 3, 31, 64, 65, 254, 256, 258, 1000, 70_000])
def test_rows_of_any_length(name: str, cols: int) -> None:
    generator = np.random.default_rng(cols)
    dtype = DTYPES[name]
    width = dtype.bits // 8
    if name == "float8_e4m3fn":
        words = generator.integers(0, 120, (5, cols), np.uint8)
    else:
        words = generator.standard_normal((5, cols), np.float32).view(np.uint32)
        words = (words >> (32 - dtype.bits)).astype(f"u{width}") if name == "bfloat16" else words
        words = words.view(np.float32).astype(np.float16).view(np.uint16) if name == "float16" else words
    (values,) = numbers(words, dtype)
    found, odd = row_squares(words, dtype)
    assert found == pytest.approx(np.square(values.astype(np.float64)).sum(axis=1), rel=3e-7)
    assert not len(odd)


def test_zeros_are_nothing_to_look_at() -> None:
    words = np.zeros((3, 8), np.uint32)
    words[1, 2] = 1
    words[2, 3] = 1 << 31
    assert row_squares(words, DTYPES["float32"])[1].tolist() == [1, 2]


def test_many_subnormal_float16_are_noticed() -> None:
    words = np.full((8, 1024), 0x3C00, np.uint16)
    assert not squares._subnormal(words)
    words[:, ::5] = 3
    assert squares._subnormal(words)
