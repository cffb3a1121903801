"""The names of a checkpoint's tensors, without the components that wrappers add, and lookups below a layer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from functools import cache, cached_property
from itertools import chain, product

from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.components import (
    LIST,
    SEPARATORS,
    VARIABLE_ENDS,
    VARIABLES,
    canonical,
    is_written,
    of_wrapper,
    paths_of,
    split_path,
)
from qkvinspect.inspection.names_by_path import JoinedPaths, Path, TablePaths, names_by_path
from qkvinspect.inspection.words import is_projection
from qkvinspect.late_pattern import late_pattern
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight

_INNER = frozenset({"linear", "conv", "convolution", "c", "proj", "lin", "dense"})
"""Components of a projection that is wrapped in a module of its own: ``q_proj.linear.weight``, ``qkv.conv.weight``.
Such a tensor is found under the shorter name as well."""

_NUMBER = late_pattern(r"(?<=\.)\d{1,9}(?=\.|$)|^\d{1,9}(?=\.|$)|(?<=[A-Za-z_])\d{1,9}(?=\.|$)")
_LEADING = late_pattern(r"\d{1,9}(?=\.|$)")
_WORD = late_pattern(r"[A-Z]?[a-z0-9]+|[A-Z]+")


class NumberPlace(NamedTuple):
    """The rank of a number among all that occur at its place in names, and how many these are."""

    position: int
    of: int


class Names:
    """The weights of a checkpoint by canonical path: their name's components without wrappers.

    Attributes:
        as_written: whether every name is nothing but the components of its path.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        stripped = _paths(weights)
        self._by_path: Mapping[Path, str] = names_by_path(stripped)
        if len(self._by_path) != len(stripped):  # both x and module.x: nothing may be stripped
            stripped = {name: split_path(name.split(".")) for name in stripped}
            self._by_path = names_by_path(stripped)
        self.paths = stripped
        self.as_written = isinstance(self._by_path, JoinedPaths)
        self.aliases: Mapping[Path, str] = {}
        if any(len(path) > 2 and path[-2] in _INNER and self._shorter(path) for path in self.unlike_paths()):
            inner = ((name, path) for name, path in stripped.items() if len(path) > 2 and path[-2] in _INNER)
            self.aliases = {short: name for name, path in inner if (short := self._shorter(path))}
            self._by_path = {**self.aliases, **self._by_path}
        self._by_stack: dict[Path, dict[Path, str]] = {}
        self._by_end: dict[Path, list[tuple[Path, str]]] = {}
        self._unlike: set[tuple[Path, Path]] = set()
        self._anywhere: dict[str, bool] = {}
        self._sorted: list[str] = []
        self._numbers: dict[str, dict[int, int]] = {}
        self._words: frozenset[str] | None = None

    def unlike_paths(self) -> Collection[Path]:
        """Paths that stand for all where the number of a layer says nothing."""
        paths = self.paths
        return (
            [tuple(name.split(".")) for name in paths.table.unlike()]
            if isinstance(paths, TablePaths)
            else paths.values()
        )

    def _shorter(self, path: Path) -> Path | None:
        """The path without the component between a projection and its weight, if it is that of a projection."""
        if not is_projection(path[-3]):
            return None
        short = (*path[:-2], path[-1])
        return None if short in self._by_path else short

    def has(self, key: str, layer: Path) -> bool:
        """Whether there is such a tensor; ``//key`` means anywhere."""
        if not key.startswith("//"):
            return self._name(key, layer) is not None
        return tuple(key[2:].split(".")) in self._all_ends

    def find(self, key: str, layer: Path) -> Weight | None:
        """The tensor called ``key`` below a layer, or None."""
        name = self._name(key, layer)
        return None if name is None else self.weights[name]

    def find_first(self, keys: Iterable[str], layer: Path) -> Weight | None:
        """The first of some tensors that is there, or None."""
        return next(filter(None, (self.find(key, layer) for key in keys)), None)

    def _name(self, key: str, layer: Path) -> str | None:
        if not self.is_anywhere(key):
            return None
        climb, ends = _ends(key)
        if climb:
            if climb > len(layer):
                return None
            layer = layer[:-climb]
        for end in ends:
            name = self._by_path.get(layer + end)
            if name is not None:
                return name
        return None

    def is_anywhere(self, key: str) -> bool:
        """Whether any tensor's name ends so: most keys that are asked for in every layer are in none."""
        known = self._anywhere.get(key)
        if known is None:
            _, ends = _ends(key)
            known = self._anywhere[key] = any(end[-2:] in self._all_ends for end in ends)
        return known

    @cached_property
    def _all_ends(self) -> frozenset[Path]:
        """The last component of every path, and the last two."""
        last_two = {path[-2:] for path in (*self.unlike_paths(), *self.aliases)}
        if isinstance(self.paths, TablePaths):
            last_two.update(self.paths.last_two())
        return frozenset(last_two | {end[-1:] for end in last_two})

    def find_path(self, path: Path) -> Weight | None:
        """The weight of a path, or None."""
        name = self._by_path.get(path)
        return self.weights[name] if name is not None else None

    def all_paths(self) -> Iterable[Path]:
        """Every path under which a weight is found."""
        return self._by_path

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, by its stored name."""
        return self.weights.shape(name)

    def find_in_stack(self, key: str, layer: Path, *, alike: bool = False) -> Weight | None:
        """As ``find``, or else the same tensor of another layer of the same stack.

        Args:
            alike: only where those of all other layers have one shape.
        """
        found = self.find(key, layer)
        if found is not None or not self.is_anywhere(key):
            return found
        climb, ends = _ends(key)
        for end in ends:
            stacks = self._in_stacks(end[-2:])
            if stacks:
                path = numberless(layer[: len(layer) - climb] + end)
                if path in stacks and not (alike and (end[-2:], path) in self._unlike):
                    return self.weights[stacks[path]]
        return None

    def _in_stacks(self, end: Path) -> Mapping[Path, str]:
        """The tensors whose paths end so, by their paths without numbers."""
        if end not in self._by_stack:
            if not self._by_end:
                for path, name in chain(self.aliases.items(), ((path, name) for name, path in self.paths.items())):
                    self._by_end.setdefault(path[-2:], []).append((path, name))
            same = self._by_end.get(end, ())
            if len(end) == 1:
                same = [one for last, held in self._by_end.items() if last[-1:] == end for one in held]
            first: dict[Path, str] = {}
            for path, name in same:
                known = first.setdefault(numberless(path), name)
                if known is not name and self.weights[known].shape != self.weights[name].shape:
                    self._unlike.add((end, numberless(path)))
            self._by_stack[end] = first
        return self._by_stack[end]

    def places(self, layer: str) -> tuple[NumberPlace, ...]:
        """Each number in a layer's name as its place among all numbers that stand there, the outermost first.

        Numbers are components of their own (``layers.3``) or end one (``stage3``); those within a word are part of a
        name and count nothing.
        """
        standing = [(self._counted(layer[: found.start()]), int(found[0])) for found in _NUMBER.finditer(layer)]
        return tuple(NumberPlace(held[number], len(held)) for held, number in standing if number in held)

    def below(self, module: str) -> list[str]:
        """The stored names of tensors below a module, given its stored name."""
        names = self._sorted = self._sorted or sorted(self.paths)
        ends = [(module + sign, module + chr(ord(sign) + 1)) for sign in "./"] if module else [("", chr(0x10FFFF))]
        return [name for start, stop in ends for name in names[bisect_left(names, start) : bisect_left(names, stop)]]

    def _counted(self, prefix: str) -> Mapping[int, int]:
        """The numbers that follow a prefix in any name, each with its place among them.

        Names are sorted, so that all that share a number are stepped over at once: a model has many more tensors
        than layers.
        """
        if prefix not in self._numbers:
            self._sorted = self._sorted or sorted(self.paths)
            names, found = self._sorted, set[int]()
            at, stop = bisect_left(names, f"{prefix}0"), bisect_left(names, f"{prefix}:")
            while at < stop:
                number = _LEADING.match(names[at], len(prefix))
                if number is None:
                    at += 1
                    continue
                found.add(int(number[0]))
                at = bisect_left(names, f"{names[at][: number.end()]}/", at + 1, stop)
            self._numbers[prefix] = {number: place for place, number in enumerate(sorted(found))}
        return self._numbers[prefix]

    @property
    def words(self) -> frozenset[str]:
        """Every word of the tensors' names, in lower case."""
        if self._words is None:
            parts = {part for path in self.paths.values() for part in path}
            self._words = frozenset(word.lower() for part in parts for word in _WORD.findall(part))
        return self._words

    def find_sibling(self, name: str, last: str) -> Weight | None:
        """The weight whose name differs from ``name`` in its last component only."""
        found = self._by_path.get((*self.paths[name][:-1], last)) if len(self.paths[name]) > 1 else None
        return self.weights[found] if found is not None else None

    def stored_layer(self, name: str, components: int) -> str:
        """The stored name without its last ``components`` components, wrappers not counted."""
        parts = SEPARATORS.split(name) if "/" in name else name.split(".")
        path = self.paths[name]
        if LIST in name or (parts[-1] in VARIABLE_ENDS and tuple(parts[-2:]) in VARIABLES):
            home = path[: len(path) - components]
            shortest = next((at for at in range(len(parts)) if canonical(tuple(parts[:at])) == home), len(parts))
            return name[: max(sum(len(part) + 1 for part in parts[:shortest]) - 1, 0)]
        wrapped = len(parts) != len(path)
        length = len(name)
        while components:
            last = parts.pop()
            length -= len(last) + 1
            components -= not (wrapped and of_wrapper(last, parts[-1] if parts else ""))
        return name[: max(length, 0)]


