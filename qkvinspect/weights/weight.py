"""The numbers that a model multiplies with, whatever tensors a file stores them as.

A stored tensor may be these numbers, or codes that mean nothing without the scales beside them. Whoever wants
numbers asks a ``Weight``; nobody else decodes. Nothing is read here, and numpy is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Literal, Protocol

from qkvinspect.checkpoint import Orientation, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.strided import StridedMatrix, shape_as_rows, strided_matrix, strided_shape

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array


class Encoding(Protocol):
    """How a matrix of numbers is stored in the tensors of a file. Each kind is a module of ``encodings``."""

    @property
    def label(self) -> str:
        """For people: ``float8_e4m3fn with a scale for each 128 x 128 values``."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix: the first axis, and all others as one."""
        ...

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        """The stored tensors, the one that holds the most first."""
        ...

    @property
    def by_columns(self) -> bool:
        """Whether all rows of a few columns are read with fewer bytes than all columns of a few rows."""
        ...

    @property
    def computed_in(self) -> DType | None:
        """The dtype of the numbers where the model itself makes them of it; None where a reader has to choose one."""
        ...

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        """Some of the rows as they are stored, each tensor that the encoding is made of on its own.

        Raises:
            LayoutError: the rows share codes or scales with others.
        """
        ...

    def decode(self, rows: range, cols: range) -> Array:
        """The numbers there: float32 or float64 [rows, columns]; nothing but what that needs is read.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        ...

    def slack(self, rows: range, cols: range) -> Array | None:
        """How far the original of each number may be from it, given that it was rounded: [rows, columns].

        None where the encoding rounds nothing.
        """
        ...

    def python(self) -> tuple[str, ...]:
        """Lines of Python that make ``weight``, the matrix as a torch tensor, of ``state_dict`` and torch."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRows:
    """What one of the tensors that a weight is made of holds of some of its rows.

    Attributes:
        leaf: what follows the module in the tensor's name.
        runs: along ``axis``; empty where all of it goes along.
        axis: that along which the rows of the weight lie.
        made: bytes that stand in its place, of the same dtype and on one axis, where it says how many rows there are.
    """

    leaf: str
    info: TensorInfo
    runs: tuple[range, ...]
    axis: Literal[0, 1] = 0
    made: bytes | None = None


@dataclass(frozen=True, slots=True)
class DecodedMatrix:
    """A decoded weight seen as [out, in], or some of its rows; nothing is read.

    Attributes:
        down, across: which rows and columns of the encoded matrix, before it is turned.
        turned: whether rows stand for columns.
    """

    encoding: Encoding
    down: range
    across: range
    turned: bool = False

    @property
    def rows(self) -> int:
        return len(self.across if self.turned else self.down)

    @property
    def cols(self) -> int:
        return len(self.down if self.turned else self.across)

    @property
    def by_columns(self) -> bool:
        """Whether neighbours in the file belong to different rows."""
        return self.encoding.by_columns != self.turned

    def take(self, rows: range) -> DecodedMatrix:
        """Some of the rows."""
        some = slice(rows.start, rows.stop, rows.step)
        if self.turned:
            return DecodedMatrix(self.encoding, self.down, self.across[some], self.turned)
        return DecodedMatrix(self.encoding, self.down[some], self.across, self.turned)

    @property
    def transposed(self) -> DecodedMatrix:
        """Rows for columns."""
        return DecodedMatrix(self.encoding, self.down, self.across, not self.turned)

    def decode(self) -> Array:
        """All of its numbers, float32 or float64: the caller has taken few enough.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        values = self.encoding.decode(self.down, self.across)
        return values.T if self.turned else values

    def slack(self) -> Array | None:
        """How far each of its numbers may lie from one that was rounded to it; None where nothing is rounded."""
        found = self.encoding.slack(self.down, self.across)
        return found.T if found is not None and self.turned else found


Matrix = StridedMatrix | DecodedMatrix
"""A weight viewed as [out, in]; nothing is read."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of a model, under the name that a plain tensor of its numbers would have.

    Attributes:
        shape: as torch holds it: [out, in] of ``nn.Linear``, [in, out] of GPT-2's Conv1D, more axes of convolutions.
        dtype: what most of it is stored in.
        info: the stored tensor, where its elements are the numbers.
        encoding: how to decode the numbers, where they are not plain.
        why: why they cannot be decoded, in words; "" where they can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    info: TensorInfo | None
    encoding: Encoding | None = None
    why: str = ""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        """The tensors of the file that it is made of."""
        if self.encoding is not None:
            return self.encoding.stored
        info = self.info
        return (info,) if info is not None else ()

    @property
    def nbytes(self) -> int:
        """Bytes of all that it is made of."""
        return sum(info.nbytes for info in self.stored)

    @property
    def regions(self) -> Iterable[Region]:
        """The ranges of files that are read for its numbers."""
        return (info.region for info in self.stored)

    @property
    def no_values(self) -> str:
        """Why it has no numbers; "" where it has."""
        if self.why or self.encoding is not None:
            return self.why
        if self.dtype.kind in ("float", "complex"):
            return ""
        return f"{self.dtype.name} has no value without its scale"

    def as_shape(self, orientation: Orientation) -> tuple[int, int]:
        """(out, in); a bias is (out, 1).

        Raises:
            LayoutError: it has no such form.
        """
        info = self.info
        if info is not None and self.encoding is None and info.shape == self.shape:
            return strided_shape(info, orientation)
        if self.why and not self.shape:
            raise LayoutError(self.why, tensor=self.name)
        return shape_as_rows(self.name, self.shape, orientation)

    def as_matrix(self, orientation: Orientation) -> Matrix:
        """See it as [out, in].

        Raises:
            LayoutError: it has no such form.
        """
        if self.encoding is None:
            return strided_matrix(self.require_info(), orientation)
        if orientation == "in_heads_dim":
            raise LayoutError(f"{self.encoding.label} is not known in three axes", tensor=self.name)
        rows, cols = self.encoding.shape
        return DecodedMatrix(self.encoding, range(rows), range(cols), orientation != "out_in")

    def require_info(self) -> TensorInfo:
        """The stored tensor, whose elements are the numbers.

        Raises:
            LayoutError: there is none: they are kept otherwise.
        """
        info = self.info
        if info is None or self.encoding is not None:
            said = f"it is stored as {self.encoding.label}" if self.encoding is not None else f"no values: {self.why}"
            raise LayoutError(said, tensor=self.name, expected="plain numbers")
        return info


def plain(info: TensorInfo) -> Weight:
    """A stored tensor whose elements are the numbers."""
    return Weight(info.name, info.shape, info.dtype, info)


def one_by_one(info: TensorInfo) -> TensorInfo:
    """A tensor of pairs of numbers, as torch has float4, seen as one of numbers, as safetensors has it."""
    if info.dtype.name != "float4_e2m1fn_x2" or not info.contiguous or info.offset or not info.shape:
        return info
    shape = (*info.shape[:-1], info.shape[-1] * info.dtype.values)
    return replace(info, dtype=DTYPES["float4_e2m1fn"], shape=shape, strides=contiguous_strides(shape))
