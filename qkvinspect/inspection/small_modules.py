"""The norms of modules whose weights are small: those of many are read and summed together.

A weight of some kilobytes takes several times as long to be described, cut into tiles and added up as to be summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.repeated import FiguresOfMany, RepeatedAttention, with_norms
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.tensor_table import BITS, NamedBlock
from qkvinspect.weights.many_small import SmallForm, SmallForms, squares_of_columns
from qkvinspect.weights.weight import Weight


class NormOf(NamedTuple):
    """Which rows of which weight a norm is of."""

    weight: int
    runs: tuple[range, ...]


class Reading(NamedTuple):
    """What is read of a module, and of all that repeat it.

    Attributes:
        places: of the weights and biases, among what is in the block of a module that repeats another.
        norms: what each of the ``Figures`` is the norm of.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    forms: tuple[SmallForm, ...]
    norms: tuple[NormOf | None, ...]
    nbytes: int

    def starts(self, modules: Sequence[Attention]) -> list[list[int]]:
        """Where each weight and bias begins in the file, of each module."""
        blocks = [one.renamed.held for one in modules if isinstance(one, RepeatedAttention)]
        known = [block for block in blocks if isinstance(block, NamedBlock)]
        if len(known) == len(modules) and len({id(block.form) for block in known}) == 1:
            within, bases = known[0].form.places, [block.base for block in known]
            return [[base + start >> BITS for base in bases] for start in map(within.__getitem__, self.places)]
        held = [self.names] if not blocks else [[block[place] for place in self.places] for block in blocks]
        return [form.table.starts(names) for form, names in zip(self.forms, zip(*held, strict=True), strict=True)]


class SmallModules:
    """Tells which modules are such, by what is known of those that they repeat."""

    def __init__(self) -> None:
        self._forms = SmallForms()
        self._known: dict[int, Reading | None] = {}

    def reading(self, one: Attention) -> Reading | None:
        """What is read of a module; None where nothing is, or some of it is not small."""
        if not isinstance(one, RepeatedAttention):
            return self._of(one.parts)
        key = id(one.stack)
        if key not in self._known:
            first = self._of(one.stack.first.parts)
            places = () if first is None else [one.renamed.place(name) for name in first.names]
            self._known[key] = first and first._replace(places=tuple(places))
        return self._known[key]

    def _of(self, parts: Sequence[Part]) -> Reading | None:
        read = {one[0].name: one for part in parts for one in read_for(part)}
        forms = [self._forms.of(*one) for one in read.values()]
        known = tuple([form for form in forms if form is not None])
        if not forms or len(known) < len(forms) or any(form.table is not known[0].table for form in known):
            return None
        places = {name: place for place, name in enumerate(read)}

        def norm(weight: Weight | None, runs: Sequence[range]) -> NormOf | None:
            if weight is None or weight.no_values:
                return None
            return NormOf(places[weight.name], tuple(runs))

        wholes = [norm(part.weight, part.rows) for part in parts]
        biases = [norm(part.bias, part.bias_heads) for part in parts]
        heads = [norm(part.weight, (run,)) for part in parts if not part.weight.no_values for run in part.heads]
        return Reading(tuple(read), (), known, (*wholes, *biases, *heads), sum(form.nbytes for form in known))


def read_for(part: Part) -> Iterator[tuple[Weight, Orientation]]:
    """What is read for the norms of a part."""
    if not part.weight.no_values:
        yield part.weight, part.orientation
    if part.bias is not None and not part.bias.no_values:
        yield part.bias, "out_in"


def measured_together(modules: Sequence[Attention], reading: Reading) -> Iterator[Attention | None]:
    """Modules that are alike with their norms; None for one that must be looked at alone.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    own = squares_of_columns([*zip(reading.forms, reading.starts(modules), strict=True)])
    odd = set[int]().union(*(squares.odd for squares in own))
    figures = FiguresOfMany([None if of is None else own[of.weight].sums(of.runs) for of in reading.norms])
    for place, one in enumerate(modules):
        yield None if place in odd else _with(one, figures, place)


def _with(one: Attention, figures: FiguresOfMany, place: int) -> Attention:
    if isinstance(one, RepeatedAttention):
        return one.stack.attention(one.layer, one.renamed, figures, place)
    return replace(one, parts=tuple(with_norms(one.parts, figures.of(place))))
