"""Which key of a config gives the heads of which module: change one key, build again, see what moved."""

from __future__ import annotations

import copy
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.tables.transformers_models import Numbers

PATIENCE = 6
"""Seconds of computing for the keys whose names do not look like heads, where no other key moves a module's."""
KEYS = re.compile(r"head|group|kv|key|query|attn|attention|width|ratio|num_att|dim_k", re.IGNORECASE)
NUMBERS = ("heads", "kv_heads", "head_dim")
Path = tuple[str | int, ...]
Keys = tuple[Path, Path, Path, Path | str]
"""What was seen to give a module's heads, kv heads and width of a head, and what divides the first."""
Answer = tuple[str, str, str, str]
"""The keys of the number of heads, of kv heads, of the width of a head, and what the first is divided by."""


@dataclass(frozen=True)
class Moved:
    """A key that moved a number, and how.

    Attributes:
        how: "equal" to the key, "times" (in proportion to it), "inverse", or "otherwise".
        over: for "times" and "inverse", the key's value over the number.
        shapes: the shapes of the projections changed as well.
        free: the key was None: the class computes the number only where it is not given.
    """

    key: Path
    how: str
    over: float = 1.0
    shapes: bool = False
    free: bool = False


def keys(config: Any, named: Callable[[str], object], path: Path = ()) -> Iterator[tuple[Path, int | None]]:
    """Every count of the config's tree with such a name, an entry of a list by itself, and every key that is None."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(config, dict):
        items = config.items()
    elif isinstance(config, list) and len(config) <= 64:
        items = enumerate(config)
    for name, value in items:
        here = (*path, name)
        if isinstance(value, (dict, list)):
            yield from keys(value, named, here)
            continue
        key = next((str(part) for part in reversed(here) if isinstance(part, str)), "")
        if named(key) and (value is None or (type(value) is int and 0 < value < 65_536)):
            yield here, value


def changed(config: Mapping[str, Any], path: Path, value: int) -> dict[str, Any]:
    result = copy.deepcopy(dict(config))
    place: Any = result
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return result


def tries(value: int | None, known: set[Numbers]) -> list[int]:
    """Other values for a key: divisors and multiples of what it is; where it is None, of what the modules have."""
    if value is None:
        counts = {n for numbers in known for n in (numbers.heads, numbers.kv_heads, numbers.head_dim) if n}
        return sorted({n // 2 for n in counts if n % 2 == 0} | {2 * n for n in counts}, reverse=True)[:10]
    found = [value // 2, 2 * value, value // 4, 4 * value, 1, value // 3, 3 * value]
    divides = [value % 2 == 0, True, value % 4 == 0, True, value > 1, value % 3 == 0, True]
    return list(dict.fromkeys(n for n, fine in zip(found, divides, strict=True) if fine and n > 0))


def how(key: Path, before: int | None, after: int | None, old: int | None, new: int) -> Moved | None:
    """What a change of a key from ``old`` to ``new`` did to a number of a module."""
    if before == after or before is None or after is None:
        return None
    if after == new and old in (before, None):
        return Moved(key, "equal", free=old is None)
    if old is None:
        return Moved(key, "otherwise")
    if after * old == before * new:
        return Moved(key, "times", old / before)
    if after * new == before * old:
        return Moved(key, "inverse", old / before)
    return Moved(key, "otherwise")


def without(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    result = copy.deepcopy(dict(config))
    place: Any = result
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    return result


class Experiment:
    """What every key of a config does to the modules of one class.

    Args:
        measure: builds the model of these values; None where it does not build.
    """

    def __init__(
        self, config: Mapping[str, Any], measure: Callable[[Mapping[str, Any]], dict[str, Numbers] | None]
    ) -> None:
        self.config, self.measure = config, measure
        self.base = measure(config) or {}
        self.found: dict[str, dict[str, list[Moved]]] = {path: {n: [] for n in NUMBERS} for path in self.base}

    def run(self) -> dict[str, dict[str, list[Moved]]]:
        """For each module and each of its numbers, the keys that moved it, in the same way whenever they did."""
        mine = list(keys(self.config, KEYS.search))
        for key, old in mine:
            if not self.change(key, old, self.config):
                self.change_with_another(key, old, [other for other, _ in mine])
        start = time.process_time()
        if any(self.base[path].heads and not moved["heads"] for path, moved in self.found.items()):
            for key, old in keys(self.config, lambda name: not KEYS.search(name)):
                if old is not None and time.process_time() - start < PATIENCE:
                    self.change(key, old, self.config)
        return self.found

    def change_with_another(self, key: Path, old: int | None, others: list[Path]) -> None:
        """A key that may not change alone (a width that is checked against it): the other is left to its default."""
        for other in others:
            if other != key and other[:-1] == key[:-1] and isinstance(other[-1], str):
                rest = without(self.config, other)
                if self.measure(rest) == self.base and self.change(key, old, rest):
                    return

    def change(self, key: Path, old: int | None, config: Mapping[str, Any]) -> bool:
        """Try some other values; whether one of them built."""
        seen: dict[tuple[str, str], set[Moved]] = defaultdict(set)
        built = 0
        for new in tries(old, set(self.base.values())):
            other = self.measure(changed(config, key, new))
            if other is not None:
                built += 1
                self.compare(key, old, new, other, seen)
            if built == 2 + (old is None):
                break
        for (path, name), ways in seen.items():
            self.found[path][name].append(ways.pop() if len(ways) == 1 else Moved(key, "otherwise"))
        return built > 0

    def compare(
        self,
        key: Path,
        old: int | None,
        new: int,
        other: Mapping[str, Numbers],
        seen: dict[tuple[str, str], set[Moved]],
    ) -> None:
        for path in self.base.keys() & other.keys():
            before, after = self.base[path], other[path]
            for name in NUMBERS:
                move = how(key, getattr(before, name), getattr(after, name), old, new)
                if move is not None:
                    seen[path, name].add(replace(move, shapes=before.shapes != after.shapes))


# from what moved to an answer


def _the(moved: Iterable[Moved], way: str) -> list[Moved]:
    return [move for move in moved if move.how == way]


def answer(module: Mapping[str, list[Moved]], numbers: Numbers) -> Keys | None:
    """The one key that gives each number; empty where none does; None where several could."""
    heads, divisor = _the(module["heads"], "equal"), ""
    by: Path | str = ()
    if not heads:
        heads = [m for m in _the(module["heads"], "times") if m.over > 1 and m.over == int(m.over)]
        if len(heads) == 1:
            divisor = str(int(heads[0].over))
            dividing = [m for m in _the(module["heads"], "inverse") if m.key != heads[0].key]
            by = dividing[0].key if len(dividing) == 1 else divisor
    if len(heads) > 1:
        return None
    dims = _widths(module, bool(heads))
    of_heads = heads[0].key if heads else ()
    kv = _kv(module["kv_heads"], of_heads, numbers)
    if kv is None or (not of_heads and not dims):
        return None
    return of_heads, kv, dims[0].key if len(dims) == 1 else (), by


def _widths(module: Mapping[str, list[Moved]], counted: bool) -> list[Moved]:
    """The keys of the width of a head: not what is divided by the number of heads to get it.

    Args:
        counted: the number of heads has a key of its own; else the width must be what gives it.
    """
    inverse = {move.key for move in _the(module["heads"], "inverse")}
    derived = bool(_the(module["head_dim"], "inverse"))
    equal = _the(module["head_dim"], "equal")
    if not counted:
        return [move for move in equal if move.key in inverse]
    return [move for move in equal if move.shapes and (move.free or not derived)]


def _kv(moved: list[Moved], heads: Path, numbers: Numbers) -> Path | None:
    """The key of the kv heads: their own, or the one of the heads where nothing else moves them."""
    own = [move for move in _the(moved, "equal") if move.key != heads and move.shapes]
    if len(own) > 1:
        return None
    if own:
        return own[0].key
    with_heads = any(move.key == heads and move.how in ("equal", "times") for move in moved)
    return heads if with_heads and numbers.kv_heads == numbers.heads else ()


def numbers_in(layer: str) -> list[int]:
    return [int(part) for part in layer.split(".") if part.isdecimal()]


def folded(layer: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in layer.split("."))


def _written(path: Path | str, place: int | None) -> str:
    """Dotted; an entry of a list as ``[n]``: the n-th number in the layer's name says which."""
    if isinstance(path, str):
        return path
    dotted = ".".join(str(part) for part in path if isinstance(part, str))
    return dotted if place is None else f"{dotted}[{place}]"


