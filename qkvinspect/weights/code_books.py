"""The values of 4-bit codes, and how far a number may be from the value that it was rounded to."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from qkvinspect.dtypes import DTYPES
from qkvinspect.weights.reading import Array, numbers

CodeBook = Literal["nf4", "fp4", "e2m1", "e4m3"]

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@cache
def code_book(kind: CodeBook) -> Array:
    """The number of each of the 16 codes, of e4m3 of the 256: float32.

    nf4 and fp4 are bitsandbytes' (0.50, functional.py, get_4bit_type), fp4 in twelfths and e2m1 the float of the
    Open Compute Project's MX specification: of both the upper eight codes are the negatives of the lower.
    """
    if kind == "e4m3":
        return numbers(np.arange(256, dtype=np.uint8), DTYPES["float8_e4m3fn"])[0].astype(np.float32)
    if kind == "nf4":
        return np.array(_NF4, np.float32)
    half = np.array(_FP4, np.float32) / np.float32(12) if kind == "fp4" else np.array(_E2M1, np.float32)
    return np.concatenate([half, -half])


@cache
def half_steps_of(kind: CodeBook) -> Array:
    """For each code as far as half the way to the farther of its neighbours, float32."""
    return half_gaps(code_book(kind))


def half_gaps(book: Array) -> Array:
    """Half the distance of each number from the farther of its neighbours, of which the outermost have one.

    NaN of NaN.
    """
    ordered, places = np.unique(book, return_inverse=True)
    steps = np.diff(ordered[np.isfinite(ordered)])
    found = np.maximum(np.append(steps, 0), np.insert(steps, 0, 0)) / 2
    return np.pad(found, (0, len(ordered) - len(found)), constant_values=np.nan).astype(np.float32)[places]
