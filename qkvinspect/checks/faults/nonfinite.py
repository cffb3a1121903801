"""NaN or infinity in Q, K, V or a bias.

Any one of them makes every output of its head NaN. Heads are named where their number is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.NONFINITE


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.report.attentions:
        for part in attention.parts:
            if part.measured is not None and part.measured.nonfinite:
                where = ""
                if attention.heads is not None:
                    bad = [head for head, measure in enumerate(part.head_measures) if measure.nonfinite]
                    where = f", in {heads_named(bad)}" if len(bad) < len(part.heads) else ", in every head"
                yield attention.layer, f"{part.name.upper()} holds {part.measured.nonfinite_words}{where}"
            if part.bias_measured is not None and part.bias_measured.nonfinite:
                said = part.bias_measured.nonfinite_words
                yield attention.layer, f"the bias of {part.name.upper()} holds {said}"
