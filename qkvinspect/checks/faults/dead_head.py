"""A head's norm is far below that of its peers: under a fiftieth of their median.

Weight decay takes a head that gets no gradient down to nothing. The heads of one part of the trained checkpoints
that this was tried on lie within a factor of ten of their median. A head of Q or K without norm attends to
everything alike; one of V adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from statistics import median

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.DEAD_HEAD

SHARE = 0.02
FEWEST = 3


def find(subject: Subject) -> Iterator[Fault]:
    for layer, part, _, norms in subject.heads():
        sizes = [measure.norm for measure in norms]
        if len(sizes) < FEWEST or not all(map(isfinite, sizes)):
            continue
        middle = median(sizes)
        dead = [head for head, size in enumerate(sizes) if 0 < size < SHARE * middle]
        if dead:
            text = f"the norm of {part.name.upper()} in {heads_named(dead)} is under {SHARE:g} of the median head's"
            yield layer, f"{text} ({middle:.3g})"
