"""Account for every tensor of a checkpoint: attention, something else, or not understood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Literal

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.names import Names, Path, numberless
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.suggest import row
from qkvinspect.inspection.words import is_output, speaks_of_attention, word_of
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.inspection.candidates import Match

Status = Literal["attention", "other", "unrecognised"]


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """Tensors of one module that look like attention and were not understood.

    Attributes:
        module: its name as stored.
        tensors: those tensors.
        why: what they look like, and what does not fit, as a clause.
    """

    module: str
    tensors: tuple[Weight, ...]
    why: str

    @property
    def suggestion(self) -> str:
        """A ``[[layout]]`` row to complete."""
        return row(self.module, {tensor.name: tensor.shape for tensor in self.tensors})

    def to_dict(self) -> dict[str, object]:
        """For the JSON contract."""
        tensors = {tensor.name: list(tensor.shape) for tensor in self.tensors}
        return {"module": self.module, "why": self.why, "tensors": tensors, "suggestion": self.suggestion}


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
        attention: names of tensors of modules that were found.
        unrecognised: modules that look like attention and were not understood.
    """

    weights: Weights
    attention: Set[str]
    unrecognised: tuple[Unrecognised, ...]

    def statuses(self) -> dict[str, Status]:
        """Where each tensor belongs, in the order of the file."""
        strange = {tensor.name for found in self.unrecognised for tensor in found.tensors}
        return {
            stored: "attention" if name in self.attention else "unrecognised" if name in strange else "other"
            for name in self.weights
            for stored in self._stored(name)
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
        """The names in the file, where a weight is a list of tensors with one for each head."""
        encoded = self.weights.encoded.get(name)
        return (name,) if encoded is None or heads_of(encoded) is None else tuple(one.name for one in encoded.stored)

    def findings(self) -> Iterator[Finding]:
        """Each module that was not understood."""
        for found in self.unrecognised:
            text = f"looks like attention and was not understood: {found.why}"
            yield Finding(FindingCode.UNRECOGNISED_ATTENTION, text, found.module)

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


def _likeness(path: Path, shape: Sequence[int]) -> int:
    """A score of how much it looks like attention. Words count more than shapes, the last words most."""
    said = 4 * any(word_of(part) is not None for part in path[-3:]) + 2 * any(map(speaks_of_attention, path))
    if sum(size > 1 for size in shape) < 2:
        return said - 3
    rows, cols = shape[0], prod(shape[1:])
    return said + (rows == 3 * cols) + (rows == cols)


def account(names: Names, matches: Iterable[Match], split: Iterable[str], left: Sequence[Leftover]) -> Account:
    """Say of every tensor where it belongs.

    Args:
        matches: the modules that were found.
        split: the names of the tensors of those of them that could be split.
        left: what the names' patterns left over.
    """
    places = {match.candidates[0].path for match in matches}
    known = set(split) | {info.name for match in matches for c in match.candidates for info in c.weights}
    told = [path for path in places if any(map(speaks_of_attention, path[-2:]))]
    inside = _inside(names, frozenset(told))
    lone = any(some.lone for some in left)
    above = {path[:size] for path in places for size in range(len(path))} if lone else set[Path]()
    strange = [
        Unrecognised(some.module, tensors, some.why)
        for some in left
        if (tensors := tuple(info for info in some.tensors if info.name not in known))
        and not (some.lone and (some.path in above or all(info.name in inside for info in tensors)))
    ]
    known |= inside  # in place: sets of all tensors take much room
    del inside
    taken = {info.name for found in strange for info in found.tensors}
    strange += list(_by_shape(names, known, taken))
    known.difference_update(info.name for found in strange for info in found.tensors)
    return Account(names.weights, known, tuple(strange))


def _inside(names: Names, places: frozenset[Path]) -> set[str]:
    """The tensors of modules that are attention as a whole: norms, tables, outputs."""
    sizes = sorted({len(path) for path in places})
    return {name for name, path in names.paths.items() for size in sizes if path[:size] in places}


def _by_shape(names: Names, known: Set[str], taken: Set[str]) -> Iterator[Unrecognised]:
    """Modules that are called attention and hold matrices of suitable shapes, under names that say nothing."""
    modules: dict[Path, list[Weight]] = {}
    for name, path in names.paths.items():
        if path[-1] not in LEAVES or name in known or name in taken:
            continue
        place = _attention_above(path)
        if place is not None and _is_matrix(names.shape(name)):
            modules.setdefault(place, []).append(names.weights[name])
    for place, held in modules.items():
        if names.has("sampling_offsets.weight", place):
            continue
        ends = {info.name: names.paths[info.name][-2:] for info in held}
        if why := _looks_like(held, ends) or _query_alone(held, ends):
            stored = names.stored_layer(held[0].name, len(names.paths[held[0].name]) - len(place))
            yield Unrecognised(stored, tuple(held), why)


_SMALL = 8


def _is_matrix(shape: Sequence[int]) -> bool:
    """Whether it is a linear layer or a 1x1 convolution that is not tiny."""
    return len(shape) > 1 and min(shape[:2]) >= _SMALL and prod(shape[2:]) == 1


def _attention_above(path: Path) -> Path | None:
    """The module that is called attention, if the tensor lies directly below it: ``attn.fc.weight``."""
    up = _steps_up(path[-5:])
    return None if up is None else path[:-up]


@lru_cache(1 << 14)
def _steps_up(end: Path) -> int | None:
    """As ``_attention_above``, counted from the end of the path: a list's number goes with its name."""
    for at in (len(end) - 2, len(end) - 3):
        if at > 0 and (speaks_of_attention(end[at - 1]) or (end[at - 1].isdecimal() and at > 1)):
            named = end[at - 1] if not end[at - 1].isdecimal() else end[at - 2]
            return len(end) - at if speaks_of_attention(named) else None
    return None


def _looks_like(held: Sequence[Weight], ends: Mapping[str, Path]) -> str:
    """Why the matrices of a module may be projections; "" where they do not look so."""
    squares = [info.shape[0] for info in held if info.shape[0] == info.shape[1]]
    for info in held:
        rows, cols = info.shape[:2]
        if cols in squares and rows in (3 * cols, cols // 3):
            return (
                f"{'.'.join(ends[info.name])} has three times as many rows as columns and stands beside a square matrix"
            )
    alike: Mapping[int, int] = {size: squares.count(size) for size in squares}
    if max(alike.values(), default=0) >= 3:
        return f"{max(alike.values())} square matrices of one size, and no names that say which is Q, K and V"
    return ""


def _query_alone(held: Sequence[Weight], ends: Mapping[str, Path]) -> str:
    """Why a query projection and the way back out of it are attention, whose K and V lie elsewhere; "" if not."""
    named = [(ends[info.name][0], info) for info in held]
    queries = [info for name, info in named if (word := word_of(name)) is not None and word.parts == "q"]
    outputs = [info.shape[:2] for name, info in named if is_output(name)]
    if len(queries) == 1 and queries[0].shape[:2][::-1] in outputs:
        said = ".".join(ends[queries[0].name])
        return f"q alone: {said} beside an output, so that K and V may be those of another layer"
    return ""
