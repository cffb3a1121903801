"""Per-head linear algebra: spectra of Q, K and V, the circuits QK and OV, bounds on logits, similar heads.

Figures are float64 whatever the weights are. Biases and position embeddings are not in the circuits: for rotary
models QK is that of two tokens at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.analysis.analysis import Analysis
from qkvinspect.analysis.columns import COLUMNS, Column, column
from qkvinspect.analysis.figures import HeadFigures, LayerFigures, Similar, Spectrum
from qkvinspect.analysis.values import Values, value_statistics
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce
from qkvinspect.weights.weight import Weight

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


def analyze(
    report: Report, attentions: Sequence[Attention] | None = None, progress: Progress | None = None
) -> Iterator[LayerFigures]:
    """Figures of each layer, one after another; memory holds two of a layer's Q, K, V and output at a time.

    Args:
        attentions: some of the report's; None for all.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    from qkvinspect.analysis.bounds import Bounds
    from qkvinspect.analysis.layer import figures

    chosen = report.attentions if attentions is None else attentions
    sizes = [_nbytes(attention) for attention in chosen]
    advance = counter(sum(sizes), progress)
    bounds = Bounds(report)
    announce(region for one in chosen for part in _read(one) for region in part.regions)
    for attention, size in zip(chosen, sizes, strict=True):
        yield figures(attention, bounds)
        advance(size)


def _read(attention: Attention) -> tuple[Weight, ...]:
    return (*attention.weights, *((attention.out,) if attention.out is not None else ()))


def _nbytes(attention: Attention) -> int:
    out = attention.out.nbytes if attention.out is not None else 0
    return out + sum(part.weight.dtype.nbytes(part.shape[0] * part.shape[1]) for part in attention.parts)
