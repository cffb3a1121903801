"""How the changed parts of a layer came from A, in words: swapped, permuted, turned, transposed, cut otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from qkvinspect.diff.cut_otherwise import find_recut
from qkvinspect.diff.difference import PartDifference
from qkvinspect.diff.fingerprint import Fingerprint, fingerprint
from qkvinspect.diff.origin import Origin, find_origin
from qkvinspect.diff.parts import Parts
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.diff.scaled_parts import UNDOING, bias_went_along, factors, undo_each_other
from qkvinspect.diff.tally import rounded_through
from qkvinspect.layouts.packing import Geometry

LABELS = {"q": "Q", "k": "K", "v": "V", "out": "the output projection"}
_ALIKE = 1 - 1e-4
"""The cosine from which on a part may be that of A times a number."""

_SHOWN = 16  # heads of a permutation that are written out


def relate(
    a: Parts,
    b: Parts,
    found: Sequence[PartDifference],
    sizes: Sequence[Geometry],
    *,
    extra_positions: bool = False,
) -> tuple[Relation, ...]:
    """Explain the changed parts of a layer; nothing where they simply have other values.

    Args:
        sizes: the heads, or each number of heads that the shapes allow.
        extra_positions: whether K and V have more than their rows make, which takes no number of another part back.
    """
    relations = list(_empty(found))
    changed = [
        part.name
        for part in found
        if part.whole.status in ("changed", "reshaped") and not part.name.endswith("bias") and not part.whole.emptied
    ]
    kept = [name for name in a if name in b]
    if not changed or any(side[name].dtype.kind != "float" for side in (a, b) for name in kept):
        return tuple(relations)
    through = {name: dtype for name in changed if (dtype := rounded_through(a[name], b[name])) is not None}
    for dtype in dict.fromkeys(through.values()):
        names = [name for name in through if through[name] == dtype]
        relations.append(
            _relation(
                RelationCode.ROUNDED_THROUGH, f"{_list(names)} of B hold the values of A rounded to {dtype}", names
            )
        )
    changed = [name for name in changed if name not in through]
    alike = {part.name for part in found if abs(part.whole.cosine or 0) >= _ALIKE}
    times = factors(a, b, (name for name in changed if name in alike))
    relations += _scaled(times, a, b, () if extra_positions else UNDOING)
    changed = [name for name in changed if name not in times]
    if not changed:
        return tuple(relations)
    into = min((side[name].dtype for side in (a, b) for name in kept), key=lambda dtype: dtype.bits)
    ours, theirs = ({name: fingerprint(side[name], into) for name in kept} for side in (a, b))
    origins = {name: origin for name in changed if (origin := _origin(name, ours, theirs[name], sizes)) is not None}
    stale = {name for name, origin in origins.items() if not _bias_went_along(name, origin, ours, theirs)}
    relations += [*_moved(origins, stale), *_permuted(origins, stale), *_turned(origins, stale), *_transposed(origins)]
    unexplained = [name for name in changed if name not in origins]
    if {"q", "k", "v"} <= ours.keys() and not {"q", "k", "v"}.isdisjoint(unexplained):
        before, after = ({name: side[name].rows for name in ("q", "k", "v")} for side in (ours, theirs))
        cut = find_recut(before, after, sizes)
        if cut is not None:
            text = f"the rows of Q, K and V lie {cut[0]}, and one of the two files was cut as if they lay {cut[1]}"
            relations.append(_relation(RelationCode.CUT_OTHERWISE, text, ("q", "k", "v")))
            unexplained = [name for name in unexplained if name not in ("q", "k", "v")]
    relations += [one for name in unexplained for one in _shuffled(name, ours[name], theirs[name])]
    return tuple(relations)


def _scaled(times: Mapping[str, float], a: Parts, b: Parts, undoing: Sequence[tuple[str, str]]) -> Iterator[Relation]:
    """The parts that are those of A times a number, in pairs where one takes that of the other back."""
    told: set[str] = set()
    for first, second in undoing:
        if undo_each_other(first, second, times, a, b):
            told |= {first, second}
            back = f"which {_label(second)}, times {_number(times[second])}, takes back"
            yield _relation(RelationCode.PART_SCALED, f"{_times(first, times[first])}, {back}", (first, second))
    for name in (name for name in times if name not in told):
        stale = set[str]() if bias_went_along(name, times[name], a, b) else {name}
        yield _relation(RelationCode.PART_SCALED, _times(name, times[name]), (name,), stale=stale)


def _times(name: str, factor: float) -> str:
    return f"{_label(name)} of B is that of A times {_number(factor)}"


def _number(factor: float) -> str:
    """Three digits, or as many as it takes to tell it from one."""
    return next(text for digits in range(3, 18) if (text := f"{factor:.{digits}g}") != "1")


def _bias_went_along(name: str, origin: Origin, a: Mapping[str, Fingerprint], b: Mapping[str, Fingerprint]) -> bool:
    """Whether the bias of a part came from A in the same way, where there is one."""
    before, after = a.get(f"{origin.part}_bias"), b.get(f"{name}_bias")
    if name == "out" or origin.transposed or before is None or after is None:
        return True
    return np.array_equal(before.rows[origin.index], after.rows)


def _origin(name: str, a: Mapping[str, Fingerprint], b: Fingerprint, sizes: Sequence[Geometry]) -> Origin | None:
    family = [part for part in a if part in ("q", "k", "v")] if name in ("q", "k", "v") else []
    sources = {part: a[part] for part in dict.fromkeys((name, *family))}
    if name in ("q", "k", "v", "out"):
        counts = [size.num_heads if name == "out" else size.heads(name) for size in sizes]
    else:
        counts = []
    return find_origin(name, b, sources, dict.fromkeys([*counts, 1]), turning=name in ("q", "k"))


def _moved(origins: Mapping[str, Origin], stale: Set[str]) -> Iterator[Relation]:
    moved = {name: one.part for name, one in origins.items() if one.part != name}
    for name, source in moved.items():
        if moved.get(source) == name:
            if name < source:
                text = f"{_label(name)} and {_label(source)} are swapped"
                yield _relation(RelationCode.PARTS_SWAPPED, text, (name, source), origins, stale)
        else:
            text = f"{_label(name)} of B is {_label(source)} of A"
            yield _relation(RelationCode.PART_COPIED, text, (name,), origins, stale)


def _permuted(origins: Mapping[str, Origin], stale: Set[str]) -> Iterator[Relation]:
    moved = {name: one for name, one in origins.items() if one.moved}
    groups: list[list[str]] = []
    for name, origin in moved.items():
        group = next((some for some in groups if _alike(moved[some[0]].heads, origin.heads)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    for group in groups:
        heads = max((moved[name].heads for name in group), key=len)
        order = ", ".join(map(str, heads[:_SHOWN])) + (", ..." if len(heads) > _SHOWN else "")
        if sorted(heads) == list(range(len(heads))):
            text = f"heads are permuted in {_list(group)}: those of B are {order} of A"
            if {"q", "k", "v", "out"} <= set(group) and stale.isdisjoint(group):
                text += "; the layer computes the same"
            yield _relation(RelationCode.HEADS_PERMUTED, text, group, moved, stale)
        else:
            text = f"some heads of {_list(group)} stand in place of others: those of B are {order} of A"
            yield _relation(RelationCode.HEADS_COPIED, text, group, moved, stale)


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether heads, and kv heads that several of them share, are permuted together."""
    few, many = sorted((one, other), key=len)
    share = len(many) // len(few)
    return len(many) % len(few) == 0 and all(few[i // share] == head // share for i, head in enumerate(many))


def _turned(origins: Mapping[str, Origin], stale: Set[str]) -> Iterator[Relation]:
    turned = {name: one for name, one in origins.items() if one.turn}
    for turn, width in dict.fromkeys((one.turn, one.width) for one in turned.values()):
        names = [name for name, one in turned.items() if (one.turn, one.width) == (turn, width)]
        head_dim = len(turned[names[0]].index) // len(turned[names[0]].heads)
        share = "" if width == head_dim else f" of the first {width} rows of each head"
        pairs = ("neighbours (interleaved)", "halves (rotate-half)")
        before, after = pairs if turn == "halves" else pairs[::-1]
        ways = f"{before} in A and {after} in B" if width > 4 else f"{before} in one file and {after} in the other"
        text = f"rotary pairs{share} are {ways}, in {_list(names)}"  # of two pairs, it is its own inverse
        yield _relation(RelationCode.ROTARY_PERMUTED, text, names, turned, stale)


def _transposed(origins: Mapping[str, Origin]) -> Iterator[Relation]:
    names = [name for name, one in origins.items() if one.transposed]
    if names:
        yield _relation(RelationCode.TRANSPOSED, f"{_list(names)} {_are(names)} transposed", names, origins)


def _empty(found: Sequence[PartDifference]) -> Iterator[Relation]:
    parts = [part.name for part in found if part.whole.emptied]
    if parts:
        yield _relation(RelationCode.ZERO_FILLED, f"{_list(parts)} {_are(parts)} all zero in B", parts)
    for part in found:
        heads = [str(head) for head, one in enumerate(part.heads) if one.emptied]
        if heads and not part.whole.emptied:
            which = f"head{'s' if len(heads) > 1 else ''} {', '.join(heads)} of {_label(part.name)}"
            yield _relation(RelationCode.ZERO_FILLED, f"{which} {_are(heads)} all zero in B", (part.name,))


def _shuffled(name: str, a: Fingerprint, b: Fingerprint) -> Iterator[Relation]:
    for code, what, one, other in (
        (RelationCode.ROWS_PERMUTED, "rows", a.rows, b.rows),
        (RelationCode.COLUMNS_PERMUTED, "columns", a.cols, b.cols),
    ):
        if len(np.unique(one)) > 1 and np.array_equal(np.sort(one), np.sort(other)):
            yield _relation(code, f"the {what} of {_label(name)} are those of A in another order", (name,))
            return


def _relation(
    code: RelationCode,
    text: str,
    parts: Sequence[str],
    origins: Mapping[str, Origin] | None = None,
    stale: Set[str] = frozenset(),
) -> Relation:
    """``stale`` are the parts whose bias was not moved along."""
    missing = sum(origins[part].missing for part in parts) if origins else 0
    if missing:
        text += f", but for {missing} row{'s' if missing > 1 else ''}"
    left = [f"{part}_bias" for part in parts if part in stale]
    if left:
        text += f", but not {_list(left)}"
    return Relation(code, text, tuple(parts))


def _label(name: str) -> str:
    if name.endswith("_bias"):
        return f"the bias of {_label(name.removesuffix('_bias'))}"
    return LABELS.get(name, name)


def _list(names: Sequence[str]) -> str:
    labels = [_label(name) for name in names]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