def _paths(weights: Weights) -> Mapping[str, Path]:
    """The paths of all names: of a table those that are asked for, where the names are nothing but their components."""
    table = weights.tensors
    if not isinstance(table, TensorTable) or not table.blocks or weights.encoded or weights.order:
        return paths_of(weights)
    return TablePaths(table) if all(map(is_written, table.unlike())) else paths_of(weights)


def shape_of(weight: Weight, orientation: Orientation) -> tuple[int, int]:
    """(rows, columns) of a weight.

    Raises:
        LayoutError: it has no such form.
    """
    return weight.as_shape(orientation)


def ends_with(layer: Path, context: tuple[Path, ...]) -> bool:
    """Whether a layer's name ends with these components; ``#`` is any number."""
    count = len(context)
    if len(layer) < count:
        return False
    for back in range(1, count + 1):  # a plain loop: asked of every tensor and layout
        part, some = layer[-back], context[-back]
        if part not in some and not ("#" in some and part.isdecimal()):
            return False
    return True


def numberless(path: Path) -> Path:
    """The same for every layer of a stack."""
    return tuple("#" if part.isdecimal() else part for part in path)


@cache
def _ends(key: str) -> tuple[int, tuple[Path, ...]]:
    """(levels to climb, every path that the key stands for)."""
    climb, choices = pattern(key)
    return climb, tuple(product(*choices))


@cache
def pattern(key: str) -> tuple[int, tuple[Path, ...]]:
    """(levels to climb, alternatives of each component)."""
    climb = key.count("../")
    return climb, tuple(tuple(part.split("|")) for part in key.replace("../", "").split("."))
