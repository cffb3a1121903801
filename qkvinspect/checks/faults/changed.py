"""The checkpoint is not what the baseline recorded.

``--baseline FILE`` names it. Layers, layouts, heads, dtypes and shapes must be the same; norms may differ by the
relative tolerance (``--tolerance``, 0.01 unless given), so that a few more steps of training pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.baseline import Layer, record
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.CHANGED


def find(subject: Subject) -> Iterator[Fault]:
    if subject.baseline is None:
        return
    now = record(subject.report)
    for layer, before in subject.baseline.items():
        if layer not in now and not subject.report.selected:
            yield layer, "the baseline has it, the checkpoint does not"
        elif layer in now:
            for text in _differences(before, now[layer], subject.tolerance):
                yield layer, text
    for layer in now:
        if layer not in subject.baseline:
            yield layer, "the checkpoint has it, the baseline does not"


def _differences(before: Layer, now: Layer, tolerance: float) -> Iterator[str]:
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if key.endswith("norm") and isinstance(old, int | float) and isinstance(new, int | float):
            away = abs(new - old) / max(abs(old), 1e-30)
            if away > tolerance:
                yield f"{key} was {old:g} and is {new:g}: {away:.3g} away, more than {tolerance:g}"
        elif old != new:
            yield f"{key} was {_said(old)} and is {_said(new)}"


def _said(value: object) -> str:
    return "absent" if value is None else str(value)
