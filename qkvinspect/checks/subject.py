"""What the checks look at: a report, the values of every head, and what is expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from qkvinspect.checks.baseline import Baseline
from qkvinspect.checks.digests import Digests
from qkvinspect.checks.head_values import HeadValues, Key, read_heads
from qkvinspect.checks.kv_copies import KvCopies, kv_copies
from qkvinspect.checks.policy import Expectation
from qkvinspect.inspection.report import Attention, Measure, Part, Report
from qkvinspect.late_pattern import late_pattern
from qkvinspect.progress import Progress
from qkvinspect.weights.adapters import is_update

Fault = tuple[str | None, str]
"""A layer, or None for the whole file, and what is wrong with it."""

Value = TypeVar("Value", bound=Hashable)

_LAST_NUMBER = late_pattern(r"\d+(?=\D*$)")


@dataclass(frozen=True)
class Subject:
    """One checkpoint.

    Attributes:
        expect: what must hold for the layers that a glob matches.
        baseline: what to compare with, or None.
        tolerance: relative, of norms against the baseline.
        progress: called while the values are read.
        digests: what the files should be, by a manifest and by a hub.
    """

    report: Report
    expect: tuple[tuple[str, Expectation], ...] = ()
    baseline: Baseline | None = None
    tolerance: float = 0.0
    progress: Progress | None = None
    digests: tuple[Digests, ...] = ()

    @cached_property
    def values(self) -> Mapping[Key, tuple[HeadValues, ...]]:
        """The values of every head, by stored tensor and part; read when a check first needs them."""
        return read_heads(self.report.attentions, self.progress)

    @cached_property
    def attentions(self) -> tuple[Attention, ...]:
        """All layers but LoRA updates, which may be zero and of low rank without being damaged."""
        return tuple(one for one in self.report.attentions if not any(map(is_update, one.weights)))

    @cached_property
    def by_layer(self) -> Mapping[str, tuple[Attention, ...]]:
        """The same by their layers."""
        found: dict[str, list[Attention]] = {}
        for one in self.attentions:
            found.setdefault(one.layer, []).append(one)
        return {layer: tuple(some) for layer, some in found.items()}

    @cached_property
    def stacks(self) -> Mapping[str, tuple[Attention, ...]]:
        """Layers whose names differ in their last number only, by the name with ``#`` in its place."""
        found: dict[str, list[Attention]] = {}
        for attention in self.attentions:
            if _LAST_NUMBER.search(attention.layer):
                found.setdefault(_LAST_NUMBER.sub("#", attention.layer), []).append(attention)
        return {name: tuple(stack) for name, stack in found.items()}

    @cached_property
    def kv_copies(self) -> Mapping[Key, KvCopies]:
        """The parts whose rows tell that kv heads were repeated, by stored tensor and part."""
        return kv_copies(self.attentions, self.stacks)

    def parts(self) -> Iterator[tuple[Attention, Part, tuple[HeadValues, ...]]]:
        """Every part with the values of its heads; one "head" where their number is not known."""
        for attention in self.attentions:
            for part in attention.parts:
                yield attention, part, self.values[part.weight.name, part.name]

    def heads(self) -> Iterator[tuple[str, Part, tuple[HeadValues, ...], tuple[Measure, ...]]]:
        """Layer, part, values and norms of the parts whose heads are known and are several."""
        for attention, part, values in self.parts():
            if attention.heads is not None and len(values) > 1:
                yield attention.layer, part, values, part.head_measures


def outvoted(values: Mapping[str, Value]) -> tuple[Value, int, list[str]] | None:
    """The value that most layers of a stack have, how many have it, and the other layers; None where nothing stands
    out.

    At least four must agree, and at most a quarter differ.
    """
    if not values:
        return None
    ((usual, count),) = Counter(values.values()).most_common(1)
    odd = [layer for layer, value in values.items() if value != usual]
    return (usual, count, odd) if odd and count >= 4 and 4 * len(odd) <= len(values) else None


def number_in(layer: str) -> int:
    """The last number of a layer's name."""
    found = _LAST_NUMBER.search(layer)
    return int(found[0][:9]) if found else -1


def listed(numbers: list[int], most: int = 8) -> str:
    """``2, 3 and 7``."""
    named = [str(number) for number in numbers[:most]]
    if len(numbers) > most:
        return f"{', '.join(named)} and {len(numbers) - most} more"
    return f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]


def heads_named(numbers: list[int]) -> str:
    """``head 2``, ``heads 2 and 3``."""
    return f"head{'s' if len(numbers) > 1 else ''} {listed(numbers)}"
