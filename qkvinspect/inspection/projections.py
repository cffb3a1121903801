"""Tensors whose names hold a word for Q, K or V, put together by the module that they belong to.

A *place* is the module of one word: ``attn.to_q`` of ``attn.to_q.net.2.weight``. A *module* is what holds places:
``attn``. Its *sets* are those places that belong together, because all but the word in their names is the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod

from qkvinspect.fast_dataclass import dataclass, field, replace
from qkvinspect.inspection.kernels import KERNEL, is_convolution
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.words import GENERIC, OUT_WORDS, Word, is_no_projection, is_output, tokens, word_of
from qkvinspect.weights.weight import Weight

_DEEPEST = 4
"""Components at the end of a name among which the word may stand."""

LEAVES = frozenset({"weight", "weights", "kernel", "w"})
"""What the matrix of a layer is called."""

_NO_PARAMETERS = (("b",), ("mem",), ("null",))
"""How parameters begin that are none of projections: b_Q is a bias, mem_k and null_kv are rows beside the tokens'."""

_MOST_MATRICES = 3
"""Matrices below one word; where there are more, it is the name of a network and not of a projection."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One stored tensor that a name says to hold Q, K or V.

    Attributes:
        key: its name below the module, in components without wrappers.
        index: its number, where there is a list of such tensors, one a head or one a kind of token.
        plain: whether its place holds one matrix that looks at one position: a linear layer or a 1x1 convolution.
        alike: whether all tensors of its list have one shape, as those of heads have.
        factor: the other factor, where it is one of two whose product is the projection.
    """

    word: Word
    key: Path
    weight: Weight
    index: int | None = None
    plain: bool = True
    alike: bool = True
    factor: Weight | None = None

    @property
    def parts(self) -> str:
        return self.word.parts

    @property
    def is_head(self) -> bool:
        """Whether it is one of a list that has an entry for each head: narrower than what it reads."""
        return self.index is not None and self.alike and self.weight.shape[0] < prod(self.weight.shape[1:])


@dataclass(frozen=True, slots=True)
class ProjectingModule:
    """A module that holds such tensors.

    Attributes:
        path: its canonical path.
        stored: its name as stored.
        sets: projections that make up an attention, or K and V of one.
        lone: those that have no partners.
        outputs: names below the module, and tensors, of what may be its output projection.
        beside: what else stands directly below it.
    """

    path: Path
    stored: str
    sets: tuple[tuple[Projection, ...], ...]
    lone: tuple[Projection, ...]
    outputs: tuple[tuple[Path, Weight], ...] = ()
    beside: frozenset[str] = field(default_factory=frozenset[str])


def modules_of(names: Names, paths: Mapping[str, Path], claimed: Collection[str]) -> Iterator[ProjectingModule]:
    """The modules with tensors of such names, in the order of the file.

    Args:
        paths: where they are looked for: paths by stored name.
    """
    places: dict[Path, dict[str, list[tuple[Path, str]]]] = {}
    for name, path in paths.items():
        at = _place(path)
        if at is not None and name not in claimed and _is_matrix(names.shape(name), path[-1]):
            places.setdefault(path[:at], {}).setdefault(path[at], []).append((path[at:], name))
    around = _around(names, paths, places)
    for path, words in places.items():
        factors = _second_factors(words)
        found = _without_learned_queries(
            [one for component, held in words.items() for one in _projections(names, component, held)]
            if not factors
            else [*_products(names, words, factors)]
        )
        if found:
            sets, lone = _sets(found)
            first = next(iter(words.values()))[0]
            stored = names.stored_layer(first[1], len(first[0]))
            outputs, beside = around[path]
            yield ProjectingModule(path, stored, tuple(sets), tuple(lone), tuple(outputs), frozenset(beside))


def _second_factors(words: Mapping[str, object]) -> Mapping[str, str]:
    """What SVD-LLM calls the factors of Q, K and V, the one that reads by the one that makes: ``k_v_proj`` and
    ``k_u_proj``, which is no tensor of K and V.
    """
    for component in words:
        if (around := component.partition("q_u"))[1]:
            pairs = {f"{part}_v".join(around[::2]): f"{part}_u".join(around[::2]) for part in "qkv"}
            if words.keys() >= {*pairs, *pairs.values()}:
                return pairs
    return {}


