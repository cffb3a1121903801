"""Singular values, computed on whatever small matrices have the same ones, of all heads in one call. float64."""

from __future__ import annotations

from math import sqrt

import numpy as np

from qkvinspect.analysis.figures import Spectrum
from qkvinspect.weights.reading import Array

_DIRECT = 128
"""Rows up to which all eigenvalues of a Gram matrix are computed; Lanczos finds the largest of more in less time."""

_STEPS = 1000
_RESIDUAL = 1e-10
_ERROR = 1e-13
"""Relative: the error of an eigenvalue is at most the residual, and its square over the gap to the next one."""


def reduced(rows: Array) -> Array:
    """R^T of the thin QR decomposition of rows^T: the same singular values and products, at most square.

    Args:
        rows: [..., width, in].
    """
    triangle: Array = np.linalg.qr(np.swapaxes(rows, -1, -2), mode="r")  # pyright: ignore[reportAssignmentType]
    return np.swapaxes(triangle, -1, -2)


def singular_values(matrices: Array) -> Array:
    """Of each of [..., rows, columns], the greatest first."""
    return np.linalg.svd(matrices, compute_uv=False)


def spectra_of(values: Array) -> list[Spectrum]:
    """Of all singular values of each matrix, [matrices, values], the greatest first."""
    if not values.size:
        return [Spectrum(0.0, 0.0, 0.0)] * len(values)
    largest = values[:, :1]
    scaled = values / np.where(largest > 0, largest, 1)
    sums = scaled.sum(axis=1, keepdims=True)
    share = scaled / np.where(sums > 0, sums, 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    ranks = np.where(largest[:, 0] > 0, np.exp(entropy), 0)
    columns = (largest[:, 0], (scaled * scaled).sum(axis=1), ranks)
    return [Spectrum(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]


def spectra_of_grams(grams: Array) -> list[Spectrum]:
    """The spectra of some M, from their M M^T. Squaring loses small singular values, and with them the effective rank.

    Args:
        grams: [matrices, rows, rows].
    """
    size = grams.shape[1]
    if not size:
        return [Spectrum(0.0, 0.0)] * len(grams)
    squares = np.linalg.eigvalsh(grams)[:, -1].tolist() if size <= _DIRECT else map(_largest_eigenvalue, grams)
    traces = np.trace(grams, axis1=1, axis2=2).tolist()
    return [
        Spectrum(sqrt(square), trace / square) if square > 0 else Spectrum(0.0, 0.0)
        for square, trace in zip(squares, traces, strict=True)
    ]


def _largest_eigenvalue(gram: Array) -> float:
    """The largest eigenvalue of a positive semidefinite matrix, to a relative error of about 1e-10."""
    size = len(gram)
    basis = np.zeros((min(_STEPS, size), size))
    diagonal: list[float] = []
    beside: list[float] = []
    look = 20
    vector = _start(size)
    for step in range(len(basis)):
        basis[step] = vector
        vector = gram @ vector
        diagonal.append(float(vector @ basis[step]))
        vector -= diagonal[step] * basis[step]  # what is largest: then once is enough for orthogonality
        if step:
            vector -= beside[step - 1] * basis[step - 1]
        vector -= (basis[: step + 1] @ vector) @ basis[: step + 1]
        length = sqrt(float(vector @ vector))
        if step == look or length == 0 or step == len(basis) - 1:
            look = 5 * step // 4
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            residual, most = length * abs(vectors[-1, -1]), values[-1]
            if residual <= _RESIDUAL * most or residual**2 <= _ERROR * most * (most - values[-2]):
                return float(most)
        if length == 0:
            break
        beside.append(length)
        vector /= length
    return float(np.linalg.eigvalsh(gram)[-1])


def _start(size: int) -> Array:
    """A random vector of length 1, by splitmix64: ``numpy.random`` takes 10 ms to import."""
    bits = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    vector = (bits ^ (bits >> np.uint64(31))).astype(np.float64) * 2.0**-64 - 0.5
    return vector / np.sqrt(vector @ vector)
