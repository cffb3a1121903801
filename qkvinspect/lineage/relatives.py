"""A checkpoint as lineage sees it: the layers whose heads can be compared, and what was read of them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qkvinspect.inspection.report import Attention, Report
from qkvinspect.lineage.head_circuits import Signatures, signatures
from qkvinspect.lineage.numbering import SUSPICIOUS, UnitNumbering
from qkvinspect.lineage.sampled_heads import SampledHeads, cannot_compare, residual_width, sampled
from qkvinspect.lineage.units import Units, choose


@dataclass(frozen=True, slots=True)
class Relative:
    """One of the checkpoints, which must still be open.

    Attributes:
        layers: those that can be compared: most of its layers read a stream of one width.
        left_out: the other layers, each with the reason.
        units: None where no layer can be compared.
        signatures: of each layer.
        numbered: whether the units of its residual stream are numbered by something that is no chance.
    """

    report: Report
    layers: tuple[Attention, ...]
    left_out: tuple[tuple[str, str], ...]
    units: Units | None
    signatures: Sequence[Signatures] = field(repr=False)
    numbered: bool

    @property
    def path(self) -> str:
        return self.report.checkpoint.path

    def read(self, layer: int) -> SampledHeads:
        """A layer at the units.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        assert self.units is not None
        return sampled(self.layers[layer], self.units)


def comparable(report: Report) -> tuple[tuple[Attention, ...], tuple[tuple[str, str], ...]]:
    """The layers that can be compared, and the others with the reason."""
    reasons = [cannot_compare(one) for one in report.attentions]
    widths = Counter(residual_width(one) for one, why in zip(report.attentions, reasons, strict=True) if not why)
    usual = widths.most_common(1)[0][0] if widths else None
    kept: list[Attention] = []
    left: list[tuple[str, str]] = []
    for one, reason in zip(report.attentions, reasons, strict=True):
        if reason:
            left.append((one.layer, reason))
        elif residual_width(one) != usual:
            left.append((one.layer, f"its stream is {residual_width(one)} wide, and that of most layers {usual}"))
        else:
            kept.append(one)
    return tuple(kept), tuple(left)


def read_once(
    report: Report,
    layers: Sequence[Attention],
    without: tuple[tuple[str, str], ...],
    advance: Callable[[int], None],
) -> Relative:
    """Read a checkpoint once, layer by layer.

    Args:
        layers, without: as ``comparable`` gives them.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if not layers:
        return Relative(report, (), without, None, (), numbered=False)
    units = choose(residual_width(layers[0]))
    numbering = UnitNumbering(len(units.basis), len(units.tested))
    found: list[Signatures] = []
    usable: list[Attention] = []
    left = list(without)
    for layer in layers:
        heads = sampled(layer, units)
        advance(nbytes(layer))
        if heads.unusable:
            left.append((layer.layer, heads.unusable))
            continue
        numbering.add(heads)
        usable.append(layer)
        found.append(signatures(heads, len(units.basis)))
    numbered = numbering.p_value() <= SUSPICIOUS
    return Relative(report, tuple(usable), tuple(left), units if usable else None, tuple(found), numbered)


def nbytes(layer: Attention) -> int:
    """Of what is read of a layer."""
    output = layer.output.weight.nbytes if layer.output is not None else 0
    return sum(weight.nbytes for weight in layer.weights) + output
