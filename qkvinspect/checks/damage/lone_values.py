"""A few values of a tensor that are far larger than all others: a bit of the exponent was turned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import ByteOrder, TensorInfo
from qkvinspect.checks.damage import odd_exponents
from qkvinspect.dtypes import DType
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.weight import Weight
from qkvinspect.workers import in_batches

if TYPE_CHECKING:
    from qkvinspect.checks.damage.odd_exponents import Counts
    from qkvinspect.weights.reading import Array

LARGE = 8
"""The power of two from which a value is looked at: the weights and biases of real models are below."""

_FEW = 4
_TIMES = 100.0
"""How many values may be so large, and how many times larger than all others: a large bias has others beside it."""

_PIECE = 4 << 20

Value = tuple[int, float, float]
"""Its place among the values of its tensor as they are stored, what it is, and the largest of the others."""


def of_weight(info: TensorInfo, counts: Sequence[Counts], *, in_tail: bool) -> list[Value]:
    """Those of a tensor whose blocks were counted by size, so that it is read again only where there may be any.

    Args:
        in_tail: whether there may be any behind its last block.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if not readable(info):
        return []
    large = sum(int(one[:, odd_exponents.from_power(LARGE)].sum()) for one in counts)
    if large > _FEW or not (large or (in_tail and lone_values(info, _blocks_end(info)))):
        return []
    return lone_values(info)


def with_large_tails(infos: Iterable[TensorInfo]) -> set[str]:
    """The names of tensors that may hold large values behind their last block, and of none too many.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    found: set[str] = set()
    tails = ((info, end) for info in infos if readable(info) and (end := _blocks_end(info)) < info.nbytes)
    for some in in_batches(tails, lambda one: one[0].nbytes - one[1], _PIECE):
        if _any_large(some):
            found.update(info.name for info, end in some if _any_large([(info, end)]))
    return found


def _blocks_end(info: TensorInfo) -> int:
    step = odd_exponents.step(info.dtype.bits // 8)
    return info.nbytes // step * step


def lone_values(info: TensorInfo, start: int = 0) -> list[Value]:
    """The few values that are far larger than all others, from a byte of a tensor on; none where they are not few.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    import numpy as np

    from qkvinspect.weights.reading import numbers, stored_words

    item, first = info.dtype.bits // 8, info.offset * info.dtype.bits // 8
    found: list[tuple[int, float]] = []
    most = 0.0
    for at in range(start, info.nbytes, _PIECE):
        data = info.region.read(first + at, min(_PIECE, info.nbytes - at))
        words = np.frombuffer(data, stored_words(info.dtype, info.dtype.bits, info.byteorder))
        values: Array = numbers(words.astype(words.dtype.newbyteorder("=")).reshape(1, -1), info.dtype)[0].reshape(-1)
        large = ~(np.abs(values) < 2**LARGE)
        if np.count_nonzero(large) + len(found) > _FEW:
            return []
        found += [(at // item + int(place), float(values[place])) for place in np.flatnonzero(large)]
        most = max(most, float(np.abs(np.where(large, 0, values)).max(initial=0)))
    return [(place, value, most) for place, value in found if not abs(value) < _TIMES * most]


def readable(info: TensorInfo) -> bool:
    """Whether its values are stored plainly, as numbers with an exponent."""
    return info.numel > 0 and info.contiguous and odd_exponents.countable(info.dtype) and info.dtype.bits >= 16


def of_biases(attentions: Iterable[Attention]) -> Iterator[tuple[str, TensorInfo, Value]]:
    """Those of the biases of some layers, those of output projections among them: (layer, bias, value).

    NaN and infinite ones of Q, K and V are ``nonfinite``.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    biases = ((attention, bias) for attention in attentions for bias in _readable_biases(attention))
    for some in in_batches(biases, lambda one: one[1].stored[0].nbytes, _PIECE):
        if not _any_large([(bias.stored[0], 0) for _, bias in some]):
            continue
        for attention, bias in some:
            for value in lone_values(bias.stored[0]):
                if isfinite(value[1]) or bias is attention.out_bias:
                    yield attention.layer, bias.stored[0], value


def _readable_biases(attention: Attention) -> Iterator[Weight]:
    biases = (*attention.biases, *((attention.out_bias,) if attention.out_bias is not None else ()))
    for bias in {bias.name: bias for bias in biases}.values():
        if bias.encoding is None and not bias.why and bias.stored and readable(bias.stored[0]):
            yield bias


def _any_large(tails: Sequence[tuple[TensorInfo, int]]) -> bool:
    """Whether any of some tensors may hold a large value from a byte on: that is seen of all small ones at once."""
    import numpy as np

    from qkvinspect.weights.reading import numbers, stored_words

    if any(info.nbytes - start > _PIECE for info, start in tails):
        return True
    alike: dict[tuple[DType, ByteOrder], list[bytes]] = {}
    for info, start in tails:
        data = info.region.read(info.offset * info.dtype.bits // 8 + start, info.nbytes - start)
        alike.setdefault((info.dtype, info.byteorder), []).append(data)
    for (dtype, byteorder), pieces in alike.items():
        words = np.frombuffer(b"".join(pieces), stored_words(dtype, dtype.bits, byteorder))
        values = numbers(words.astype(words.dtype.newbyteorder("=")).reshape(1, -1), dtype)[0]
        if not (np.abs(values) < 2**LARGE).all():
            return True
    return False


def told(info: TensorInfo, value: Value) -> str:
    """``-8.2e+36 (row 3, column 7), where no other value is larger than 0.3``."""
    place, number, most = value
    width = prod(info.shape[1:])
    where = f"row {place // width}, column {place % width}" if len(info.shape) > 1 else f"entry {place}"
    return f"{number:.3g} ({where}), where no other value is larger than {most:.3g}"
