"""Where every tensor of a checkpoint belongs: attention, something else, or not understood."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from math import prod
from typing import TYPE_CHECKING, Literal

from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.names import Names, Path, numberless
from qkvinspect.inspection.undotted import Copies
from qkvinspect.inspection.words import is_no_projection, speaks_of_attention, word_of
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.named_formats import FACTORS
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.inspection.suggest import Suggestion

Status = Literal["attention", "other", "unrecognised"]


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
        from qkvinspect.inspection.suggest import Suggestion, suggested

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
