"""A finding: what a reader, inspection, a check or ``trend`` has to say of a checkpoint."""

from __future__ import annotations

from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the reader should know.

    Attributes:
        code: which kind of finding it is; equal to its text, such as "nonfinite".
        layer: the attention module it is about, or None for the whole file.
    """

    code: FindingCode
    severity: Severity
    message: str
    layer: str | None

    def __init__(
        self, code: FindingCode, message: str, layer: str | None = None, severity: Severity | None = None
    ) -> None:
        """Names from a file go into the message: it stays one harmless line.

        Args:
            severity: instead of the one that the code has by default.
        """
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "severity", severity or code.severity)
        object.__setattr__(self, "message", clean(message))
        object.__setattr__(self, "layer", layer)

    def to_dict(self) -> dict[str, object]:
        """Its form in every JSON contract."""
        return {"code": self.code.value, "severity": self.severity, "layer": self.layer, "message": self.message}
