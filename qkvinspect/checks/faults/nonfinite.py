"""NaN or infinity in Q, K, V or a bias.

Any one of them makes every output of its head NaN. Heads are named where their number is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject, heads_named
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Measure

CODE: FindingCode = FindingCode.NONFINITE


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.report.attentions:
        for part in attention.parts:
            if part.measured is not None and part.measured.nonfinite:
                where = ""
                if attention.heads is not None:
                    bad = [head for head, measure in enumerate(part.head_measures) if measure.nonfinite]
                    where = f", in {heads_named(bad)}" if len(bad) < len(part.heads) else ", in every head"
                yield attention.layer, f"{part.name.upper()} holds {_counted(part.measured)}{where}"
            if part.bias_measured is not None and part.bias_measured.nonfinite:
                yield attention.layer, f"the bias of {part.name.upper()} holds {_counted(part.bias_measured)}"


def _counted(measure: Measure) -> str:
    return f"{measure.nonfinite} NaN or infinite value{'' if measure.nonfinite == 1 else 's'}"
