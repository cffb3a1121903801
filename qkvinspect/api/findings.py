"""What ``check`` gives: a list of findings that a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Iterable

from qkvinspect.errors import clean
from qkvinspect.findings import Finding
from qkvinspect.tabular import Tabular


class Findings(list[Finding], Tabular):
    """A list of findings.

    Attributes:
        path: of the checkpoint.
        num_attentions: how many attention modules were looked at.
    """

    def __init__(self, path: str, num_attentions: int, found: Iterable[Finding]) -> None:
        super().__init__(found)
        self.path = path
        self.num_attentions = num_attentions

    def __repr__(self) -> str:
        codes = ", ".join(dict.fromkeys(finding.code.value for finding in self))
        counted = f"{len(self)} finding{'s' * (len(self) != 1)}"
        return clean(f"<{counted} in {self.path!r}{': ' * bool(codes)}{codes}>")
