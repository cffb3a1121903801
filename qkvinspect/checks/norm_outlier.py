"""The norm of Q, K or V of one layer is far from that of the other layers of its stack.

The measure is the root mean square of the part's values, so that shapes do not matter. Of a stack of at least six
layers, its logarithm is compared with the median: a finding is more than eight times the median absolute deviation
(made comparable with a standard deviation by 1.4826) and more than a factor of four away. First and last layers of
trained models differ from the middle by up to about three, which sets the factor. Parts are compared with the same
part only: PyTorch initialises a packed in_proj_weight as one matrix, which gives its Q, K and V another scale than
separate ones (pytorch/pytorch#166378).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isfinite, log, prod
from statistics import median

from qkvinspect.checks.subject import Subject, Told
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.NORM_OUTLIER

FEWEST = 6
FACTOR = 4.0
DEVIATIONS = 8.0


def told(subject: Subject) -> Iterator[Told]:
    for stack in subject.stacks.values():
        for name in "qkv":
            sizes: dict[str, float] = {}
            for attention in stack:
                part = attention.part(name)
                measure = part.measured if part else None
                if part and measure and isfinite(measure.norm) and measure.norm and prod(part.shape):
                    sizes[attention.layer] = log(measure.norm / prod(part.shape) ** 0.5)
            yield from _outliers(name, sizes)


def _outliers(name: str, sizes: dict[str, float]) -> Iterator[Told]:
    if len(sizes) < FEWEST:
        return
    middle = median(sizes.values())
    spread = 1.4826 * median(abs(size - middle) for size in sizes.values())
    for layer, size in sizes.items():
        away = abs(size - middle)
        if away > log(FACTOR) and away > DEVIATIONS * spread:
            times = f"{exp(min(away, 700)):.3g} times {'larger' if size > middle else 'smaller'}"
            far = f"{away / spread:.0f} robust standard deviations" if spread else "most others are equal"
            yield layer, f"the values of {name.upper()} are {times} than the median of {len(sizes)} layers ({far})"
