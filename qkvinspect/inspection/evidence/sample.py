"""A sample of a layer's weights, small enough to weigh at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import gcd
from typing import Any, TypeVar, cast

import numpy as np

from qkvinspect.fast_dataclass import dataclass, field, replace
from qkvinspect.inspection.evidence.blocksums import CutProducts, Products, Whole
from qkvinspect.inspection.evidence.copies import written_again
from qkvinspect.inspection.evidence.gram import lengths_of, normal_ranks, normal_scores
from qkvinspect.inspection.evidence.sampled_rows import LayerWeights, Lying, biases_of, read
from qkvinspect.inspection.evidence.zeros import hardly_any, in_blocks, too_few
from qkvinspect.inspection.kept_samples import kept_samples
from qkvinspect.sources import announce
from qkvinspect.weights.reading import Array, keep_dropped_memory
from qkvinspect.weights.weight import Weight

T = TypeVar("T")

MAX_ROWS = 1280
"""Rows that are weighed of a layer, of all its weights together."""

_MADE = 512  # of a few packings with every number of heads, of which each takes some kilobytes

_KEPT = 8  # products of matrices: as many as a packing in blocks has, whatever its heads

_ROOM = 2 << 20
"""Similarities of layers that are weighed at once: of more, what is made of them takes too much memory."""

_CHUNK = 32  # neighbours in a row, which have one scale in nearly every encoding
_EVEN = 2.1
"""The fourth moment by the square of the second, up to which values are spread evenly."""

_FIRST_ROWS = 32
_PAIRS = 6
_UPRIGHT = 0.1
"""How far rows may be from right angles to each other, as a share of what is usual at random, to be made orthogonal."""

keep_dropped_memory()


class _MadeOfSample:
    """What was made of a sample, kept for the other hypotheses."""

    def __init__(self) -> None:
        self.whole: Whole | None = None
        self.products: dict[object, Products] = {}
        self.made: dict[object, list[Any]] = {}


@dataclass(frozen=True, slots=True)
class Sample:
    """The similarities of a layer's sampled rows; or those of several layers alike in form, which are weighed at once.

    Attributes:
        scores: normal scores, [rows, rows] or [layers, rows, rows], among the rows of all weights and, after them, the
            columns of the output projection.
        spaces: for each of these, which others it can be compared with: those with the same number. The rows of Q,
            K and V read from the same stream that the output projection writes to.
        columns: where the columns of the output projection begin; None where they say nothing.
        lengths: normal scores of how long each row and, after them, each column is, among all of them.
        stride: one row in so many was taken.
        places: of each row that the stride leaves, which one of the sample it is, or -1 where it was not taken; None
            where all were.
    """

    layer: str
    scores: Array
    spaces: Array
    columns: int | None
    lengths: Array
    stride: int
    places: Array | None = None
    _memory: _MadeOfSample = field(default_factory=_MadeOfSample, repr=False, compare=False)

    @property
    def layers(self) -> int:
        return 1 if self.scores.ndim == 2 else len(self.scores)

    def placed(self, index: Mapping[str, Array]) -> Mapping[str, Array]:
        """The heads of which all rows were taken, each row by its place; nothing where others were taken, too."""
        if self.places is None:
            return index
        found = {part: self.places[rows] for part, rows in index.items() if part != "o"}
        found = {part: whole for part, rows in found.items() if (whole := rows[(rows >= 0).all(axis=1)]).size}
        return found if sum(rows.size for rows in found.values()) == self.scores.shape[-1] else {}

    def among(self, rows: Array, tied: Array | None = None) -> Products:
        """The similarities among some rows, with those among the rows tied to them."""
        return self._products(rows, rows, tied)

    def between(self, rows: Array, others: Array) -> Products | None:
        """The similarities between rows and other rows, if they can be compared."""
        if self.spaces[rows.flat[0]] != self.spaces[others.flat[0]]:
            return None
        return self._products(rows, others, None)

    def forget(self) -> None:
        """What was made of it, which takes several times the room of it."""
        memory = self._memory
        memory.whole = None
        memory.products.clear()
        memory.made.clear()

    def remembered(self, key: object, make: Callable[[], list[T]]) -> list[T]:
        """What was made of the sample before, as packings that share rows share what is made of these."""
        made = self._memory.made
        if key not in made:
            if len(made) >= _MADE:
                made.clear()
            made[key] = make()
        return cast("list[T]", made[key])

    def _products(self, rows: Array, columns: Array, tied: Array | None) -> Products:
        """Cached: all numbers of heads divide the same matrix, and share many of its sums."""
        memory = self._memory
        key = rows.tobytes(), columns.tobytes(), None if tied is None else tied.tobytes()
        if key not in memory.products:
            if len(memory.products) >= _KEPT:
                memory.products.clear()
            memory.whole = memory.whole or Whole(self.scores)
            flat = None if tied is None else tied.ravel()
            memory.products[key] = CutProducts(memory.whole, rows.ravel(), columns.ravel(), flat)
        return memory.products[key]


def stride_of(rows: Sequence[int], most: int = MAX_ROWS, coarsest: int | None = None, wanted: int | None = None) -> int:
    """One row in how many is taken of weights with so many rows, if at most so many are to be weighed.

    Args:
        coarsest: a stride that is not exceeded for that.
        wanted: how many of the rows are, if not all.
    """
    stride = 1
    common = gcd(*rows)
    count = sum(rows) if wanted is None else wanted
    while count > most * stride and common % (2 * stride) == 0 and (coarsest is None or 2 * stride <= coarsest):
        stride *= 2
    return stride


def take(source: LayerWeights, stride: int, rows: Array | None = None) -> Sample | None:
    """Read a layer's sample; None where it says nothing or has no values of its own.

    Args:
        rows: those that are read of all that the stride leaves, in their order, and then nothing of the output
            projection.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    kept, key = kept_samples(), (stride, source.key, None if rows is None else rows.tobytes())
    found = kept.get(key) if kept is not None else None
    if found is None:
        sample = _take(source, stride) if rows is None else _take_some(source, stride, rows)
        if kept is not None:
            kept.keep(key, sample, sample.scores.nbytes if sample is not None else 0)
    else:
        (sample,) = found
    return sample if sample is None else replace(sample, _memory=_MadeOfSample())


