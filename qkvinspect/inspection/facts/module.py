"""The module whose heads are sought, described as configs describe it."""

from __future__ import annotations

from collections.abc import Iterable

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.facts.scopes import Claim, claim
from qkvinspect.inspection.facts.sections import ConfigSection
from qkvinspect.inspection.names import Names


@dataclass(frozen=True, slots=True)
class HeadedModule:
    """One attention module, and the names around it.

    Attributes:
        layer: its name as stored.
        widths: the sizes that the ``embed_dim`` of its part of the model may have: what its projections read, and
            what its output projection writes.
        rows: how many rows Q has, where its own tensor tells; else None.
        packed: whether its numbers may be packed, so that its widths are not the model's: whole numbers that nothing
            decodes.
    """

    layer: str
    candidate: Candidate
    names: Names
    widths: frozenset[int]
    rows: int | None
    packed: bool = False

    @classmethod
    def of(cls, candidate: Candidate, names: Names) -> HeadedModule:
        """The module that a candidate would be."""
        layout = candidate.layout
        layer = candidate.layer.removesuffix(f".{layout.label}") if layout.label else candidate.layer
        try:
            shapes = candidate.shapes
        except LayoutError:
            return cls(layer, candidate, names, frozenset(), None)
        widths = {cols for _, cols in shapes}
        for out in filter(None, (names.find(key, candidate.path) for key in layout.out)):
            if len(out.shape) > 1:
                widths.add(out.as_shape(layout.out_orientation)[0])
        alone = (
            rows for stored, (rows, _) in zip(layout.weights, shapes, strict=True) if stored.packing.order == ("q",)
        )
        packed = any(weight.encoding is None and weight.dtype.kind in ("int", "uint") for weight in candidate.weights)
        return cls(layer, candidate, names, frozenset(widths), next(alone, None), packed)

    def claim(self, section: ConfigSection) -> Claim:
        """How well a section as a whole speaks of it."""
        return claim(section.keys, section.kinds, (), self.layer)

    def speaking(self, sections: Iterable[ConfigSection]) -> list[tuple[Claim, ConfigSection]]:
        """The sections that have nothing against it in their words, with how well each speaks of it."""
        claimed = ((self.claim(section), section) for section in sections)
        return [(claim, section) for claim, section in claimed if claim.speaks]
