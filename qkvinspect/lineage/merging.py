"""Heads of K and V made fewer: those that are most alike become one, once they were brought together.

The mean of several heads of K is worth little where each has a basis of its own. A rotation inside a head changes
nothing where Q (for V: the output) is turned along, so heads are turned upon each other first, and those are put
together that come nearest. To align heads by Procrustes rotations that leave the outputs alone, before there are fewer
of them, is the idea of "Align Attention Heads Before Merging Them" (Jin and others, 2025, arXiv 2412.20677), which then
trains with L0 masks; here nothing is trained, and the weights are asked alone, with their biases. With rotary embedding
K is turned by rotations that commute with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention
from qkvinspect.lineage.exact_turns import nearest_rotation
from qkvinspect.lineage.positions import Positions
from qkvinspect.lineage.whole_heads import HeadsAnew, WholeHeads, whole_heads
from qkvinspect.weights.mixed_heads import Terms
from qkvinspect.weights.reading import Array

_ROUNDS = 20
_FREE = Positions("none")


@dataclass(frozen=True, slots=True)
class MergedGroup:
    """Heads of K and V that became one, and what that did to the circuits of all heads that use it.

    Attributes:
        members: which heads of K and V they were.
        plain_qk, plain_ov: the relative error (Frobenius) if they were averaged as they are.
        qk, ov: the same once they were aligned.
    """

    members: tuple[int, ...]
    plain_qk: float
    plain_ov: float
    qk: float
    ov: float


@dataclass(frozen=True, slots=True)
class MergedLayer:
    """A layer with fewer heads of K and V.

    Attributes:
        plain: the errors of QK and OV of all heads if neighbours were averaged as they are, which is what is
            usually done; ``aligned``: those of what was done.
    """

    layer: str
    groups: tuple[MergedGroup, ...]
    plain: tuple[float, float]
    aligned: tuple[float, float]
    anew: HeadsAnew


def merge_heads(attention: Attention, kv_heads: int, positions: Positions) -> MergedLayer:
    """Choose which heads of K and V become one, and how they are turned.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: the heads cannot be shared out to so many.
    """
    heads = whole_heads(attention)
    before = len(heads.k)
    if not 0 < kv_heads < before or before % kv_heads or not heads.k.size:
        raise UsageError(
            f"the {before} heads of K and V of layer {attention.layer!r} cannot become {kv_heads}",
            expected=f"a divisor of {before} that is smaller",
            found=kv_heads,
            hint="--kv-heads N",
        )
    size = before // kv_heads
    groups = _groups(_likeness(heads, positions), size)
    found = [_merged(heads, group, positions) for group in groups]
    usual = [tuple(range(first, first + size)) for first in range(0, before, size)]
    plain = [_plain(heads, group) for group in usual]
    anew = HeadsAnew(*(tuple(terms for _, made in found for terms in made[part]) for part in ("q", "k", "v", "o")))
    errors = [one for one, _ in found]
    result = [
        MergedGroup(group, *_relative(_plain(heads, group)), *_relative(one))
        for group, one in zip(groups, errors, strict=True)
    ]
    return MergedLayer(attention.layer, tuple(result), _relative(_sum(plain)), _relative(_sum(errors)), anew)


Errors = tuple[float, float, float, float]
"""Squared: of QK the error and the size, of OV the error and the size."""


def _sum(errors: Sequence[Errors]) -> Errors:
    qk, of_qk, ov, of_ov = (float(sum(column)) for column in zip(*errors, strict=True))
    return qk, of_qk, ov, of_ov


def _relative(errors: Errors) -> tuple[float, float]:
    qk, of_qk, ov, of_ov = errors
    return float(np.sqrt(qk / of_qk)) if of_qk else 0.0, float(np.sqrt(ov / of_ov)) if of_ov else 0.0


def _likeness(heads: WholeHeads, positions: Positions) -> Array:
    """How near each two heads of K and V come: the mean cosine of both once they are turned upon each other."""
    count = len(heads.k)
    found = np.zeros((count, count))
    for side, allowed in ((heads.k, positions), (heads.v, _FREE)):
        rows = np.array([_unit(one) for one in side])
        for i, j in combinations(range(count), 2):
            inner = rows[i] @ rows[j].T
            found[i, j] += float((nearest_rotation(inner, allowed) * inner).sum()) / 2
    return found + found.T


def _groups(alike: Array, size: int) -> list[tuple[int, ...]]:
    """Groups of this size whose members are alike: each grown around the two that are most so, then mended by swaps."""
    left = set(range(len(alike)))
    groups: list[list[int]] = []
    while left:
        pairs = list(combinations(sorted(left), 2))
        group = list(max(pairs, key=lambda pair: alike[pair])) if pairs and size > 1 else [min(left)]
        while len(group) < size:
            group.append(max(left - {*group}, key=lambda head: (alike[head, group].sum(), -head)))
        left -= {*group}
        groups.append(group)
    while _swapped(alike, groups):
        pass
    return sorted(tuple(sorted(group)) for group in groups)


def _swapped(alike: Array, groups: Sequence[list[int]]) -> bool:
    """Swap the first two heads of two groups that both groups gain by; whether there were any."""
    for one, other in combinations(groups, 2):
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                ours, theirs = [head for head in one if head != a], [head for head in other if head != b]
                gain = alike[b, ours].sum() + alike[a, theirs].sum() - alike[a, ours].sum() - alike[b, theirs].sum()
                if gain > 1e-9:
                    one[i], other[j] = b, a
                    return True
    return False


def _merged(heads: WholeHeads, group: Sequence[int], positions: Positions) -> tuple[Errors, dict[str, list[Terms]]]:
    """A group as one head: the errors, and of what Q, K, V and the output are made."""
    users = _users(heads, group)
    made: dict[str, list[Terms]] = {}
    errors: list[float] = []
    for shared, own, side, allowed in (("k", "q", heads.k, positions), ("v", "o", heads.v, _FREE)):
        turns, sizes = _brought_together([side[one] for one in group], allowed)
        size = float(np.mean(sizes))
        shared_terms = tuple((head, size / len(group) / own_size * turn if own_size else turn * 0)
                             for head, turn, own_size in zip(group, turns, sizes, strict=True))  # fmt: skip
        made[shared] = [shared_terms]
        made[own] = [((user, turns[place] * (sizes[place] / size if size else 1.0)),) for place, user in users]
        one = np.sum([turn @ side[head] for head, turn in shared_terms], axis=0)
        outer = heads.q if own == "q" else heads.o
        errors += _errors(outer, side, users, group, one, [terms[0][1] for terms in made[own]])
    qk, of_qk, ov, of_ov = errors
    return (qk, of_qk, ov, of_ov), made


def _plain(heads: WholeHeads, group: Sequence[int]) -> Errors:
    """The errors of the mean of the group's heads as they are."""
    users = _users(heads, group)
    errors: list[float] = []
    for side, outer in ((heads.k, heads.q), (heads.v, heads.o)):
        errors += _errors(outer, side, users, group, side[list(group)].mean(axis=0), [None] * len(users))
    qk, of_qk, ov, of_ov = errors
    return qk, of_qk, ov, of_ov