def _take(source: LayerWeights, stride: int) -> Sample | None:
    announce(region for weight in _stored(source) for region in weight.regions)
    found: list[Array] = []
    for lying in source.weights:
        values = _values(lying, stride)
        if values is None:
            return None
        found.append(values)
    columns = sum(map(len, found))
    out = read(*source.out, stride, columns=True) if source.out is not None else None
    if out is None or not np.isfinite(out).all() or too_few(out):
        return _sample(source.layer, found, None, stride)
    return _sample(source.layer, [*found, np.pad(out, ((0, 0), (0, 1)))], columns, stride)


def _take_some(source: LayerWeights, stride: int, rows: Array) -> Sample | None:
    """Of the weights alone, and of these no more than some rows."""
    found: list[Array] = []
    start = 0
    for lying, count in zip(source.weights, source.rows, strict=True):
        stop = start + count // stride
        if runs := _in_runs(rows[(rows >= start) & (rows < stop)] - start):
            values = _values(lying, stride, runs)
            if values is None:
                return None
            found.append(values)
        start = stop
    sample = _sample(source.layer, found, None, stride)
    if sample is None:
        return None
    places = np.full(start, -1)
    places[rows] = np.arange(len(rows))
    return replace(sample, places=places)


def _in_runs(rows: Array) -> list[range]:
    """Numbers in their order as runs of neighbours."""
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    return [range(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, ends) if run.size]


