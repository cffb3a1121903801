"""Account for every tensor of a checkpoint: attention, something else, or not understood."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from math import prod
from typing import TYPE_CHECKING, Literal

from qkvinspect.fast_dataclass import dataclass, field, replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.look_alikes import looking_alike
from qkvinspect.inspection.mixing import mixing_tokens
from qkvinspect.inspection.names import Names, Path, numberless
from qkvinspect.inspection.suggest import Suggestion, suggested
from qkvinspect.inspection.unclaimed import Unclaimed, unclaimed
from qkvinspect.inspection.undotted import Copies, copies, undotted
from qkvinspect.inspection.words import is_no_projection, speaks_of_attention, word_of
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.named_formats import FACTORS
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.inspection.candidates import Candidate, Match
    from qkvinspect.inspection.repeats import Repeats

Status = Literal["attention", "other", "unrecognised"]


_UNDOTTED = "a row looks for names with dots: load the weights under the names of the model, and save those"


_NAMED = "its names say already what it is, and its shapes are others"


def _of_an_adapter(name: str) -> bool:
    """Whether it is a factor of an adapter, which no row can describe."""
    return not FACTORS.keys().isdisjoint(name.split(".")[-2:])


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """Tensors of one module that look like attention and were not understood.

    Attributes:
        module: its name as stored.
        tensors: those tensors.
        why: what they look like, and what does not fit, as a clause.
        names: all of the checkpoint.
        without_row: why no row of settings can say what they are, where what found them knows; "" where one may.
        incomplete: whether other layers of its stack have what it lacks: then the file is damaged.
        mixed: whether others of its stack are found, which a row for all would take as well.
        told: whether a finding says already why it is left out.
    """

    module: str
    tensors: tuple[Weight, ...]
    why: str
    names: Names = field(repr=False)
    without_row: str = ""
    incomplete: bool = False
    mixed: bool = False
    told: bool = False

    @property
    def suggestion(self) -> str:
        """A ``[[layout]]`` row to complete; "" where none can say what they are."""
        return self._row_or_why_not.row

    @property
    def no_row(self) -> str:
        """Why no row can say what they are, and what to do instead; "" where one can."""
        return self._row_or_why_not.why_not

    @property
    def _row_or_why_not(self) -> Suggestion:
        if self.without_row:
            return Suggestion("", self.without_row)
        if any(_of_an_adapter(tensor.name) for tensor in self.tensors):
            return Suggestion("", "these are factors of an adapter: inspect it beside its base, or merge it first")
        own = {tensor.name: tensor.shape for tensor in self.tensors}
        beside = {name: self.names.shape(name) for name in self._beside() if name not in own}
        return suggested(self.module, own, beside, mixed=self.mixed)

    def _beside(self) -> Iterator[str]:
        """The other matrices of the module, which may be what is missing."""
        count = len(self.names.paths[self.tensors[0].name])
        for name in self.names.below(self.module):
            path = self.names.paths[name]
            if len(path) <= count and len(self.names.shape(name)) > 1 and not any(map(is_no_projection, path[-2:])):
                yield name

    def to_dict(self) -> dict[str, object]:
        """For the JSON contract."""
        tensors = {tensor.name: list(tensor.shape) for tensor in self.tensors}
        told = self._row_or_why_not
        return {
            "module": self.module,
            "why": self.why,
            "tensors": tensors,
            "suggestion": told.row,
            "no_row": told.why_not,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one shape whose names differ in numbers only.

    Attributes:
        name: with ``#`` for each number.
        likeness: how much it looks like attention; more is nearer.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    likeness: int


@dataclass(frozen=True, slots=True)
class Account:
    """Where every tensor belongs.

    Attributes:
        weights: all of the checkpoint, and not their names' paths, which would take as much room as all layers.
        tensors: those of the file, of which the weights are made.
        attention: names of tensors of modules that were found.
        unrecognised: modules that look like attention and were not understood.
        copies: projections that are there a second time under names without dots.
    """

    weights: Weights
    tensors: Collection[str]
    attention: Set[str]
    unrecognised: tuple[Unrecognised, ...]
    copies: tuple[Copies, ...] = ()

    def statuses(self) -> dict[str, Status]:
        """Where each weight belongs, and each tensor of a list of heads, in the order of the file."""
        strange = {tensor.name for found in self.unrecognised for tensor in found.tensors}
        return {
            one: "attention" if name in self.attention else "unrecognised" if name in strange else "other"
            for name in self.weights
            for one in (self._stored(name) if _is_list(self.weights.encoded.get(name)) else (name,))
        }

    def counts(self) -> dict[Status, int]:
        """How many tensors belong where."""
        strange = {tensor.name for found in self.unrecognised for tensor in found.tensors}
        lists = {name: more for name in self.weights if (more := len(self._stored(name)) - 1)}
        attention, unknown = (
            len(some) + sum(more for name, more in lists.items() if name in some) for some in (self.attention, strange)
        )
        total = sum(1 for _ in self.weights) + sum(lists.values())
        return {"attention": attention, "other": total - attention - unknown, "unrecognised": unknown}

    def _stored(self, name: str) -> tuple[str, ...]:
        """The names in the file of what a weight is made of: heads of a list, factors, codes and scales."""
        encoded = self.weights.encoded.get(name)
        if encoded is None:
            return (name,)
        return tuple(one.name for one in encoded.stored if one.name in self.tensors) or (name,)

    def findings(self) -> Iterator[Finding]:
        """Each module that was not understood."""
        for found in self.unrecognised:
            if found.told:
                continue
            code = FindingCode.MISSING_PROJECTION if found.incomplete else FindingCode.UNRECOGNISED_ATTENTION
            yield Finding(code, f"looks like attention and was not understood: {found.why}", found.module)

    def groups(self) -> list[Group]:
        """All tensors, similar ones together, those that look most like attention first."""
        counted: dict[tuple[str, tuple[int, ...]], list[Path]] = {}
        names = Names(self.weights)
        for name, path in names.paths.items():
            key = ".".join(numberless(path)), names.shape(name)
            counted.setdefault(key, []).append(path)
        groups = [
            Group(name, shape, len(paths), _likeness(paths[0], shape)) for (name, shape), paths in counted.items()
        ]
        return sorted(groups, key=lambda group: -group.likeness)


def _is_list(encoded: Weight | None) -> bool:
    return encoded is not None and heads_of(encoded) is not None


def _likeness(path: Path, shape: Sequence[int]) -> int:
    """A score of how much it looks like attention. Words count more than shapes, the last words most."""
    said = 4 * any(word_of(part) is not None for part in path[-3:]) + 2 * any(map(speaks_of_attention, path))
    if sum(size > 1 for size in shape) < 2:
        return said - 3
    rows, cols = shape[0], prod(shape[1:])
    return said + (rows == 3 * cols) + (rows == cols)


def account(
    names: Names,
    stored: Collection[str],
    repeats: Repeats,
    matches: Iterable[Match],
    split: Iterable[str],
    left: Sequence[Leftover],
    said: Iterable[str] = (),
    left_out: Iterable[tuple[Candidate, str]] = (),
) -> Account:
    """Say of every tensor where it belongs.

    Args:
        stored: the names in the file.
        repeats: which blocks are alike.
        matches: the modules that were found.
        split: the names of the tensors of those of them that could be split.
        left: what the names' patterns left over.
        said: modules of which something is said already.
        left_out: modules that were found and are not shown, each with the reason, which a finding says.
    """
    places = {match.path for match in matches}
    known = set(split).union(*(match.names for match in matches))
    told = [path for path in places if any(map(speaks_of_attention, path[:-3:-1]))]  # the last first, no number mostly
    inside = _inside(names, frozenset(told))
    lone = any(some.lone for some in left)
    above = {path[:size] for path in places for size in range(len(path))} if lone else set[Path]()
    kinds = {numberless(path) for path in places} if left else set[Path]()
    stacks = {
        numberless(c.path): {numberless(names.paths[w.name]) for w in c.weights if w.name in names.paths}
        for match in (matches if lone else ())
        for c in match.candidates
    }
    strange = [
        _incomplete(
            Unrecognised(some.module, tensors, some.why, names, some.no_row, mixed=numberless(some.path) in kinds),
            stacks.get(numberless(some.path)),
        )
        for some in left
        if (tensors := tuple(info for info in some.tensors if info.name not in known))
        and not (some.lone and (some.path in above or all(info.name in inside for info in tensors)))
    ]
    strange += [Unrecognised(one.layer, one.weights, why, names, _NAMED, told=True) for one, why in left_out]
    known |= inside  # in place: sets of all tensors take much room
    del inside
    taken = {info.name for found in strange for info in found.tensors}
    twice: Sequence[Copies] = ()
    first = unclaimed(names, repeats.without_likes(known, taken))
    if first.undotted or any(_looked_for(names, first)):
        free = unclaimed(names, names.paths, known, taken)
        twice = copies(names, free.undotted)
        strange += _looked_for(names, free, {found.module for found in strange}.union(said), twice)
    known.difference_update(info.name for found in strange for info in found.tensors)
    return Account(names.weights, stored, known, tuple(strange), tuple(twice))


def _looked_for(
    names: Names, free: Unclaimed, told_of: Set[str] = frozenset(), twice: Sequence[Copies] = ()
) -> Iterator[Unrecognised]:
    """What looks like attention among tensors that nobody knows.

    Args:
        told_of: modules of which something is said already.
        twice: what is kept under other names as well.
    """
    taken: set[str] = set()
    for found in looking_alike(names, free.called):
        if not any(module in told_of for module in (found[0], re.sub(r"[./][^./]*$", "", found[0]))):
            taken.update(info.name for info in found[1])
            yield Unrecognised(*found, names)
    for found in mixing_tokens(names, free.mixing, taken):
        taken.update(info.name for info in found[1])
        yield Unrecognised(*found, names)
    taken.update(name for some in twice for name in some.tensors)
    for found in undotted(names, free.undotted, taken):
        yield Unrecognised(*found, names, _UNDOTTED)


def _incomplete(found: Unrecognised, complete: Set[Path] | None) -> Unrecognised:
    """The module, marked where its like in other layers has more projections, these among them.

    Args:
        complete: the numberless paths of the projections of its like in other layers; None where there is none.
    """
    own = {numberless(found.names.paths[tensor.name]) for tensor in found.tensors}
    if complete is None or not own < complete or len(own) < 2:  # Q alone may use keys and values of another layer
        return found
    lost = " and ".join(sorted(".".join(path[-2:]) for path in complete - own))
    return replace(found, why=f"other layers of its stack have {lost} as well: {found.why}", incomplete=True)


def _inside(names: Names, places: frozenset[Path]) -> set[str]:
    """The tensors of modules that are attention as a whole: norms, tables, outputs."""
    sizes = sorted({len(path) for path in places})
    return {name for name, path in names.paths.items() for size in sizes if path[:size] in places}
