"""The module whose heads are asked for, as far as configs can know it."""

from __future__ import annotations

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.facts.scopes import Claim, claim
from qkvinspect.inspection.facts.sections import Section
from qkvinspect.inspection.names import Names


@dataclass(frozen=True, slots=True)
class Module:
    """One attention module, and the names around it.

    Attributes:
        layer: its name as stored.
        widths: the sizes that the ``embed_dim`` of its part of the model may have: the inputs of its projections.
    """

    layer: str
    candidate: Candidate
    names: Names
    widths: frozenset[int]

    def claim(self, section: Section) -> Claim:
        """How well a section as a whole speaks of it."""
        return claim(section.keys, section.kinds, (), self.layer)
