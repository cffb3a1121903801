"""Singular values, computed from the smallest matrix that has the same ones. float64 throughout."""

from __future__ import annotations

import numpy as np

from qkvinspect.analysis.figures import Spectrum
from qkvinspect.weights.reading import Array

_DIRECT = 512
"""Rows up to which all eigenvalues of a Gram matrix are computed; above, Lanczos finds the largest in less time."""

_STEPS = 1000
_RESIDUAL = 1e-10
_ERROR = 1e-13
"""Relative: the error of an eigenvalue is at most the residual, and its square over the gap to the next one."""


def reduced(rows: Array) -> Array:
    """R^T of the thin QR decomposition of rows^T: the same singular values and products, at most square."""
    triangle: Array = np.linalg.qr(rows.T, mode="r")  # pyright: ignore[reportAssignmentType]
    return triangle.T


def singular_values(matrix: Array) -> Array:
    """The greatest first."""
    return np.linalg.svd(matrix, compute_uv=False)


def spectrum_of(values: Array) -> Spectrum:
    """The spectrum of a matrix from all its singular values, the greatest first."""
    largest = float(values[0]) if len(values) else 0.0
    if not largest:
        return Spectrum(0.0, 0.0, 0.0)
    scaled = values / largest
    share = scaled / scaled.sum()
    share = share[share > 0]
    return Spectrum(largest, float(scaled @ scaled), float(np.exp(-(share * np.log(share)).sum())))


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
