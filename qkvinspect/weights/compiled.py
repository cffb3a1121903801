"""Sums of squares by numkong's compiled loops, where it is installed and gives right results on this machine.

Nothing here needs numpy, which takes longer to import than the norms of a small model take to sum. On one core
numkong comes to 20 GB/s for float32, 12 for bfloat16 and float16, 8 for float8_e5m2 and 3 for float8_e4m3fn; numpy,
which has no arithmetic for the narrow types, to 14, 4, 2, 1 and 1 (tests/benchmarks/SUMS.md). The narrow types are
multiplied row by row (``dot``), as numkong lets other threads run while it does, which it does not for ``norm``.
"""

from __future__ import annotations

import math
import operator
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from struct import unpack
from typing import Any, Literal

from qkvinspect.weights.tiles import Tile

Bytes = bytes | memoryview
Squares = Callable[[Bytes, int], "memoryview[float]"]
"""Contiguous rows in, and how many; the float64 sum of squares of each row out."""

_CODES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}
_WORDS: Mapping[str, Literal["f", "H", "B"]] = {
    "float32": "f",
    "bfloat16": "H",
    "float16": "H",
    "float8_e4m3fn": "B",
    "float8_e5m2": "B",
}
_BYTES = {"f": 4, "H": 2, "B": 1}

_RUN = {"float16": 512}
_LONGEST = 2048
"""Words that are summed in one go: where it sums in float32, a norm stays within 1e-6 of the truth.

The loops for processors without AVX-512 are off by 2e-6 after 2,048 equal float16.
"""

_TINY = 1e-25
"""Mean square under which float32 squares lose digits."""

_PATTERNS = 1024  # bit patterns that are tried before numkong is trusted
_WIDE = 67  # columns: whole registers of every width, and some over
_CLOSE = {"float32": 1e-12}
_ALMOST = 3e-7
_MOST = {"float32": math.inf}
_FLOAT32 = 3.4e38


def squares_of_rows(tile: Tile, data: Bytes | None = None) -> memoryview[float] | None:
    """The sum of squares of each row of a piece; None where numpy must look at them.

    Args:
        data: what is stored there, where it was read.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    name = tile.matrix.info.dtype.name
    if not tile.plain or squares_of(name) is None:
        return None
    return squares_of_data(name, tile.stored_briefly() if data is None else data, tile.shape[0])


def squares_of_data(name: str, data: Bytes, rows: int) -> memoryview[float] | None:
    """The sum of squares of each of some contiguous rows; None where numpy must look at them.

    Args:
        name: of the dtype.
    """
    squares = squares_of(name)
    cols = len(data) // _BYTES[_WORDS[name]] // rows if squares else 0
    if squares is None or not _runs(name, cols):
        return None
    found = squares(data, rows)
    total, smallest = _over_all()
    if not math.isfinite(total(found)):
        return None
    least = _TINY * cols if name in ("float32", "bfloat16") else 0.0
    if smallest(found) < least and not _only_zeros(data, found, least):
        return None
    return found


Reduction = Callable[["memoryview[float]"], float]


@cache
def _over_all() -> tuple[Reduction, Reduction]:
    """The sum and the least of some numbers: numkong's, which take a tenth of the time, where they are right."""
    numkong: Any = import_module("numkong")
    for odd in (math.nan, math.inf):
        tried = memoryview(array("d", [3.0, odd, *range(2, _WIDE)]))
        fine = tried[2:]
        if math.isfinite(numkong.sum(tried)) or (numkong.sum(fine), numkong.min(fine)) != (sum(fine), min(fine)):
            return sum, min
    return numkong.sum, numkong.min


def added(columns: Sequence[memoryview[float]]) -> memoryview[float]:
    """The sums of the numbers that stand in the same place of columns, added from the first column to the last."""
    add = _add()
    if add is None or len(columns) < 2:
        made: Any = memoryview(array("d", map(sum, zip(*columns, strict=True))))
        return made
    found: Any = columns[0]
    for column in columns[1:]:
        found = memoryview(add(found, column))
    return found


@cache
def _add() -> Callable[[memoryview[float], memoryview[float]], Any] | None:
    """numkong's, where it is there and rounds as Python does."""
    try:
        add: Any = import_module("numkong").add
    except (ImportError, AttributeError):
        return None
    one, other = (memoryview(array("d", [base**power for power in range(2 * _WIDE)])) for base in (math.pi, math.e))
    for places in (slice(0, _WIDE), slice(1, None, 2)):
        if memoryview(add(one[places], other[places])).tolist() != [*map(operator.add, one[places], other[places])]:
            return None
    return add


