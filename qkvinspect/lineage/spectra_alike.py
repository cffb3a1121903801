"""Whether heads are the same but for the basis of the residual stream: then nothing that was tested would show it.

The singular values of a head's circuits stay what they are when the whole stream is rotated, or its units change
places. Heads of models that were trained apart differ in them about as much as heads of one model do.
"""

from __future__ import annotations

import numpy as np

from qkvinspect.analysis.spectra import reduced, singular_values
from qkvinspect.analysis.weights import of_output, of_part
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.lineage.head_circuits import over
from qkvinspect.lineage.relatives import Relative
from qkvinspect.weights.reading import Array

_LAYERS = 2
_NEARER = 0.2
"""How much nearer heads of B must lie to those of A than these to each other."""


def spectra_alike(a: Relative, b: Relative) -> bool:
    """Whether the heads of the first layers have partners in B that are far nearer than any of their neighbours.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    ours, theirs = (np.concatenate([_spectra(layer) for layer in one.layers[:_LAYERS]]) for one in (a, b))
    if ours.shape[1] != theirs.shape[1] or len(ours) < 2:
        return False
    across, among = _distances(ours, theirs), _distances(ours, ours)
    np.fill_diagonal(among, np.inf)
    return float(np.median(across.min(axis=1))) < _NEARER * float(np.median(among.min(axis=1)))


def _spectra(layer: Attention) -> Array:
    """The singular values of QK and of OV of each head, each of norm 1: [heads, twice the width of a head]."""
    geometry = layer.heads
    assert geometry is not None
    q, k, v = (_rows(layer.part(name)).reshape(geometry.heads(name), geometry.width(name), -1) for name in "qkv")
    whole = of_output(layer, geometry.num_heads * geometry.width("v"))
    assert whole is not None
    o = whole.astype(np.float32).reshape(geometry.num_heads, -1, whole.shape[1])
    shared = [geometry.kv_head(head) for head in range(geometry.num_heads)]
    return np.concatenate([_singular(q, k[shared]), _singular(o, v[shared])], axis=1)


def _rows(part: Part | None) -> Array:
    assert part is not None
    return of_part(part).astype(np.float32)


def _singular(left: Array, right: Array) -> Array:
    """Of left^T right of each head, from the small triangles of both."""
    values = singular_values(np.swapaxes(reduced(left), 1, 2) @ reduced(right))
    return over(values, np.linalg.norm(values, axis=1, keepdims=True))


def _distances(a: Array, b: Array) -> Array:
    return np.array([np.linalg.norm(b - one, axis=1) for one in a])
