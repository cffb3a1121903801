"""The norm of Q, K or V of one layer is far from that of the other layers of its stack.

The measure is the root mean square of the part's values, so that shapes do not matter. Of a stack of at least six
layers, its logarithm is compared with the median: a finding is more than eight times the median absolute deviation
(made comparable with a standard deviation by 1.4826) and more than a factor of four away. First and last layers of
trained models differ from the middle by up to about three, which sets the factor. Parts are compared with the same
part only: PyTorch initialises a packed in_proj_weight as one matrix, which gives its Q, K and V another scale than
separate ones (pytorch/pytorch#166378).

A smaller stack is compared with every layer whose part has the same shape, if those are six, where self-attention and
cross-attention differ more: a factor of twenty. If they are fewer, a layer is compared with the others of its stack,
where these are alike: a factor of a hundred. And values of a thousand and more have no place in any projection: those
of real models are below ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import exp, isfinite, log, prod
from statistics import median

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention

CODE: FindingCode = FindingCode.NORM_OUTLIER

FEWEST = 6
FACTOR = 4.0
FACTOR_ABROAD = 20.0
FACTOR_OF_FEW = 100.0
DEVIATIONS = 8.0
ABSURD = 1000.0

Sizes = Mapping[str, float]
"""The logarithm of the root mean square of a part's values, by layer."""


def find(subject: Subject) -> Iterator[Fault]:
    for name in "qkv":
        known = {one.layer: size for one in subject.attentions if (size := _size(one, name)) is not None}
        said: set[str | None] = set()
        for layer, text in _compared(subject, name, known):
            said.add(layer)
            yield layer, text
        for layer, size in known.items():
            if layer not in said and size > log(ABSURD):
                yield layer, f"the values of {name.upper()} are {exp(min(size, 700)):.3g} on average: no layer's are"


def _compared(subject: Subject, name: str, known: Sizes) -> Iterator[Fault]:
    """Each layer with its stack or, where that is small, with what else has its shape."""
    alike: dict[tuple[int, ...], dict[str, float]] = {}
    for attention in subject.attentions:
        if attention.layer in known and (part := attention.part(name)):
            alike.setdefault(part.shape, {})[attention.layer] = known[attention.layer]
    shapes = {layer: shape for shape, layers in alike.items() for layer in layers}
    few: dict[tuple[int, ...], dict[str, float]] = {}
    for stack in subject.stacks.values():
        sizes = {one.layer: known[one.layer] for one in stack if one.layer in known}
        if len(sizes) >= FEWEST:
            yield from _outliers(name, sizes, sizes, FACTOR)
            continue
        for layer, size in sizes.items():
            if len(alike[shapes[layer]]) >= FEWEST:
                few.setdefault(shapes[layer], {})[layer] = size
            else:
                yield from _of_few(name, layer, sizes)
    for shape, layers in few.items():
        yield from _outliers(name, layers, alike[shape], FACTOR_ABROAD)


def _size(attention: Attention, name: str) -> float | None:
    part = attention.part(name)
    measure = part.measured if part else None
    if part and measure and isfinite(measure.norm) and measure.norm and prod(part.shape):
        return log(measure.norm / prod(part.shape) ** 0.5)
    return None


def _outliers(name: str, asked: Sizes, sizes: Sizes, factor: float) -> Iterator[Fault]:
    """The layers of a stack that are far from all the others."""
    middle = median(sizes.values())
    spread = 1.4826 * median(abs(size - middle) for size in sizes.values())
    for layer, size in asked.items():
        away = abs(size - middle)
        if away > log(factor) and away > DEVIATIONS * spread:
            far = f"{away / spread:.0f} robust standard deviations" if spread else "most others are equal"
            yield layer, f"{_times(name, size - middle)} than the median of {len(sizes)} layers ({far})"


def _of_few(name: str, layer: str, sizes: Sizes) -> Iterator[Fault]:
    """A layer that is far from two or more others, which are alike."""
    others = [size for other, size in sizes.items() if other != layer]
    if len(others) < 2 or max(others) - min(others) > log(FACTOR):
        return
    away = sizes[layer] - median(others)
    if abs(away) > log(FACTOR_OF_FEW):
        yield layer, f"{_times(name, away)} than the median of the {len(others)} other layers of its stack"


def _times(name: str, away: float) -> str:
    return (
        f"the values of {name.upper()} are {exp(min(abs(away), 700)):.3g} times {'larger' if away > 0 else 'smaller'}"
    )
