"""What encodings share whose codes stand for evenly spaced numbers; numpy is imported once they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qkvinspect.weights.affine import AffineBlock
    from qkvinspect.weights.reading import Array


class AffineCodes:
    """The numbers of an encoding, and their rounding, by blocks of neighbouring columns."""

    __slots__ = ()

    def decode(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.packed_codes import spanned

        return spanned(lambda rows, cols: self._block(rows, cols).numbers(), rows, cols)

    def slack(self, rows: range, cols: range) -> Array:
        """From the steps and the dtype of the scales."""
        from qkvinspect.weights.packed_codes import spanned

        return spanned(lambda rows, cols: self._block(rows, cols).slack(self._last), rows, cols)

    @property
    def _last(self) -> int:
        """The highest code."""
        raise NotImplementedError

    def _block(self, rows: range, cols: range) -> AffineBlock:
        """Some rows, and columns without gaps.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        raise NotImplementedError