def _values(lying: Lying, stride: int, runs: Sequence[range] = ()) -> Array | None:
    """Rows of a weight, each with its bias; None where they say nothing."""
    weight, orientation, biases = lying
    values = read(weight, orientation, stride, runs=runs)
    if values is None or (weight.encoding is not None and _spread_evenly(values)):
        return None
    added = biases_of(biases, weight.as_shape(orientation)[0] // stride, stride)
    if runs:
        added = np.concatenate([added[run.start : run.stop] for run in runs])
    return np.concatenate([values, added], axis=1)


def _stored(source: LayerWeights) -> Iterator[Weight]:
    for weight, _, biases in source.weights:
        yield weight
        yield from (bias.weight for bias in biases)
    if source.out is not None:
        yield source.out[0]


def _sample(layer: str, found: Sequence[Array], columns: int | None, stride: int) -> Sample | None:
    """Compare the rows of matrices of the same width with each other; None if one is an orthogonal one, untrained.

    Nor where the places of zeros would speak instead of the values: in blocks, or where hardly any are left; nor where
    K and V were written once for each head that shares them. Their last column is the biases.
    """
    if any(map(_orthogonal, found)) or not all(map(_with_values, found)):
        return None
    if written_again(found if columns is None else found[:-1]):
        return None
    spaces = np.concatenate([np.full(len(values), values.shape[1]) for values in found])
    lengths = np.concatenate([lengths_of(values) for values in found])
    scores = np.zeros((len(spaces), len(spaces)), np.float32)
    widths = set(spaces.tolist())
    for width in widths:
        (places,) = np.nonzero(spaces == width)
        alike = [values for values in found if values.shape[1] == width]
        own = normal_scores(alike[0] if len(alike) == 1 else np.concatenate(alike), lengths[places])
        if own is None:
            return None
        if len(widths) == 1:
            scores = own
        else:
            scores[np.ix_(places, places)] = own
    return Sample(layer, scores, spaces, columns, normal_ranks(lengths), stride)


def _with_values(values: Array) -> bool:
    """Whether values speak and not the places of zeros."""
    return hardly_any(values) or not (in_blocks(values) or too_few(values[:, :-1]))


def _spread_evenly(values: Array) -> bool:
    """Whether decoded codes are as random bits would be, which share the scales of a group and nothing else.

    Each code is then as frequent as any other. The fourth moment of even values is 1.8 times the square of the
    second, that of trained weights 2.5 times and more: of 40 ways to quantise one model, and of nine other models.
    """
    chunk = min(_CHUNK, values.shape[1])
    with np.errstate(all="ignore"):
        parts = values[:, : values.shape[1] // chunk * chunk].reshape(-1, chunk).astype(np.float64)
        second, fourth = (parts**2).mean(axis=1), (parts**4).mean(axis=1)
        return bool(fourth.sum() < _EVEN * (second**2).sum())


def _orthogonal(values: Array) -> bool:
    """Whether rows stand at right angles to each other, as torch.nn.init.orthogonal_ leaves them.

    They are then less alike within the matrix than with the rows of any other, which looks like an effect of heads.
    """
    with np.errstate(all="ignore"):  # infinite and signalling values
        rows = values[:_FIRST_ROWS].astype(np.float64)
        products = rows @ rows.T
        lengths = products.diagonal()
        squares = (products**2 / lengths / lengths[:, None])[lengths > 0][:, lengths > 0]
    if not np.isfinite(squares).all():
        return False
    count = len(squares)
    pairs = count * (count - 1)
    return pairs >= 2 * _PAIRS and bool((squares.sum() - count) / pairs * rows.shape[1] < _UPRIGHT**2)


def at_once(samples: Sequence[Sample]) -> list[Sample]:
    """The same, with neighbours that are alike in form put together as long as they do not take much room."""
    found: list[list[Sample]] = []
    for sample in samples:
        alike = found[-1] if found else []
        if alike and _alike(alike[0], sample) and (len(alike) + 1) * sample.scores.size <= _ROOM:
            alike.append(sample)
        else:
            found.append([sample])
    return [_put_together(alike) if len(alike) > 1 else alike[0] for alike in found]


def _alike(one: Sample, other: Sample) -> bool:
    if (one.columns, one.stride) != (other.columns, other.stride) or not np.array_equal(one.spaces, other.spaces):
        return False
    if one.places is None or other.places is None:
        return one.places is other.places
    return np.array_equal(one.places, other.places)


def _put_together(alike: Sequence[Sample]) -> Sample:
    first = alike[0]
    scores, lengths = np.stack([one.scores for one in alike]), np.stack([one.lengths for one in alike])
    return Sample(first.layer, scores, first.spaces, first.columns, lengths, first.stride, first.places)
