"""The blocks of a stack that are alike, so that what was found in the first of them holds in all.

A *block* is what lies below the first number in names: ``encoder.layers.3``. It *repeats* an earlier one of its stack
if both hold the same names with the same shapes and dtypes, in the same order. A model of ten thousand layers has one
or two blocks that differ, and looking for attention in each would take most of the time of a short command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache

from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.names_by_path import TablePaths
from qkvinspect.inspection.renamed import FirstBlock, Renamed
from qkvinspect.inspection.words import speaks_of_attention, word_of
from qkvinspect.tensor_table import NamedBlock, TensorTable
from qkvinspect.weights.head_list import heads_of

_Stretch = tuple[Path, Sequence[str], Sequence[int], Sequence[NamedBlock]]
"""A block; names in it; what is the same of each in blocks that are alike; others that are nothing else."""


class Repeats:
    """Which blocks of a checkpoint repeat which.

    Attributes:
        firsts: the path of each tensor but those of blocks that repeat another, by stored name.
    """

    firsts: Mapping[str, Path]

    def __init__(self, names: Names, *, compare: bool = True) -> None:
        """Compare the blocks, or, where ``compare`` is false, take none for alike."""
        self._names = names
        self._held: dict[Path, Sequence[str]] = {}
        self._of: dict[Path, list[Sequence[str]]] = {}
        self._again: set[Path] = set()
        self._blocks: dict[str, NamedBlock] = {}  # others that repeat one, by what their names begin with
        self.firsts = names.paths
        if compare:
            self._compare()

    def _compare(self) -> None:
        kinds: dict[Path, Sequence[int]] = {}
        more: dict[Path, Sequence[NamedBlock]] = {}
        for block, some, kind, others in self._stretches():
            known = self._held.setdefault(block, some)
            if known is some:
                kinds[block] = kind
                if others:
                    more[block] = others
            elif block:
                own = kinds[block]
                if not isinstance(known, list) or not isinstance(own, list):
                    self._held[block], kinds[block] = known, own = [*known], [*own]
                known.extend(some)
                own.extend(kind)
        self._held.pop((), None)
        first: dict[tuple[Path, tuple[int, ...]], Path] = {}
        for block, kind in kinds.items():
            one = first.setdefault((block[:-1], tuple(kind)), block)
            others = more.get(block, ())
            if one is not block:
                self._again.add(block)
                self._of.setdefault(one, []).append(self._held[block])
            if others:
                self._of.setdefault(one, []).extend(others)
                self._blocks.update({other.begin: other for other in others})
        if self._of:
            self.firsts = dict(self._outside(self._again))

    def _stretches(self) -> Iterator[_Stretch]:
        """Names that stand together in the file and lie in one block, () where in none; of blocks that are held as
        such and are alike, those of the first.
        """
        numbers: dict[object, int] = {}
        found: list[_Stretch | list[NamedBlock]] = []
        mixed: set[str] = set()
        for part in _parts(self._names):
            last = found[-1] if found else None
            if not isinstance(part, NamedBlock):
                some = [*self._of_names(part, numbers)]
                mixed.update(".".join(block) for block, _, _, _ in some)
                found += some
            elif isinstance(last, list) and last[0].form is part.form:
                last.append(part)
            else:
                found.append([part])
        for some in found:
            if not isinstance(some, list):
                yield some
                continue
            stack = tuple(some[0].form.stack.split(".")[:-1])
            first = [*self._of_names(_with_paths(some[0]), numbers)]
            alone = [block for block in some if block.begin in mixed] if stack and first[0][0][:-1] == stack else some
            alike = [block for block in some if block.begin not in mixed] if alone is not some else []
            if alike:
                yield (*stack, alike[0].begin[len(some[0].form.stack) :]), alike[0], first[0][2], alike[1:]
            for block in alone:
                yield from self._of_names(_with_paths(block), numbers)

    def _of_names(self, names: Iterable[tuple[str, Path]], numbers: dict[object, int]) -> Iterator[_Stretch]:
        """The same, of names with their paths.

        Args:
            numbers: one for all that was the same so far.
        """
        weights = self._names.weights
        table = weights.tensors if isinstance(weights.tensors, TensorTable) and not weights.encoded else None
        block, size = (), 0
        kind, held = list[int](), list[str]()
        for name, path in names:
            if not size or path[:size] != block:  # neighbours mostly share a block
                if held:
                    yield block, held, kind, ()
                at = _first_number(path)
                size = at + 1 if at > 0 and _holds_layers(path[:at]) else 0
                block, kind, held = path[:size], [], []
            alike = self._kind(name) if table is None else table.kind_number(name)
            kind.append(numbers.setdefault((path[size:], alike), len(numbers)))
            held.append(name)
        if held:
            yield block, held, kind, ()

    def _outside(self, again: Set[Path]) -> Iterator[tuple[str, Path]]:
        """What is in none of some blocks: a set of the names that are would take as much room as a table of all."""
        sizes = {len(block) for block in again}
        begins = self._blocks.keys() | set(map(".".join, again))
        for part in _parts(self._names):
            if isinstance(part, NamedBlock) and part.begin in begins:
                continue
            if isinstance(part, NamedBlock):
                part = _with_paths(part)  # noqa: PLW2901
            block, within = (), False
            for name, path in part:
                if not within or path[: len(block)] != block:  # neighbours mostly share a block
                    block = next((path[:size] for size in sizes if path[:size] in again), ())
                    within = bool(block)
                if not within:
                    yield name, path

    def _kind(self, name: str) -> object:
        """What must be the same of two tensors; its own name for one that is not plain numbers."""
        tensors, encoded = self._names.weights.tensors, self._names.weights.encoded.get(name)
        if encoded is None and isinstance(tensors, TensorTable):
            number = tensors.kind_number(name)
            return name if number is None else number
        info = tensors.get(name)
        heads = None if encoded is None else heads_of(encoded)
        if encoded is not None and heads is not None:
            info = encoded.stored[0]
        elif info is None or encoded is not None:
            return name
        return heads, info.shape, info.strides, info.dtype.name, info.byteorder

    def block(self, path: Path) -> Path:
        """The block that holds a path, if others repeat it; else ()."""
        block = path[: _first_number(path) + 1]
        return block if block in self._of else ()

    def block_of(self, name: str) -> Path:
        """The same for a tensor."""
        return self.block(self._names.paths[name])

    def begins(self, path: Path) -> str:
        """The first tensor of the block that holds a path, if it repeats another or others repeat it; else ""."""
        block = path[: _first_number(path) + 1]
        if block in self._of or block in self._again:
            return self._held[block][0]
        held = self._blocks.get(".".join(block))
        return "" if held is None else held[0]

    def repeated(self) -> Iterator[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        """What each block holds that others repeat, and what these hold."""
        for first, others in self._of.items():
            yield self._held[first], others

    def times(self, block: Path) -> int:
        """How many blocks repeat one."""
        return len(self._of.get(block, ()))

    def without_likes(self, known: Set[str], taken: Set[str], *, alike: bool = False) -> Mapping[str, Path]:
        """Tensors in neither set, but for those of a block of which the block that it repeats has the like.

        Nothing that depends on names and shapes within a module is in the block if it is not in that one; blocks with
        tensors that lie in no module of their own are left as they are.

        Args:
            alike: whether the sets stand for the likes of what is in them as well.
        """
        paths = self._names.paths
        found = {name: path for name, path in self.firsts.items() if name not in known and name not in taken}
        for first, others in self._of.items():
            held = self._held[first]
            free = [place for place, name in enumerate(held) if name in found]
            within = all(len(paths[held[place]]) > len(first) + 1 for place in free)
            if alike:
                likes = (held[place] for held in (() if within else others) for place in free)
                found |= {name: paths[name] for name in likes}
                continue
            of_first = [list(map(some.__contains__, held)) for some in (known, taken)]
            for held in others:
                if not within or [list(map(some.__contains__, held)) for some in (known, taken)] != of_first:
                    found |= {name: paths[name] for name in held if name not in known and name not in taken}
        return found

    def others(self, block: Path) -> Sequence[Renamed]:
        """How what is in a block is called in each that repeats it."""
        places = {name: place for place, name in enumerate(self._held.get(block, ()))}
        first = FirstBlock(self._names.weights, block, places, self._names.paths, self._names.as_written)
        return [Renamed(first, held) for held in self._of.get(block, ())]


def _parts(names: Names) -> Iterable[NamedBlock | Iterable[tuple[str, Path]]]:
    """The names in the order of the file, those of a table in its blocks; others with their paths."""
    paths = names.paths
    if not isinstance(paths, TablePaths):
        return [paths.items()]
    parts = paths.table.parts()
    return (part if isinstance(part, NamedBlock) else _with_paths([name for name, _ in part]) for part in parts)


def _with_paths(names: Iterable[str]) -> list[tuple[str, Path]]:
    return [(name, tuple(name.split("."))) for name in names]


def _first_number(path: Path) -> int:
    for at, part in enumerate(path):
        if part.isdecimal():
            return at
    return -1


@lru_cache(1 << 12)
def _holds_layers(stack: Path) -> bool:
    """Whether the numbers that follow may be those of layers: not where they count the heads or matrices of one."""
    return not any(speaks_of_attention(part) or word_of(part) or "head" in part.lower() for part in stack)
