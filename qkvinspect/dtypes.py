"""Element types of torch 2.13 and safetensors 0.8, as data: how many bits, and how bits become numbers."""

from __future__ import annotations

from typing import Literal

from qkvinspect.fast_dataclass import dataclass

Kind = Literal["float", "int", "uint", "bool", "complex", "opaque"]
Specials = Literal["ieee", "fn", "fnuz", "finite", "e8m0"]


@dataclass(frozen=True, slots=True)
class MiniFloat:
    """A float of at most 16 bits: sign (but for e8m0), exponent, mantissa.

    Attributes:
        specials: which bit patterns are not finite. ``ieee``: exponent all ones; ``fn``: only
            all ones below the sign is NaN; ``fnuz``: only negative zero is NaN; ``finite``: none;
            ``e8m0``: a bare exponent, 0xFF is NaN.
    """

    exponent: int
    mantissa: int
    bias: int
    specials: Specials


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Attributes:
        name: torch's name where torch has the type.
        bits: the width of one element as counted by a tensor's shape.
        kind: what the bits mean; ``opaque`` has no value without more data (quantised, raw bits).
        mini: the bit layout of floats that numpy does not know.
        values: numbers held by one element (torch's float4_e2m1fn_x2 holds two).
        block: elements that are stored together, in ``bits`` bits; more than one in ggml's quantised types.
    """

    name: str
    bits: int
    kind: Kind
    mini: MiniFloat | None = None
    values: int = 1
    block: int = 1

    @property
    def rounding(self) -> float:
        """The largest relative error of a number that is rounded to it: half the distance to the next one.

        That of float32 for whatever is no plain float of 16 bits or more: what it stands for is computed in float32.
        """
        return {"float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}.get(self.name, 2.0**-24)

    def nbytes(self, numel: int) -> int:
        """Bytes of ``numel`` packed elements, rounded up to a whole byte."""
        return (numel // self.block * self.bits + 7) // 8


_E4M3FN = MiniFloat(4, 3, 7, "fn")
_FLOAT4 = MiniFloat(2, 1, 1, "finite")

_ALL = (
    DType("float64", 64, "float"),
    DType("float32", 32, "float"),
    DType("float16", 16, "float"),
    DType("bfloat16", 16, "float", MiniFloat(8, 7, 127, "ieee")),
    DType("float8_e4m3fn", 8, "float", _E4M3FN),
    DType("float8_e5m2", 8, "float", MiniFloat(5, 2, 15, "ieee")),
    DType("float8_e4m3fnuz", 8, "float", MiniFloat(4, 3, 8, "fnuz")),
    DType("float8_e5m2fnuz", 8, "float", MiniFloat(5, 2, 16, "fnuz")),
    DType("float8_e8m0fnu", 8, "float", MiniFloat(8, 0, 127, "e8m0")),
    DType("float6_e2m3fn", 6, "float", MiniFloat(2, 3, 1, "finite")),
    DType("float6_e3m2fn", 6, "float", MiniFloat(3, 2, 3, "finite")),
    DType("float4_e2m1fn", 4, "float", _FLOAT4),
    DType("float4_e2m1fn_x2", 8, "float", _FLOAT4, values=2),
    DType("int64", 64, "int"),
    DType("int32", 32, "int"),
    DType("int16", 16, "int"),
    DType("int8", 8, "int"),
    DType("uint64", 64, "uint"),
    DType("uint32", 32, "uint"),
    DType("uint16", 16, "uint"),
    DType("uint8", 8, "uint"),
    DType("bool", 8, "bool"),
    DType("complex128", 128, "complex"),
    DType("complex64", 64, "complex"),
    DType("complex32", 32, "complex"),
    DType("qint32", 32, "opaque"),
    DType("qint8", 8, "opaque"),
    DType("quint8", 8, "opaque"),
    DType("quint4x2", 8, "opaque"),
    DType("quint2x4", 8, "opaque"),
    DType("bits16", 16, "opaque"),
    DType("bits8", 8, "opaque"),
    DType("bits4x2", 8, "opaque"),
    DType("bits2x4", 8, "opaque"),
    DType("bits1x8", 8, "opaque"),
)

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in _ALL}
