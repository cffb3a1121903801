"""A finding: something that a reader, inspection, a check or ``trend`` reports about a checkpoint."""

from __future__ import annotations

from typing import Any

from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode, FindingKind, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the reader should know.

    >>> import qkvinspect
    >>> (finding,) = qkvinspect.check("sample_checkpoints/miswritten.safetensors", heads=4)
    >>> finding.code == "equal-parts", finding.severity, finding.layer
    (True, 'error', 'layers.1.self_attn')

    Attributes:
        code: which kind of finding it is; equal to its text, such as "nonfinite".
        layer: the attention module it is about, or None for the whole file.
    """

    code: FindingKind
    severity: Severity
    message: str
    layer: str | None

    def __init__(
        self, code: FindingKind, message: str, layer: str | None = None, severity: Severity | None = None
    ) -> None:
        """Names from a file go into the message: it stays one harmless line.

        Args:
            severity: instead of the one that the code has by default.
        """
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "severity", severity or code.severity)
        object.__setattr__(self, "message", clean(message))
        object.__setattr__(self, "layer", layer)

    def of(self, layer: str) -> Finding:
        """The same of another layer."""
        made: Any = object.__new__(Finding)
        made.code, made.severity, made.message, made.layer = self.code, self.severity, self.message, layer
        return made

    def to_dict(self) -> dict[str, object]:
        """Its form in every JSON contract."""
        return {"code": self.code.value, "severity": self.severity, "layer": self.layer, "message": self.message}


AGAINST_WEIGHTS = frozenset(
    {
        FindingCode.HEADS_AGAINST_WEIGHTS,
        FindingCode.ORIENTATION_AGAINST_WEIGHTS,
        FindingCode.PACKING_AGAINST_WEIGHTS,
    }
)
"""Findings where the weights themselves contradict what the file says; ``explain --evidence`` shows why."""

HEADS_IN_DOUBT = frozenset(
    {
        FindingCode.HEADS_AMBIGUOUS,
        FindingCode.HEADS_DISAGREE,
        FindingCode.HEADS_DO_NOT_FIT,
        FindingCode.HEADS_NEEDED,
        FindingCode.HEADS_UNKNOWN,
    }
)
"""Findings that say why the number of heads is unknown or doubtful."""

QUANTISED = frozenset(
    {
        FindingCode.QUANTISED_4BIT,
        FindingCode.QUANTISED_8BIT,
        FindingCode.QUANTISED_GPTQ,
        FindingCode.QUANTISED_PACKED,
        FindingCode.QUANTISED_TORCH,
    }
)
"""The weights are stored as codes whose rows are not those of the matrix."""

NOT_ALL = frozenset(
    {
        FindingCode.ADAPTER_LEFT_OUT,
        FindingCode.ADAPTER_SCALE,
        FindingCode.STALE_DUPLICATE,
        FindingCode.TRAINED_COPY,
    }
)
"""That the numbers which are shown are not all that the file has for a weight."""
