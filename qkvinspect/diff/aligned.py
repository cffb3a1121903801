"""B as ``diff --align`` compares it: each layer beside the one that it came from, its heads in A's order and basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qkvinspect.diff.pairing import Pair, Renames
from qkvinspect.errors import UsageError
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.lineage.alignment import AlignedLayer, Alignment, align
from qkvinspect.lineage.exact_turns import rounding_of
from qkvinspect.lineage.positions import Positions, positions
from qkvinspect.lineage.whole_heads import only_groups
from qkvinspect.progress import Progress

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class AlignedSides:
    """Both sides once B was aligned.

    Attributes:
        a, b: with the heads that both have, in A's order and basis.
        renames: which names of A stand for which of B, where layers were inserted or removed.
        gone, new: heads that only A, only B has, as lines of what was removed and added.
        undone: of each layer of A what was undone in B's.
        turned: of each layer of A whose partner was turned or rescaled, what may be rounding of that: relative L2.
    """

    a: Report
    b: Report
    pairs: Sequence[Pair]
    renames: Renames
    gone: Sequence[str]
    new: Sequence[str]
    notes: Sequence[str]
    undone: Mapping[str, tuple[str, ...]]
    turned: Mapping[str, float]

    def tolerance(self, layer: str, wanted: float | None) -> float | None:
        """Up to which a difference counts as the same."""
        own = self.turned.get(layer)
        return wanted if own is None else max(own, wanted or 0.0)


def aligned_sides(
    a: Report, b: Report, maps: Sequence[str], rotary: str | None, progress: Progress | None
) -> AlignedSides:
    """Align B to A; both must still be open.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: the two are no kin, or scipy is not installed.
    """
    said = [_allowed(b, one, rotary) for one in b.attentions]
    found = align(a, b, [one for one, _ in said], progress)
    sides = [_kept(one) for one in found.layers]
    of_a, of_b = ({getattr(one, side).layer: both[at] for one, both in zip(found.layers, sides, strict=True)}
                  for at, side in enumerate(("a", "b")))  # fmt: skip
    pairs = [Pair(one.a, one.b, "align") for one in found.kinship.layers
             if one.fate == "kept" and one.a is not None and one.b is not None]  # fmt: skip
    place = {one.layer: at for at, one in enumerate(a.attentions)}
    renames = Renames((*maps, *_moved(found, pairs)))
    for name in [*place, *(one.name for one in map(a.weights.__getitem__, a.weights))]:
        renames(name)
    return AlignedSides(
        replace(a, attentions=tuple(of_a.get(one.layer, one) for one in a.attentions)),
        replace(b, attentions=tuple(of_b.get(one.layer, one) for one in b.attentions)),
        sorted(pairs, key=lambda pair: place[pair.a]),
        renames,
        [f"{one.a.layer}: {_heads(one, set(range(one.a.heads.num_kv_heads)) - {*one.groups})}"
         for one in found.layers if one.a.heads and _fewer(one) and {*range(one.a.heads.num_kv_heads)} - {*one.groups}],
        [f"{one.b.layer}: {one.groups.count(None)} of its heads of K and V" for one in found.layers
         if None in one.groups],
        tuple(dict.fromkeys((*_notes(found), *(why for _, why in said if why)))),
        {one.a.layer: one.undone for one in found.layers},
        {one.a.layer: rounding_of((*one.a.weights, *one.b.weights)) for one in found.layers if one.turned},
    )  # fmt: skip


def _allowed(report: Report, attention: Attention, rotary: str | None) -> tuple[Positions | None, str]:
    """Which rotations may be undone; where that is not known, none of Q and K, and why."""
    if attention.heads is None:
        return None, ""
    try:
        return positions(report, attention, rotary), ""
    except UsageError as error:
        if rotary is not None:
            raise
        return None, f"no rotation of Q and K was undone: {error.message}"


def _fewer(one: AlignedLayer) -> bool:
    """Whether one side has heads that the other has not, all that share one of K and V together."""
    assert one.a.heads is not None
    return None in one.groups or len(one.groups) != one.a.heads.num_kv_heads


def _kept(one: AlignedLayer) -> tuple[Attention, Attention]:
    """Both layers with the heads that both have."""
    if not _fewer(one):
        return one.a, one.b
    ours = [group for group in one.groups if group is not None]
    theirs = [place for place, group in enumerate(one.groups) if group is not None]
    return only_groups(one.a, ours), only_groups(one.b, theirs)


def _heads(one: AlignedLayer, groups: set[int]) -> str:
    assert one.a.heads is not None
    share = one.a.heads.num_heads // one.a.heads.num_kv_heads
    heads = [str(group * share + at) for group in sorted(groups) for at in range(share)]
    return f"head{'s' if len(heads) > 1 else ''} {', '.join(heads)}"


def _moved(found: Alignment, pairs: Sequence[Pair]) -> Iterator[str]:
    """Renames of the tensors beside layers that have another number in B."""
    for pair in pairs:
        ours, theirs = _block(pair.a, pair.b)
        if ours != theirs and ours and theirs:
            yield f"{ours}={theirs}"
    if any(pair.a != pair.b for pair in pairs):
        for name in found.removed:
            block = _numbered(name)
            if block:
                yield f"{block}=(removed).{block}"


def _block(a: str, b: str) -> tuple[str, str]:
    """Two names without the components at the end that are the same."""
    ours, theirs = a.split("."), b.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ".".join(ours), ".".join(theirs)


def _numbered(name: str) -> str:
    """A name up to its last number."""
    parts = name.split(".")
    while parts and not parts[-1].isdecimal():
        parts = parts[:-1]
    return ".".join(parts)


def _notes(found: Alignment) -> Iterator[str]:
    kinship = found.kinship
    assert kinship.test is not None
    yield f"B was aligned to A: {kinship.verdict}, p = {kinship.test.p_value:.2g}"
    changed = [one for one in found.layers if one.undone]
    for one in changed[:_SHOWN]:
        yield f"undone in {one.b.layer}: {'; '.join(one.undone)}"
    if len(changed) > _SHOWN:
        yield f"and in {len(changed) - _SHOWN} more layers (all in --format json)"
    if any(one.turned for one in found.layers):
        yield "what was rotated or rescaled counts as the same within the rounding of its dtype"
    for layer, why in found.left:
        yield f"{layer} of B was not aligned: {why}"