def common(modules: Mapping[str, Keys | None]) -> Answer | None:
    """One answer for all layers of one pattern, or None where they do not have the same."""
    answers = {layer: keys_of for layer, keys_of in modules.items() if keys_of is not None}
    if len(answers) < len(modules):
        return None
    columns: list[list[str]] = []
    for number in range(4):
        paths = {layer: keys_of[number] for layer, keys_of in answers.items()}
        place = None
        if any(isinstance(path, tuple) and path and isinstance(path[-1], int) for path in paths.values()):
            place = _place(paths)
            if place is None:
                return None
        columns.append([_written(path, place) for path in paths.values()])
    written = set(zip(*columns, strict=True))
    return written.pop() if len(written) == 1 else None


def _place(paths: Mapping[str, Path | str]) -> int | None:
    """Which number in the layers' names is the entry that they read; two different entries must say so."""
    entries = {layer: path[-1] if path else "" for layer, path in paths.items()}
    if len(set(entries.values())) < 2:
        return None
    count = min(len(numbers_in(layer)) for layer in entries)
    fits = [at for at in range(count) if all(numbers_in(layer)[at] == entry for layer, entry in entries.items())]
    return fits[0] if len(fits) == 1 else None


def by_type(modules: Mapping[str, Keys | None], config: Any) -> dict[str, Answer] | None:
    """An answer for each type of layer, where a list of the config names the types and each has one answer."""
    for types in _lists_of_types(config):
        count = min(len(numbers_in(layer)) for layer in modules)
        for at in range(count):
            if any(numbers_in(layer)[at] >= len(types) for layer in modules):
                continue
            groups: dict[str, dict[str, Any]] = defaultdict(dict)
            for layer, keys_of in modules.items():
                groups[types[numbers_in(layer)[at]]][layer] = keys_of
            answers = {kind: common(group) for kind, group in groups.items()}
            if len(answers) > 1 and all(a is not None for a in answers.values()):
                return {kind: a for kind, a in answers.items() if a is not None}
    return None


def _lists_of_types(config: Any) -> Iterator[list[str]]:
    if isinstance(config, dict):
        for name, value in config.items():
            if "type" in str(name) and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
                yield value
            else:
                yield from _lists_of_types(value)