def _products(
    names: Names, words: Mapping[str, Sequence[tuple[Path, str]]], factors: Mapping[str, str]
) -> Iterator[Projection]:
    """The projections at some places, of which some are made of two factors."""
    first = {made: words[read][0][1] for read, made in factors.items()}
    for component, held in words.items():
        for one in _projections(names, component, held) if component not in factors else ():
            yield replace(one, factor=names.weights[first[component]]) if component in first else one


def _place(path: Path) -> int | None:
    """Where in a path the last word for Q, K or V stands, if nothing behind it says that it is no projection."""
    back = _steps_back(path[-_DEEPEST:])
    return None if back is None else len(path) - back


@lru_cache(1 << 14)
def _steps_back(end: Path) -> int | None:
    """As ``_place``, counted from the end of the path."""
    if end[-1] not in LEAVES and not is_listed_parameter(end):
        leaf = word_of(end[-1])
        if leaf is None or leaf.before[:1] in _NO_PARAMETERS:
            return None
    for at in range(len(end) - 1, -1, -1):
        if word_of(end[at]) is not None or end[at] == "in_proj":
            return len(end) - at
        if is_no_projection(end[at]):
            return None
    return None


def is_listed_parameter(path: Path) -> bool:
    """Whether it is one of a list of parameters with a word for Q, K or V: ``Wq.0``."""
    return path[-1].isdecimal() and len(path) > 1 and word_of(path[-2]) is not None


def _is_matrix(shape: Sequence[int], leaf: str) -> bool:
    """Whether it may be a projection: a bias or a norm has one axis, a depthwise convolution one channel."""
    if len(shape) < 2 or not prod(shape):
        return False
    if len(shape) == 2 or prod(shape[2:]) == 1:
        return True
    if leaf == "kernel":  # a window first, if there is one
        return shape[-2] > 1 or max(shape[:-2]) > KERNEL
    return shape[1] > 1 or not (is_convolution(shape) or len(shape) == 3)


def _around(
    names: Names, paths: Mapping[str, Path], places: Mapping[Path, object]
) -> dict[Path, tuple[list[tuple[Path, Weight]], set[str]]]:
    """For each module, its possible output projections and what stands directly below it."""
    found: dict[Path, tuple[list[tuple[Path, Weight]], set[str]]] = {path: ([], set()) for path in places}
    if not found:
        return found
    for name, path in paths.items():
        for at in range(max(len(path) - _DEEPEST, 0), len(path)):
            around = found.get(path[:at])
            if around is None:
                continue
            around[1].add(path[at])
            if is_output(path[at]) and _is_matrix(names.shape(name), path[-1]):
                around[0].append((path[at:], names.weights[name]))
    return found


def _projections(names: Names, component: str, held: Sequence[tuple[Path, str]]) -> Iterator[Projection]:
    """The projections at a place: its last matrix, or each of a list."""
    word = word_of(component) or Word("qkv", ("in",), ("proj",), "in_proj")
    if len(held) == 1:
        key, name = held[0]
        yield Projection(word, key, names.weights[name], plain=prod(names.shape(name)[2:]) == 1)
        return
    if _is_list(names, held):
        alike = len({names.shape(name) for _, name in held}) == 1
        for key, name in held:
            yield Projection(word, key, names.weights[name], int(key[1]), alike=alike)
    elif _are_kinds(held):
        for key, name in held:
            of_kind = replace(word, before=(*tokens(key[1]), *word.before))
            yield Projection(of_kind, key, names.weights[name], plain=prod(names.shape(name)[2:]) == 1)
    elif len(held) <= _MOST_MATRICES:
        *others, (key, name) = sorted(held, key=lambda one: [_natural(part) for part in one[0]])
        if len(others) == 1 and _ends_narrow(names.shape(name), names.shape(others[0][1])):
            yield Projection(word, others[0][0], names.weights[others[0][1]], factor=names.weights[name], plain=False)
        else:
            yield Projection(word, key, names.weights[name], plain=False)


