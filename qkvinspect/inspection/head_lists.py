"""Projections that are kept as a list with an entry for each head: one attention, and not one for each entry.

``sa.heads.0.query`` to ``sa.heads.5.query`` are one Q of six heads, and so are ``attn.queries.0`` to
``attn.queries.5``; K and V may be such lists too, or one tensor each that several heads share. A list is seen as one
weight, ``sa.heads.*.query.weight``, before anybody looks for attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Literal

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.components import LIST, unlisted, unwrapped
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.three_axes import bias_keys
from qkvinspect.inspection.words import Word, counts_heads, is_output, speaks_of_attention, word_of
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.head_list import list_of_heads

_DEEPEST = 5
"""Components at the end of a name among which the number of a head may stand."""

_MOST = 4096
"""Entries above which it is no list of heads."""

_FIGURES = "0123456789"

_WITHIN = late_pattern(r"([A-Za-z_]*[A-Za-z])_?(\d{1,4})_([A-Za-z_]+)")

_DIGITS = 4
"""Digits of such a number."""


class _PlaceInList(NamedTuple):
    """A place in a list, told by the last components of a name.

    Attributes:
        home: what these become in the name of the module that holds the list.
        key: what follows there: ``query.weight`` in each of ``heads``, ``queries.weight`` where a word has a list.
        of_heads: whether it is one of modules that are called heads.
    """

    number: int
    home: Path
    key: Path
    of_heads: bool


class _ListedPart(NamedTuple):
    """A projection of a module, as a list or as one tensor.

    Attributes:
        key: what follows the module in its path.
        names: of its tensors, by the number of the head.
        rows: of one head, of each part that it holds.
        turned: whether these lie as columns.
    """

    word: Word
    key: Path
    names: Mapping[int, str]
    rows: int
    columns: int
    turned: bool


@dataclass(slots=True)
class _ListsOfModule:
    """What may be attention whose heads are in lists.

    Attributes:
        parts: its projections that are lists.
        alone: those that are one tensor each.
        widths: how many numbers its output projections read.
        called: whether the lists are of modules that are called heads.
        ends: whether each of these has an output projection of its own, or a layer beside its attention, as what is
            whole has.
    """

    path: Path
    lists: Mapping[Path, Mapping[int, str]]
    parts: list[_ListedPart]
    alone: list[_ListedPart]
    widths: set[int]
    called: bool = False
    ends: bool = False


def with_lists(names: Names) -> Names:
    """The names, with one weight for each list of heads in place of what is in it; the same where there is none."""
    weights = names.weights
    made, owner = dict(weights.encoded), dict[str, str]()
    for module in _modules(names):
        if not _are_heads(module):
            continue
        for name, (numbers, turned) in _stacks(names, module).items():
            infos = [weights.tensors[numbers[number]] for number in range(len(numbers))]
            made[name] = list_of_heads(name, infos, 1 if turned else 0)
            owner |= dict.fromkeys(numbers.values(), name)
    if not owner:
        return names
    order = tuple(dict.fromkeys(owner.get(name, name) for name in weights))
    return Names(replace(weights, encoded=made, order=order))


def _stacks(names: Names, module: _ListsOfModule) -> Mapping[str, tuple[Mapping[int, str], bool]]:
    """What is joined, weights and biases, by its new name, and whether along columns; nothing if one is not whole."""
    found: dict[str, tuple[Mapping[int, str], bool]] = {}
    for part in module.parts:
        biases = (module.lists.get((*part.key[:-1], bias)) for bias in bias_keys(part.key[-1]))
        for numbers in (part.names, *filter(None, biases)):
            name = _starred(names, numbers, len(part.names))
            if name is None:
                return {}
            found[name] = numbers, part.turned and numbers is part.names
    return found


def _modules(names: Names) -> Iterable[_ListsOfModule]:
    """Every module with lists of projections, with all that stands beside these."""
    lists: dict[Path, dict[Path, dict[int, str]]] = {}
    listed, called = set[str](), set[Path]()
    paths = names.unlike_paths()
    telling = {part for part in set(chain.from_iterable(paths)) if _may_tell(part)}

    def entry_of(path: Path) -> _PlaceInList | None:
        end = path[-_DEEPEST:]
        return None if telling.isdisjoint(end) else _entry(end)

    if not any(map(entry_of, paths)):
        return ()
    for name, path in names.paths.items():
        entry = entry_of(path)
        if entry is not None:
            end = path[-_DEEPEST:]
            home = (*path[: -len(end)], *entry.home)
            lists.setdefault(home, {}).setdefault(entry.key, {})[entry.number] = name
            listed.add(name)
            if entry.of_heads:
                called.add(home)
    modules: dict[Path, _ListsOfModule] = {}
    for home, held in lists.items():
        for key, numbers in held.items():
            at = next((at for at, part in enumerate(key) if word_of(part) is not None), None)
            part = None if at is None or len(numbers) < 2 else _part(names, key[at:], numbers)
            if part is None:
                continue
            assert at is not None
            path = home + key[:at]
            module = modules.get(path)
            if module is None:
                inner = {other[at:]: some for other, some in held.items() if other[:at] == key[:at]}
                module = modules[path] = _ListsOfModule(path, inner, [], [], set(), home in called)
                module.ends = any(is_output(component) for other in inner for component in other[:-1]) or any(
                    other[:at] != key[:at] and len(names.shape(next(iter(some.values())))) > 1
                    for other, some in held.items()
                )
            module.parts.append(part)
    if modules:
        _look_around(names, modules, listed)
    return modules.values()


def _look_around(names: Names, modules: Mapping[Path, _ListsOfModule], listed: set[str]) -> None:
    """Add what stands beside the lists of each module."""
    for name, path in names.paths.items():
        if name in listed:
            continue
        for at in range(max(len(path) - 3, 0), len(path)):
            module = modules.get(path[:at])
            if module is None:
                continue
            shape, turned = names.shape(name), _is_turned(path[-1], name)
            if is_output(path[at]) and len(shape) > 1 and shape[0]:
                module.widths.add(shape[0] if turned else prod(shape[1:]))
            part = _part(names, path[at:], {0: name})
            if part is not None:
                module.alone.append(part)


def _may_tell(part: str) -> bool:
    """Whether a component may be that by which the place in a list is told: few are, and this is asked of each once."""
    if part.isascii() and part.isdecimal():
        return False  # what stands before it is
    stem = part.rstrip(_FIGURES)
    return any(_counted(text) is not None for text in (part, stem.rstrip("_"))) or _numbered_within(part) is not None


def _entry(end: Path) -> _PlaceInList | None:
    for at, part in enumerate(end):
        if not part or part[-1] not in _FIGURES:
            inner = _numbered_within(part)
            if inner is not None:
                return _PlaceInList(inner[0], end[:at], (inner[1], *end[at + 1 :]), True)
            continue
        stem = part.rstrip(_FIGURES)
        digits = part[len(stem) :]
        counted = stem.rstrip("_") if stem else end[at - 1] if at else ""
        kind = _counted(counted)
        if kind is None or len(digits) > _DIGITS or at == len(end) - 1:
            continue
        if kind == "projections":
            return _PlaceInList(int(digits), end[: at if stem else at - 1], (counted, *end[at + 1 :]), False)
        home = unlisted((*end[:at], f"{stem}{LIST}"))
        return _PlaceInList(int(digits), home, end[at + 1 :], True)
    return None


@lru_cache(1 << 14)
def _numbered_within(part: str) -> tuple[int, str] | None:
    """The number of the head and the word in ``head_3_query``; None where a component is none of this kind."""
    found = _WITHIN.fullmatch(part)
    if found is None or not (counts_heads(found[1]) or found[1] == "h") or word_of(found[3]) is None:
        return None
    return int(found[2]), found[3]


@lru_cache(1 << 12)
def _counted(text: str) -> Literal["projections", "heads"] | None:
    """What a number behind such a text counts."""
    return "projections" if word_of(text) is not None else "heads" if counts_heads(text) else None


def _part(names: Names, key: Path, numbers: Mapping[int, str]) -> _ListedPart | None:
    """The projection whose path ends so, if it is one: a matrix whose first component is a word for Q, K or V."""
    word, name = word_of(key[0]), next(iter(numbers.values()))
    shape = names.shape(name)
    if word is None or len(shape) < 2 or not prod(shape) or prod(shape[2:]) != 1:
        return None
    leaf = key[len(key) - 1]
    if len(key) > 1 and leaf not in LEAVES:
        return None
    turned = _is_turned(leaf, name)
    rows, columns = (shape[1], shape[0]) if turned else shape[:2]
    parts = len(word.parts)
    return None if rows % parts else _ListedPart(word, key, numbers, rows // parts, columns, turned)


def _is_turned(leaf: str, name: str) -> bool:
    """Whether a matrix is stored [in, out], as TensorFlow, Keras, Flax and Haiku do."""
    return leaf == "kernel" or (leaf == "w" and "/" in name)


def _are_heads(module: _ListsOfModule) -> bool:
    """Whether the lists are Q, K and V of one attention, each with an entry a head.

    Their sizes say so: all heads together are as wide as the output projection, or as what they read. In what is
    called attention, and its lists heads, they may be of any size. An entry with an output projection of its own is an
    attention of its own.
    """
    listed = {letter for part in module.parts for letter in part.word.parts}
    shared = [part for part in module.alone if listed.isdisjoint(part.word.parts)]
    every = [*module.parts, *shared]
    by_letter = {letter: part for part in every for letter in part.word.parts}
    once = sorted(letter for part in every for letter in part.word.parts) == ["k", "q", "v"]
    if module.ends or not once or len({part.word.affix for part in module.parts}) > 1:
        return False
    return _sizes_fit(module, *(by_letter[letter] for letter in "qkv"))


def _sizes_fit(module: _ListsOfModule, q: _ListedPart, k: _ListedPart, v: _ListedPart) -> bool:
    heads = len(q.names)
    if heads < 2 or (len(k.names) > 1) != (len(v.names) > 1) or k.columns != v.columns:
        return False
    kv_heads, odd = (len(k.names), k.rows - q.rows) if len(k.names) > 1 else divmod(k.rows, q.rows)
    if odd or not kv_heads or heads % kv_heads or len(v.names) not in (1, kv_heads):
        return False
    v_width, odd = (v.rows, 0) if len(v.names) > 1 else divmod(v.rows, kv_heads)
    if odd:
        return False
    if heads * v_width in module.widths or q.columns in (heads * q.rows, heads * v_width):
        return True
    return module.called and any(map(speaks_of_attention, module.path))


def _without_number(one: str, other: str) -> str:
    """Two components that differ in a number, with ``*`` for it."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    head = one[:same].rstrip(_FIGURES)
    return head + LIST + one[len(head) :].lstrip(_FIGURES)


def _starred(names: Names, numbers: Mapping[int, str], count: int) -> str | None:
    """The name of a list: ``*`` for its numbers; None where these have gaps or its tensors are not alike or plain."""
    if count > _MOST or sorted(numbers) != list(range(count)):
        return None
    infos = [names.weights.tensors.get(name) for name in numbers.values()]
    if any(info is None or info.name in names.weights.encoded for info in infos):
        return None
    if len({(info.shape, info.dtype.name, info.byteorder) for info in infos if info is not None}) > 1:
        return None
    first, other = (re.split(r"([./])", numbers[number]) for number in (0, 1))
    if len(first) != len(other):
        return None
    differ = [at for at, (one, two) in enumerate(zip(first, other, strict=True)) if one != two]
    if len(differ) != 1:
        return None
    first[differ[0]] = _without_number(first[differ[0]], other[differ[0]])
    name = "".join(first)
    return None if name in names.weights or names.find_path(unwrapped(name)) is not None else name
