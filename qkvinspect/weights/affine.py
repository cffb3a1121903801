"""Decode integers that stand for evenly spaced values: ``(code - zero) * scale``, or ``code * scale + bias``."""

from __future__ import annotations

import numpy as np

from qkvinspect.dtypes import DType
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.packed_codes import Operation, by_groups
from qkvinspect.weights.reading import Array


@dataclass(frozen=True, slots=True)
class AffineBlock:
    """Some rows and columns of a matrix of codes, with the scales and zero points of their groups.

    Attributes:
        codes: float32 [rows, columns]; overwritten by what is computed.
        scales: float32 [rows or 1, groups], the first that of the first column.
        scale_dtype: what they are stored in.
        start, group: the first column's number, and how many neighbours share a scale.
        zeros: of the form of ``scales``, or a number for all.
        biases: of the form of ``scales``.
        places: the group of each column among those here, where they do not go in order.
    """

    codes: Array
    scales: Array
    scale_dtype: DType
    start: int
    group: int
    zeros: Array | float = 0.0
    biases: Array | None = None
    places: Array | None = None

    def numbers(self) -> Array:
        """The decoded values; each operation rounds once to float32, in the order of the formula."""
        values = self._less_zero(self.codes)
        self._each(np.multiply, values, self.scales)
        if self.biases is not None:
            self._each(np.add, values, self.biases)
        return values

    def slack(self, last: int, first: int = 0) -> Array:
        """How far a number that was rounded to each code may be from the decoded value.

        Half a step; a whole one at the ends, as the zero point was rounded too and what lies beyond is cut off. And
        what is lost where all is computed in the dtype of the scales: in the scale, the quotient, and the code.

        Args:
            first, last: the lowest and the highest code.
        """
        steps = np.where((self.codes == first) | (self.codes == last), np.float32(1), np.float32(0.5))
        self._each(np.multiply, steps, np.abs(self.scales))
        taken = np.abs(self.codes)
        taken += 2 * np.abs(self._less_zero(self.codes))
        self._each(np.multiply, taken, rounding(self.scales, self.scale_dtype))
        if self.biases is not None:
            self._each(np.add, taken, rounding(self.biases, self.scale_dtype))
        return steps + taken

    def _less_zero(self, codes: Array) -> Array:
        zeros = self.zeros
        if not isinstance(zeros, (int, float)):
            self._each(np.subtract, codes, zeros)
        elif zeros:
            np.subtract(codes, np.float32(zeros), out=codes)
        return codes

    def _each(self, operation: Operation, values: Array, table: Array) -> None:
        if self.places is None:
            by_groups(operation, values, self.start, self.group, table)
        else:
            # ``table[:, places]`` would keep the order of a transposed table, and cross it with that of the values.
            operation(values, np.take(table, self.places, axis=1), out=values)


def rounding(values: Array, dtype: DType) -> Array:
    """The most by which a float of about this size moves when it is rounded to a dtype, float32."""
    digits, least = _DIGITS.get(dtype.name, (24, -149))
    return np.maximum(np.ldexp(np.abs(values), -digits), np.float32(2.0 ** (least - 1))).astype(np.float32)


_DIGITS = {"float16": (11, -24), "bfloat16": (8, -133), "float32": (24, -149), "float64": (53, -149)}
"""Digits of the significand, and the exponent of the least number."""