def _ends_narrow(last: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two matrices would lead to few features and not from them, were they used in this order.

    Then they are the factors of one matrix in an order of their own: ASVD's ``BLinear`` comes before ``ALinear``.
    """
    return len(last) == len(other) == 2 and last[0] == other[1] < min(last[1], other[0])


def _are_kinds(held: Sequence[tuple[Path, str]]) -> bool:
    """Whether the matrices of a place are entries of a dict, one for each kind of token: ``q.text`` and ``q.image``.

    What a network calls its layers says no kind: ``fc1``, ``up``, ``linear``.
    """
    kinds = [key[1] for key, _ in held if len(key) == 3 and not key[1][-1:].isdecimal()]
    return len({*kinds}) == len(held) and all(_LAYERS.isdisjoint(tokens(kind)) and tokens(kind) for kind in kinds)


_LAYERS = GENERIC | OUT_WORDS | {"up", "down", "a", "b", "l", "layers", "block", "pre", "post", "lora", "norm", "bn"}


def _without_learned_queries(found: Sequence[Projection]) -> Sequence[Projection]:
    """Those but for parameters called ``q`` or ``queries`` beside layers for K and V: what a pool asks with."""
    if not any(one.key[-1] in LEAVES for one in found if one.parts != "q"):
        return found
    return [
        one
        for one in found
        if one.parts != "q" or one.key[-1] in LEAVES or len(one.key) > 1 or not GENERIC.isdisjoint(one.word.affix)
    ]


def _is_list(names: Names, held: Sequence[tuple[Path, str]]) -> bool:
    """Whether the matrices of a place are numbered without a gap and none reads what another makes.

    They are one a head or one a kind of token then, and not the steps of one projection.
    """
    if not all(len(key) > 1 and re.fullmatch(r"\d{1,4}", key[1]) for key, _ in held):
        return False
    ordered = sorted((int(key[1]), names.shape(name), key[-1] == "kernel") for key, name in held)
    if [number for number, _, _ in ordered] != list(range(len(held))):
        return False
    shapes = [shape for _, shape, _ in ordered]
    if len(set(shapes)) == 1:
        return True
    if any(prod(shape[2:]) != 1 for shape in shapes):
        return False
    read, made = zip(*((shape[:2] if turned else shape[1::-1]) for _, shape, turned in ordered), strict=True)
    return len(set(read)) == 1 or any(one != other for one, other in zip(made, read[1:], strict=False))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if re.fullmatch(r"\d{1,9}", part) else (-1, part)


def _sets(found: Sequence[Projection]) -> tuple[list[tuple[Projection, ...]], list[Projection]]:
    """Those that belong together, and those that are left over."""
    kinds: dict[object, list[Projection]] = {}
    for one in found:
        kinds.setdefault((one.word.affix, one.index), []).append(one)
    sets: list[tuple[Projection, ...]] = []
    left: list[Projection] = []
    for alike in kinds.values():
        for group in _by_spelling(alike):
            whole, rest = _whole(group)
            sets += [whole] if whole else []
            left += rest
    whole, left = _whole(left)  # q_du, k_dv, v_dv: one of each, whatever stands around the words
    sets += [whole] if whole else []
    pairs, lone = _pairs(left)
    return [*sets, *pairs], lone


def _by_spelling(alike: Sequence[Projection]) -> Iterator[Sequence[Projection]]:
    """Kept together unless a part would come twice: ``q`` beside ``query``."""
    if len({one.parts for one in alike}) == len(alike):
        yield alike
        return
    spelled: dict[str, list[Projection]] = {}
    for one in alike:
        spelled.setdefault(one.word.spelling, []).append(one)
    yield from spelled.values()


def _whole(group: Sequence[Projection]) -> tuple[tuple[Projection, ...], list[Projection]]:
    """(q, k and v of the group if it holds each exactly once, the others)."""
    by_parts: dict[frozenset[str], list[Projection]] = {}
    for one in group:
        by_parts.setdefault(frozenset(one.parts), []).append(one)
    for wanted in (("q", "k", "v"), ("q", "kv"), ("qk", "v"), ("qkv",)):
        chosen = [by_parts.get(frozenset(parts), []) for parts in wanted]
        if all(len(some) == 1 for some in chosen):
            whole = tuple(some[0] for some in chosen)
            return whole, [one for one in group if one not in whole]
    return (), list(group)


def _pairs(left: Sequence[Projection]) -> tuple[list[tuple[Projection, ...]], list[Projection]]:
    """K and V of a second stream, whose query is that of the first."""
    pairs: list[tuple[Projection, ...]] = []
    for one in left:
        if set(one.parts) == {"k", "v"}:
            pairs.append((one,))
        elif one.parts == "k":
            partners = [v for v in left if v.parts == "v" and v.word.affix == one.word.affix and v.index == one.index]
            if len(partners) == 1:
                pairs.append((one, partners[0]))
    held = [one for pair in pairs for one in pair]
    return pairs, [one for one in left if one not in held]