def _only_zeros(data: Bytes, squares: Sequence[float], least: float) -> bool:
    """Whether the rows whose sum is less than that hold nothing but zeros."""
    whole = bytes(data)
    if whole == bytes(len(whole)):  # at once, as of a new layer's bias
        return True
    size = len(whole) // len(squares)
    zeros = bytes(size)
    return all(whole[row * size : (row + 1) * size] == zeros for row, square in enumerate(squares) if square < least)


@cache
def squares_of(name: str) -> Squares | None:
    """The function that sums squares of a dtype; None where numpy is used."""
    if name not in _CODES or sys.byteorder != "little":
        return None
    try:
        numkong: Any = import_module("numkong")
        norm, multiply, dot = numkong.norm, numkong.multiply, numkong.dot
    except (ImportError, AttributeError):  # not installed, or of another version
        return None
    code, word, width = _CODES[name], _WORDS[name], _BYTES[_WORDS[name]]

    def squares(data: Bytes, rows: int) -> memoryview[float]:
        cols = len(data) // width // rows
        runs = _runs(name, cols)
        words = memoryview(data).cast(word, (rows * runs, cols // runs))
        if name != "float32":
            found: memoryview[float] = memoryview(dot(words, words, code))  # of each row with itself
        else:  # of which dot takes half as long again
            lengths = norm(words, axis=1, dtype=code)
            found = memoryview(multiply(lengths, lengths))
        return found if runs == 1 else added([found[run::runs] for run in range(runs)])

    return squares if _is_right(squares, name) else None


@cache
def _runs(name: str, cols: int) -> int:
    """How many equal runs a row is divided into, so that none is long; 0 where it cannot be."""
    longest = _RUN.get(name, _LONGEST)
    if name == "float32" or cols <= longest:
        return 1
    return next((count for count in range(-(-cols // longest), cols // 64 + 1) if cols % count == 0), 0)


def _is_right(squares: Squares, name: str) -> bool:
    """Whether it agrees with Python on values of every size: the loops differ from processor to processor."""
    words = _patterns(name)
    width = len(words[0])
    data = bytearray(len(words) * _WIDE * width)
    for row, word in enumerate(words):
        for place in (row % _WIDE, _WIDE - 1):
            start = (row * _WIDE + place) * width
            data[start : start + width] = word
    expected = [
        value * value * (1 if row % _WIDE == _WIDE - 1 else 2)
        for row, value in enumerate(_values(b"".join(words), name))
    ]
    try:
        found = squares(bytes(data), len(words)).tolist()
    except (TypeError, ValueError, RuntimeError):
        return False
    close, most = _CLOSE.get(name, _ALMOST), _MOST.get(name, _FLOAT32)
    return len(found) == len(expected) and all(
        abs(one - wanted) <= close * wanted if wanted < most else not math.isfinite(one) or wanted < math.inf
        for one, wanted in zip(found, expected, strict=True)
        if not wanted <= 1e-30
    )


def _patterns(name: str) -> list[bytes]:
    """Bit patterns of every size, and of all that is not finite, as stored."""
    bits = 8 * _BYTES[_WORDS[name]]
    step = max((1 << bits) // _PATTERNS, 1)
    spread = range(0, 1 << bits, step - 1 if step > 1 else 1)
    special = {"float32": (0x7F800000, 0x7FC00001), "bfloat16": (0x7F80, 0x7FC1), "float16": (0x7C00, 0x7E01)}
    odd = [pattern | sign << (bits - 1) for pattern in special.get(name, ()) for sign in (0, 1)]
    return [pattern.to_bytes(bits // 8, "little") for pattern in (*spread, *odd)]


def _values(data: bytes, name: str) -> Sequence[float]:
    """The numbers that stored words are."""
    if name == "float8_e4m3fn":
        return [_e4m3(code) for code in data]
    if name == "bfloat16":
        data = b"".join(b"\0\0" + data[start : start + 2] for start in range(0, len(data), 2))
    if name == "float8_e5m2":
        data = b"".join(bytes((0, code)) for code in data)  # the upper half of a float16
    kind, width = ("e", 2) if name in ("float16", "float8_e5m2") else ("f", 4)
    return unpack(f"<{len(data) // width}{kind}", data)


def _e4m3(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    size = math.ldexp(mantissa + 8 * (exponent > 0), max(exponent, 1) - 10)
    return -size if code & 128 else size
