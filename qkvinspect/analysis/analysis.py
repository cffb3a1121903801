"""All that ``analyze`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.analysis.columns import Column
from qkvinspect.analysis.figures import HeadFigures, LayerFigures
from qkvinspect.analysis.values import Values
from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Report
from qkvinspect.tabular import Tabular

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Analysis(Tabular):
    """Figures, or values, of every layer of a report; iterating gives the figures of one layer after another.

    >>> import qkvinspect
    >>> figures = qkvinspect.analyze("sample_checkpoints/trained.safetensors", heads=4)
    >>> figures.records()[5]["head"], round(figures.records()[5]["logit_bound"], 3)
    (1, 57.987)

    Attributes:
        layers: empty where only values were asked for.
        values: of each layer; empty where they were not asked for.
        sort: the figure by which heads are ranked over all layers, the greatest first.
        top: only so many of them.
    """

    report: Report
    layers: tuple[LayerFigures, ...] = ()
    values: tuple[tuple[Values, ...], ...] = ()
    sort: Column | None = None
    top: int | None = None

    def __repr__(self) -> str:
        heads = sum(len(layer.heads) for layer in self.layers)
        return clean(f"<Analysis of {self.report.checkpoint.path!r}: {len(self.layers)} layers, {heads} heads>")

    def __iter__(self) -> Iterator[LayerFigures]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, place: int) -> LayerFigures:
        return self.layers[place]

    def ranked(self) -> Iterator[tuple[LayerFigures, HeadFigures]]:
        """The heads of all layers by ``sort``, those last that have no such figure; of none, in their order."""
        every = [(layer, head) for layer in self.layers for head in layer.heads]
        sort = self.sort
        if sort is not None:
            every.sort(key=lambda pair: _rank(sort.of(pair[1])))
        yield from every[: self.top]

    def to_dict(self) -> dict[str, object]:
        """The JSON contract: see analysis.schema.json."""
        checkpoint = self.report.checkpoint
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": {"path": checkpoint.path, "format": checkpoint.format, "container": checkpoint.container},
            "layers": [layer.to_dict() for layer in self.layers],
            "values": [
                {"layer": attention.layer, "parts": [one.to_dict() for one in found]}
                for attention, found in zip(self.report.attentions, self.values, strict=True)
            ]
            if self.values
            else [],
            "ranked_by": self.sort.key if self.sort else None,
            "ranked": self._ranking(),
            "findings": [finding.to_dict() for finding in self.report.findings],
        }

    def _ranking(self) -> list[dict[str, object]] | None:
        sort = self.sort
        if sort is None:
            return None
        return [{"layer": layer.layer, "head": head.head, "value": sort.of(head)} for layer, head in self.ranked()]


def _rank(value: float | None) -> tuple[bool, float]:
    return (True, 0.0) if value is None else (False, -value)
