"""How the correlation of two rows falls with their distance: a picture in which people can see the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.weights.reading import Array

_BARS = 24
_FLOOR = 1e-3


def profile(samples: Sequence[Sample], index: Mapping[str, Array]) -> tuple[tuple[int, float], ...]:
    """How much two rows that lie so far apart are tied, compared with rows that lie farther.

    The tie is the divergence, in nats a pair, between the similarities at that distance (of Q's rows with those of
    K, of V's with those of the output projection) and at distances over three heads.

    Returns:
        (distance in rows, tie), the distances in steps of equal width; empty where there are too few heads.
    """
    pairs = [pair for pair in (("q", "k"), ("v", "o")) if set(pair) <= index.keys()]
    pairs = [pair for pair in pairs if index[pair[0]].size == index[pair[1]].size]
    parts = pairs or [(part,) for part in ("q", "o") if part in index]
    heads, width = index[parts[0][0]].shape if parts else (0, 0)
    reach = min(3 * width, heads * width // 2)
    if heads < 2 or not samples:
        return ()
    step = -(-reach // _BARS)
    totals = np.zeros(-(-reach // step))
    for sample in samples:
        for names in parts:
            if "o" in names and sample.columns is None:
                continue
            matrices = [_ordered(sample, index, name) for name in names]
            far = _law(matrices, range(reach, heads * width))
            near = [_law(matrices, range(start, start + step)) for start in range(1, reach + 1, step)]
            totals += [_divergence(law, far) for law in near]
    count = len(samples) * len(parts)
    stride = samples[0].stride
    return tuple(((1 + i * step) * stride, max(float(total) / count, 0.0)) for i, total in enumerate(totals))


def _ordered(sample: Sample, index: Mapping[str, Array], part: str) -> Array:
    rows = index[part].ravel() + (sample.columns or 0 if part == "o" else 0)
    return sample.scores[np.ix_(rows, rows)]


def _law(matrices: Sequence[Array], distances: range) -> tuple[Array, Array, int]:
    """Mean, covariance and number of the entries that lie so far from the diagonal."""
    values = np.stack([np.concatenate([np.diagonal(m, d) for d in distances]) for m in matrices]).astype(np.float64)
    spread = np.atleast_2d(np.cov(values, bias=True)) + _FLOOR * np.eye(len(matrices))
    return values.mean(axis=1), spread, values.shape[1]


def _divergence(first: tuple[Array, Array, int], second: tuple[Array, Array, int]) -> float:
    """The Kullback-Leibler divergence of two normal distributions in nats, less its expectation under chance."""
    apart, inverse = first[0] - second[0], np.linalg.inv(second[1])
    spread = float(np.trace(inverse @ first[1])) - len(apart)
    sizes = float(np.linalg.slogdet(second[1])[1] - np.linalg.slogdet(first[1])[1])
    fitted = len(apart) * (len(apart) + 3) / 2
    return (spread + float(apart @ inverse @ apart) + sizes - fitted / first[2]) / 2
