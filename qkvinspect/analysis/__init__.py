"""Per-head linear algebra: spectra of Q, K and V, the circuits QK and OV, bounds on logits, similar heads.

Figures are float64 whatever the weights are. Biases and position embeddings are not in the circuits: for rotary
models QK is that of two tokens at the same place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from qkvinspect.analysis.analysis import Analysis
from qkvinspect.analysis.columns import COLUMNS, Column, column
from qkvinspect.analysis.figures import HeadFigures, LayerFigures, Similar, Spectrum
from qkvinspect.analysis.values import Values, value_statistics
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce
from qkvinspect.weights.weight import Weight
from qkvinspect.workers import in_batches, in_order

__all__ = [
    "COLUMNS",
    "Analysis",
    "Column",
    "HeadFigures",
    "LayerFigures",
    "Similar",
    "Spectrum",
    "Values",
    "analyze",
    "column",
    "value_statistics",
]

_ROOM = 1 << 30
"""Bytes of memory that layers may take which are dealt with at the same time."""

_TOGETHER = 1 << 20
"""Bytes of small layers that are dealt with in one call: of many, most of the time was Python's."""

_TIMES = 8
"""How many times the bytes of its file a layer takes meanwhile: float64, and the inner products of its rows."""


def analyze(
    report: Report,
    attentions: Sequence[Attention] | None = None,
    progress: Progress | None = None,
    columns: Iterable[Column] | None = None,
) -> Iterator[LayerFigures]:
    """Figures of each layer, one after another; memory holds two of a layer's Q, K, V and output at a time.

    Small layers are dealt with together, and on all cores where BLAS has been told to use one for each.

    Args:
        attentions: some of the report's; None for all.
        columns: what is needed; None for all, and for the figures of Q, K and V as wholes.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.analysis.bounds import Bounds
    from qkvinspect.analysis.layer import Wanted, figures
    from qkvinspect.weights.reading import keep_dropped_memory

    keep_dropped_memory()
    chosen = report.attentions if attentions is None else attentions
    needs = None if columns is None else frozenset(one.needs for one in columns)
    wanted = Wanted() if needs is None or "" in needs else Wanted(needs, parts=False)
    sizes = [_nbytes(attention) for attention in chosen]
    advance = counter(sum(sizes), progress)
    bounds = Bounds(report)
    announce(region for one in chosen for part in _read(one) for region in part.regions)
    batches = in_batches(zip(chosen, sizes, strict=True), lambda one: one[1], _TOGETHER)
    found = in_order(lambda some: figures([one for one, _ in some], bounds, wanted), batches, _at_once(sizes))
    for one, size in zip(chain.from_iterable(found), sizes, strict=True):
        yield one
        advance(size)


def _at_once(sizes: Sequence[int]) -> int:
    """How many layers to deal with at the same time."""
    alone = os.environ.get("OPENBLAS_NUM_THREADS") != "1"
    return 1 if alone else max(_ROOM // (_TIMES * max(sizes, default=1) + 1), 1)


def _read(attention: Attention) -> tuple[Weight, ...]:
    return (*attention.weights, *((attention.out,) if attention.out is not None else ()))


def _nbytes(attention: Attention) -> int:
    out = attention.out.nbytes if attention.out is not None else 0
    return out + sum(part.weight.dtype.nbytes(part.shape[0] * part.shape[1]) for part in attention.parts)
