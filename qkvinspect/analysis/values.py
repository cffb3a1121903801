"""Statistics of the values of a part: mean, spread, quantiles, zeros, a histogram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.json_values import number
from qkvinspect.inspection.report import Attention, Part, Report
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
BINS = 24


@dataclass(frozen=True, slots=True)
class Values:
    """Of the weights of a part, or of one head of it; float64, quantiles exact (linear interpolation).

    Attributes:
        head: None for the whole part.
        count: parameters, biases not counted.
        num_bytes: as stored.
        nonfinite: how many are NaN or infinite; all that follows is of the others, and zero if there are none.
        std: of the whole population.
        zeros: the share that is exactly zero.
        quantiles: at QUANTILES.
        histogram: counts in BINS equal bins from ``least`` to ``greatest``.
    """

    part: str
    head: int | None
    count: int
    num_bytes: int
    nonfinite: int
    mean: float
    std: float
    least: float
    greatest: float
    zeros: float
    quantiles: tuple[float, ...]
    histogram: tuple[int, ...]

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract."""
        return {
            "part": self.part,
            "head": self.head,
            "count": self.count,
            "num_bytes": self.num_bytes,
            "nonfinite": self.nonfinite,
            **{name: number(getattr(self, name)) for name in ("mean", "std", "least", "greatest", "zeros")},
            "quantiles": {f"{share:g}": number(value) for share, value in zip(QUANTILES, self.quantiles, strict=True)},
            "histogram": list(self.histogram),
        }


def value_statistics(report: Report, progress: Progress | None = None) -> Iterator[tuple[Values, ...]]:
    """The statistics of each layer's parts and their heads; one part is in memory at a time.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    sizes = [part.weight.dtype.nbytes(part.shape[0] * part.shape[1]) for a in report.attentions for part in a.parts]
    advance = counter(sum(sizes), progress)
    left = iter(sizes)
    announce(region for one in report.attentions for weight in one.weights for region in weight.regions)
    for attention in report.attentions:
        found: list[Values] = []
        for part in attention.parts:
            found += _of_part(part, attention)
            advance(next(left))
        yield tuple(found)


def _of_part(part: Part, attention: Attention) -> Iterator[Values]:
    from qkvinspect.analysis.weights import no_values, of_part

    if no_values(part.weight):
        return
    rows = of_part(part)
    bits = part.weight.dtype.bits
    yield _values(part.name, None, rows.ravel(), bits)
    if attention.heads is not None:
        for head, values in enumerate(rows.reshape(len(part.heads), -1)):
            yield _values(part.name, head, values, bits)


def _values(part: str, head: int | None, flat: Array, bits: int) -> Values:
    import numpy as np

    with np.errstate(all="ignore"):  # squares beyond float64
        return _summed_up(part, head, flat, bits)


def _summed_up(part: str, head: int | None, flat: Array, bits: int) -> Values:
    import numpy as np

    known = flat[np.isfinite(flat)]
    nbytes, odd = flat.size * bits // 8, flat.size - known.size
    if not known.size:
        return Values(part, head, flat.size, nbytes, odd, 0, 0, 0, 0, 0, (0.0,) * len(QUANTILES), (0,) * BINS)
    low, high = float(known.min()), float(known.max())
    return Values(
        part,
        head,
        flat.size,
        nbytes,
        odd,
        mean=float(known.mean()),
        std=float(known.std()),
        least=low,
        greatest=high,
        zeros=float((known == 0).mean()),
        quantiles=tuple(map(float, np.quantile(known, QUANTILES))),
        histogram=_histogram(known, low, high),
    )


def _histogram(known: Array, low: float, high: float) -> tuple[int, ...]:
    """Counts in equal bins; all in the first where floats are too far apart for the bins between them."""
    import numpy as np

    try:
        return tuple(map(int, np.histogram(known, BINS, (low, high))[0]))
    except ValueError:
        return (known.size, *[0] * (BINS - 1))
