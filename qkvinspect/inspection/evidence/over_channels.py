"""Attention over channels (XCiT, DaViT), whose rows are tied as if its Q and V had changed places.

There the softmax is over the rows of K's head: each row of Q goes with the column of the output projection at its
place, and each of K with one of V. Their similarities tell as much as those of attention over positions whose V is
called Q. Only the latter has balanced factors, whose rows are as long as those they are tied to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkvinspect.inspection.evidence.fit import Fit
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.report import Attention, Part

_TOLD = 0.4
"""Twice the log-likelihood, for each row of Q, by which the lengths of rows must go together better than as declared.
In attention over channels that was trained it was 0.2 at most; in models of others whose Q and V were swapped, 0.45 to
7."""


def may_be_over_channels(
    declared: Attention, said: Attention, as_declared: Sequence[Fit], as_said: Sequence[Fit], samples: Sequence[Sample]
) -> bool:
    """Whether the declared parts, in attention over channels, explain what seems to speak for other ones.

    Args:
        said: the same layer, divided as its weights seem to say.
        as_declared, as_said: how well each explains the layers.
        samples: of these.
    """
    if _place(declared.part("q")) != _place(said.part("v")) or declared.layout is None:
        return False
    told = sum(np.sum(one.lengths.value - other.lengths.value) for one, other in zip(as_said, as_declared, strict=True))
    rows = sum(sample.lengths.size // (3 if sample.columns is None else 4) for sample in samples)
    return not declared.layout.logits.softmax or _has_temperature(declared) or bool(told < _TOLD * rows)


def _place(part: Part | None) -> object:
    return part and (part.weight.name, part.rows)


def _has_temperature(attention: Attention) -> bool:
    """Whether it has a factor for each head, as attention over channels that makes Q and K as long as 1."""
    fact = attention.heads_fact
    return fact is not None and fact.said_by is SaidBy.TENSOR and "temperature" in fact.origin