def _users(heads: WholeHeads, group: Sequence[int]) -> list[tuple[int, int]]:
    """The heads that use those of a group, each with the place in the group of the one that it uses."""
    return [
        (place, head)
        for place, shared in enumerate(group)
        for head in range(shared * heads.share, (shared + 1) * heads.share)
    ]


def _errors(
    outer: Array, side: Array, users: Sequence[tuple[int, int]], group: Sequence[int], one: Array,
    turns: Sequence[Array | None],
) -> tuple[float, float]:  # fmt: skip
    """Squared distance of the circuits outer^T side from what they become, and their squared size, of thin factors."""
    error = size = 0.0
    for (place, user), turn in zip(users, turns, strict=True):
        before, new = np.asarray(side[group[place]], np.float64), np.asarray(one, np.float64)
        own = np.asarray(outer[user], np.float64)
        size += float(((own @ own.T) * (before @ before.T)).sum())
        # the circuit changes by own^T (before - turn^T new), whatever the turn is
        change = before - (new if turn is None else turn.T @ new)
        error += float(((own @ own.T) * (change @ change.T)).sum())
    return error, size


def _brought_together(rows: Sequence[Array], positions: Positions) -> tuple[list[Array], list[float]]:
    """The rotation of each head upon their common mean, and the size of each: generalised Procrustes (Gower, 1975)."""
    sizes = [float(np.linalg.norm(one)) for one in rows]
    units = [_unit(one) for one in rows]
    turns = [np.eye(len(rows[0]))] * len(rows)
    mean = units[0]
    for _ in range(_ROUNDS):
        turns = [nearest_rotation(mean @ one.T, positions) for one in units]
        mean = np.mean([turn @ one for turn, one in zip(turns, units, strict=True)], axis=0)
    return turns, sizes


def _unit(rows: Array) -> Array:
    rows = np.asarray(rows, np.float64)
    return rows / (float(np.linalg.norm(rows)) or 1.0)
