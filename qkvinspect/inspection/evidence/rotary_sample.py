"""What is measured of the rows of Q and K that a rotary embedding turns: their similarities and their norms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.evidence.gram import normal_scores
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import rows_of_values

_MOST_COLUMNS = 2048
_MOST_LAYERS = 6
_MOST_GROUPS = 4
_MOST_QUERIES = 4
_LEAST_WIDTH = 8
_FLAT = 1e-12


class HeadSample(NamedTuple):
    """Of some heads of a layer: how alike the rows of Q are with those of K, [rows of Q, rows of K] each; and the
    logarithms of the norms of their rows, [heads, rows of a head]; those of Q also over all heads of a head of K.
    """

    blocks: list[Array]
    q_norms: Array
    group_norms: Array
    k_norms: Array


class Samples(NamedTuple):
    """The samples of some layers that are alike, and the similarities of all of them."""

    layers: list[HeadSample]
    forward: Array

    @property
    def width(self) -> int:
        return self.forward.shape[1]


def sampled(stack: Sequence[Attention], calls: tuple[int, int] | None = None) -> Samples | None:
    """Samples of a few layers; None where they have no heads that can turn.

    Args:
        calls: take heads of Q and of K to lie as after a permutation that took them for so many.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    count = min(len(stack), _MOST_LAYERS)
    every = [_sample(stack[i * len(stack) // count], calls) for i in range(count)]
    every = [sample for sample in every if sample.blocks]
    return Samples(every, np.stack([block for sample in every for block in sample.blocks])) if every else None


def _sample(attention: Attention, calls: tuple[int, int] | None) -> HeadSample:
    nothing = HeadSample([], *3 * (np.empty((0, 0)),))
    q, k = attention.part("q"), attention.part("k")
    if q is None or k is None or attention.heads is None or len(q.heads) % len(k.heads):
        return nothing
    width, share = len(k.heads[0]), len(q.heads) // len(k.heads)
    if len(q.heads[0]) != width or width < _LEAST_WIDTH or width % 2 or q.shape[1] != k.shape[1]:
        return nothing
    of_q, of_k = (
        [(run,) for run in part.heads] if calls is None else before(part.heads, count)
        for part, count in zip((q, k), calls or (0, 0), strict=True)
    )
    blocks: list[Array] = []
    norms: list[Array] = []
    groups = min(len(k.heads), _MOST_GROUPS)
    for group in (i * len(k.heads) // groups for i in range(groups)):
        queries = [of_q[group * share + i] for i in range(min(share, _MOST_QUERIES))]
        rows = np.concatenate([_rows(q, [*chain.from_iterable(queries)]), _rows(k, of_k[group])])
        scores = normal_scores(rows)
        if scores is None:
            continue
        keys = slice(len(queries) * width, None)
        blocks += [scores[i * width : (i + 1) * width, keys] for i in range(len(queries))]
        norms.append(_log_norms(rows).reshape(-1, width))
    if not blocks:
        return nothing
    lengths = np.array(norms)
    over_group = np.log((np.exp(lengths[:, :-1]) ** 2).mean(axis=1)) / 2
    return HeadSample(blocks, lengths[:, :-1].reshape(-1, width), over_group, lengths[:, -1])


def before(heads: Sequence[range], count: int) -> list[tuple[range, ...]]:
    """The rows of each head, in halves, where they were permuted as if the part had another number of heads."""
    rows = np.concatenate([np.arange(run.start, run.stop, run.step) for run in heads])
    size = len(rows) // count
    made = rows.reshape(count, size // 2, 2).swapaxes(1, 2).reshape(len(heads), -1)
    return [_runs(head) for head in made]


def _runs(rows: Array) -> tuple[range, ...]:
    """Rows by their numbers as runs with one step each."""
    steps = np.diff(rows)
    ends = [0, *(np.flatnonzero(np.diff(steps)) + 2).tolist(), len(rows)]
    found: list[range] = []
    for start, stop in pairwise(ends):
        own = [int(row) for row in rows[start:stop]]
        if own:
            step = own[1] - own[0] if len(own) > 1 else 1
            found.append(range(own[0], own[-1] + (1 if step > 0 else -1), step))
    return tuple(found)


def _log_norms(rows: Array) -> Array:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    return np.log(np.maximum(lengths, lengths.max(initial=0) * 1e-3 + 1e-30))


def _rows(part: Part, runs: Sequence[range]) -> Array:
    values = rows_of_values(part.weight.as_matrix(part.orientation), runs)
    return np.asarray(values[:, :_MOST_COLUMNS], np.float32)


def smoothness(norms: Array, places: Array, turned: int = 0) -> float:
    """What is gained if the norms of a head's rows are a parabola over how fast they turn, less what chance gives.

    Twice the gain in log-likelihood; it is the same parabola for all heads of a layer.

    Args:
        norms: logarithms of the norms of rows as they are stored: [heads, rows of a head].
        places: where each row lies, counted as in halves.
        turned: how many rows of a head turn, the first ones; 0: all.
    """
    heads, width = norms.shape
    centred, basis = _centred(norms, places, turned)
    whole = float((centred**2).sum())
    explained = heads * float(((basis.T @ centred.mean(axis=0)) ** 2).sum())
    if whole <= _FLAT * centred.size:
        return 0.0
    return float(-heads * (width - 1) * np.log(max(1 - explained / whole, 1e-9))) - basis.shape[1]


def left_over(norms: Sequence[Array], places: Array, turned: int = 0) -> Array:
    """What smoothness leaves of the norms of each two rows that turn together, and of those that do not."""
    left: list[Array] = []
    for layer in norms:
        centred, basis = _centred(layer, places, turned)
        rest = centred - basis @ (basis.T @ centred.mean(axis=0))
        turning = turned or rest.shape[1]
        left.append(rest[:, :turning].reshape(len(rest), 2, -1).sum(axis=1).ravel())
        left.append(rest[:, turning:].ravel())
    return np.concatenate(left)


def tied(q: Array, k: Array) -> float:
    """What is gained if these deviate together in Q and K, less what chance gives; twice that in log-likelihood.

    To make two rows of Q larger and those that they are multiplied with smaller by the same factor changes nothing, and
    training does not move along what changes nothing: norms that began alike stay balanced.
    """
    sizes = float(q @ q), float(k @ k)
    if min(sizes) <= _FLAT * q.size:
        return 0.0
    explained = float(q @ k) ** 2 / (sizes[0] * sizes[1])
    return float(-q.size * np.log(max(1 - explained, 1e-9))) - 1


def _centred(norms: Array, places: Array, turned: int) -> tuple[Array, Array]:
    """Norms in the order of halves, less the mean of each head; and what spans a parabola over how fast they turn.

    Rows that do not turn have a mean of their own.
    """
    ordered = norms[:, places]
    width = ordered.shape[1]
    turns: Array = np.arange(width, dtype=np.float64) % ((turned or width) // 2)
    wanted = np.vander(turns, 3, increasing=True)
    if turned:
        wanted[turned:, 1:] = 0
        still: Array = np.repeat([0.0, 1.0], [turned, width - turned])
        wanted = np.concatenate((wanted, still[:, None]), axis=1)
    basis = np.linalg.qr(wanted)[0][:, 1:]
    return ordered - ordered.mean(axis=1, keepdims=True), basis


def circuit_score(forward: Array, q: Array, k: Array, turned: int = 0) -> float:
    """What is gained if the rows of Q are alike to the same rows of K, to the rows that turn with these,
    and to all others by three laws instead of one; once the rows are back in their places. Less what chance gives.

    Twice the gain in log-likelihood of normal distributions around zero: of which sign a similarity is differs from
    head to head.

    Args:
        turned: as of ``smoothness``.
    """
    squares = forward[:, q][:, :, k].astype(np.float64) ** 2
    width = len(q)
    same = np.eye(width, dtype=bool)
    turning = turned or width
    partners = np.zeros_like(same)
    partners[:turning, :turning] = np.roll(same[:turning, :turning], turning // 2, axis=1)
    laws = [squares[:, mask] for mask in (same, partners, ~(same | partners))]
    whole = max(float(squares.mean()), _FLAT)
    gained = -sum(law.size * float(np.log(max(float(law.mean()), _FLAT) / whole)) for law in laws)
    return gained - (len(laws) - 1)
