"""The rows of V in each head, with the columns of the output that read them: units that no input can number.

Vectors that are the same for every model (sinusoidal positions, the embeddings of another model) number the units of
the residual stream, and two models that were fed them agree on that without being kin. Nothing reaches the rows of V
in a head in an order of its own. Their order is lost, however, where heads were rotated inside.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qkvinspect.lineage.assignment import one_to_one
from qkvinspect.lineage.compared_layers import PairedLayer
from qkvinspect.lineage.head_circuits import over
from qkvinspect.lineage.sampled_heads import SampledHeads
from qkvinspect.weights.reading import Array


def inner_similarities(pair: PairedLayer, a: SampledHeads, b: SampledHeads) -> Iterator[Array]:
    """Of each head of V that was paired the cosines of its rows, [rows of A, rows of B].

    Heads were paired by circuits, which stay what they are whatever order the rows have.
    """
    if a.v.shape[1] != b.v.shape[1]:
        return
    together = np.zeros((a.kv_heads, b.kv_heads))
    for one, other in pair.heads:
        together[a.kv_head(one), b.kv_head(other)] += max(pair.alike[one, other], 0.0) + 1e-9
    for of_a, of_b in one_to_one(together):
        heads = [(i, j) for i, j in pair.heads if (a.kv_head(i), b.kv_head(j)) == (of_a, of_b)]
        if heads:
            yield _cosines(_rows(a, [i for i, _ in heads]), _rows(b, [j for _, j in heads]))


def _rows(heads: SampledHeads, some: list[int]) -> Array:
    """For each row of V what it reads and what the heads write of it, each scaled as a whole."""
    parts = [heads.v[some[0]], *(heads.o[head] for head in some)]
    return np.concatenate([part / (np.linalg.norm(part) or 1) for part in parts], axis=1)


def _cosines(a: Array, b: Array) -> Array:
    a, b = (side - side.mean(axis=0) for side in (a, b))
    return over(a @ b.T, np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)))
