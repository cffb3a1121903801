"""The norms of modules whose weights are small: those of many are read and summed together.

A weight of some kilobytes takes several times as long to be described, cut into tiles and added up as to be summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, repeat
from math import sqrt
from typing import NamedTuple

from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.repeated import Figures, RepeatedAttention, Some, some_of, with_norms
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.weights.many_small import SmallForm, SmallForms, Squares, squares_of_columns
from qkvinspect.weights.weight import Weight


class NormOf(NamedTuple):
    """Which rows of which weight a norm is of."""

    weight: int
    runs: tuple[slice, ...]


class Reading(NamedTuple):
    """What is read of a module, and of all that repeat it.

    Attributes:
        taken: gives the names of the weights and biases, of those of the block of a module that repeats another.
        norms: what each of the ``Figures`` is the norm of.
    """

    names: tuple[str, ...]
    taken: Some | None
    forms: tuple[SmallForm, ...]
    norms: tuple[NormOf | None, ...]

    @property
    def nbytes(self) -> int:
        return sum(form.nbytes for form in self.forms)

    def names_of(self, one: Attention) -> tuple[str, ...]:
        """Those names of a module."""
        if self.taken is not None and isinstance(one, RepeatedAttention):
            return self.taken(one.renamed.held)
        return self.names


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
            self._known[key] = first and first._replace(taken=some_of(places))
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
            return NormOf(places[weight.name], tuple([slice(run.start, run.stop, run.step) for run in runs]))

        wholes = [norm(part.weight, part.rows) for part in parts]
        biases = [norm(part.bias, part.bias_heads) for part in parts]
        heads = [norm(part.weight, (run,)) for part in parts if not part.weight.no_values for run in part.heads]
        return Reading(tuple(read), None, known, (*wholes, *biases, *heads))


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
    named = zip(*map(reading.names_of, modules), strict=True)
    starts = [form.table.starts(names) for form, names in zip(reading.forms, named, strict=True)]
    own = squares_of_columns([*zip(reading.forms, starts, strict=True)])
    fine = [None not in some for some in zip(*own, strict=True)]
    columns = [[rows for rows in compress(column, fine) if rows is not None] for column in own]
    figures = zip(*(_norms(columns, of, sum(fine)) for of in reading.norms), strict=True)
    for one, is_fine in zip(modules, fine, strict=True):
        yield _with(one, next(figures)) if is_fine else None


def _norms(columns: Sequence[Sequence[Squares]], of: NormOf | None, count: int) -> Iterable[float | None]:
    """One norm of each module.

    Args:
        columns: of each weight, what each module has of it.
    """
    if of is None:
        return repeat(None, count)
    if len(of.runs) == 1:
        run = of.runs[0]
        return [sqrt(sum(rows[run], 0.0)) for rows in columns[of.weight]]
    return [_norm(rows, of.runs) for rows in columns[of.weight]]


def _norm(rows: Sequence[float], runs: Sequence[slice]) -> float:
    squares = 0.0
    for run in runs:
        squares += sum(rows[run], 0.0)
    return sqrt(squares)


def _with(one: Attention, figures: Figures) -> Attention:
    if isinstance(one, RepeatedAttention):
        return one.stack.attention(one.layer, one.renamed, figures)
    return replace(one, parts=tuple(with_norms(one.parts, figures)))
