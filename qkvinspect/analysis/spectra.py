"""Singular values, computed on whatever small matrices have the same ones, of all heads in one call. float64."""

from __future__ import annotations

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


def spectrum_of_gram(gram: Array) -> Spectrum:
    """The spectrum of a matrix M from M M^T. Squaring loses small singular values, and with them the effective rank."""
    square = _largest_eigenvalue(gram)
    return Spectrum(float(np.sqrt(square)), float(np.trace(gram)) / square) if square > 0 else Spectrum(0.0, 0.0)


def _largest_eigenvalue(gram: Array) -> float:
    """The largest eigenvalue of a positive semidefinite matrix, to a relative error of about 1e-10."""
    size = len(gram)
    if size <= _DIRECT:
        return float(np.linalg.eigvalsh(gram)[-1]) if size else 0.0
    basis = np.zeros((min(_STEPS, size), size))
    diagonal: list[float] = []
    beside: list[float] = []
    look = 20
    vector = np.random.default_rng(0).standard_normal(size)
    vector /= np.linalg.norm(vector)
    for step in range(len(basis)):
        basis[step] = vector
        vector = gram @ vector
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):  # once is not enough for orthogonality
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
        length = float(np.linalg.norm(vector))
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
