"""Whether weights are still as torch's initialiser left them: then they say nothing of heads, and need not be asked.

torch draws the weights of its layers evenly between two bounds that follow from their shape. The first steps of
training carry some of them over the bounds, and more change how they are spread. So a few thousand values of a matrix
tell: none beyond the bound, some as near to it as chance has them, and their squares as large as those of even ones
are. Even values whose rows moved together by so little that none is seen beyond the bound show no heads to a longer
look either. numpy is not imported: it takes longer than this.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from math import sqrt
from struct import unpack

from qkvinspect.weights.weight import Weight

_RUNS = 4
_VALUES = 2048
"""Of each run: the more, the surer. A matrix that has no more than all runs together is read whole."""

_FEW = 512
"""Values too few to tell."""

_ROUNDING = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""How far, relatively, the bound may have been rounded up, by dtype."""

_NEAR = 14.0
"""The greatest of n even values is nearer to the bound than this many n-ths, but for once in a million times."""

_SPREAD = 4.9 * sqrt(4 / 45)
"""How far the mean square of one even value is from a third of the bound's, but for once in a million times."""


def untouched(weights: Sequence[Weight]) -> bool:
    """Whether all of them are, as far as a few of their values tell; False where that cannot be told.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    return bool(weights) and all(map(_untouched, weights))


def _untouched(weight: Weight) -> bool:
    values = _some(weight)
    if not values:
        return False
    greatest = max(map(abs, values))
    if not greatest < 1.0:
        return False
    squares = sum(value * value for value in values)
    return any(_even(len(values), greatest, squares, bound, weight) for bound in _bounds(*weight.shape))


def _even(count: int, greatest: float, squares: float, bound: float, weight: Weight) -> bool:
    rounding = _ROUNDING[weight.dtype.name]
    if not bound * (1 - _NEAR / count - rounding) <= greatest <= bound * (1 + rounding):
        return False
    return abs(squares / count / bound**2 - 1 / 3) <= _SPREAD / sqrt(count) + 2 * rounding


def _bounds(rows: int, cols: int) -> Iterator[float]:
    """Of ``xavier_uniform_``, as ``nn.MultiheadAttention`` uses it, and fairseq; of ``nn.Linear`` and Conv1D."""
    yield sqrt(6 / (rows + cols))
    yield sqrt(3 / (rows + cols))
    yield sqrt(1 / cols)
    yield sqrt(1 / rows)


def _some(weight: Weight) -> Sequence[float]:
    """Values from all over a matrix; none where they are not stored as they are.

    Wherever the file lies: the same weights must get the same answer from a server, an index of shards and a file.
    """
    info = weight.info
    if info is None or weight.encoding is not None or weight.why or weight.shape != info.shape or len(info.shape) != 2:
        return ()
    if info.dtype.name not in _ROUNDING or not info.contiguous or info.byteorder != "little":
        return ()
    if info.numel < _FEW:
        return ()
    size = info.dtype.bits // 8
    runs, each = (_RUNS, _VALUES) if info.numel > _RUNS * _VALUES else (2, info.numel // 2)
    starts = [info.offset + (info.numel - each) * run // (runs - 1) for run in range(runs)]
    data = b"".join(info.region.read(start * size, each * size) for start in starts)
    if info.dtype.name == "bfloat16":
        data = array("I", [word << 16 for word in unpack(f"<{len(data) // 2}H", data)]).tobytes()
    return unpack(f"<{runs * each}{'e' if info.dtype.name == 'float16' else 'f'}", data)
