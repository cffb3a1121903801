"""B with its heads in A's order and basis, by changes that leave every output what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qkvinspect.errors import UsageError
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.lineage import lineage
from qkvinspect.lineage.assignment import one_to_one
from qkvinspect.lineage.exact_turns import STILL, ExactTurn, joined, nearest_turn
from qkvinspect.lineage.fates import LayerFate
from qkvinspect.lineage.kinship import Kinship
from qkvinspect.lineage.positions import Positions
from qkvinspect.lineage.whole_heads import HeadsAnew, WholeHeads, made_anew, whole_heads
from qkvinspect.progress import Progress
from qkvinspect.weights.mixed_heads import Terms

_SCALED = 1e-5


@dataclass(frozen=True, slots=True)
class AlignedLayer:
    """A layer of B beside the one of A that it came from.

    Attributes:
        a, b: both; ``b`` with its heads in A's order and basis.
        anew: of what each of its heads is made.
        partners: for each head of ``b`` the one of A; None: it has none.
        groups: for each head of K and V of ``b`` the one of A in whose place it stands; None: it has none.
        undone: what was done to its heads, in words.
    """

    a: Attention
    b: Attention
    anew: HeadsAnew
    partners: tuple[int | None, ...]
    groups: tuple[int | None, ...]
    undone: tuple[str, ...]
    turned: bool


@dataclass(frozen=True, slots=True)
class Alignment:
    """B beside A.

    Attributes:
        removed, added: names of layers that only A, only B has.
        left: of layers that were not aligned the names and the reason.
    """

    kinship: Kinship
    layers: tuple[AlignedLayer, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def align(a: Report, b: Report, positions: Sequence[Positions | None], progress: Progress | None = None) -> Alignment:
    """Bring the heads of B into the order and basis of A's; both must still be open.

    Args:
        positions: of each layer of B what a rotation inside its heads has to leave alone; None: none is undone.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: scipy is not installed, or the two have no start in common.
    """
    found = lineage((a, b), progress)
    (kinship,) = found.kinships
    if not kinship.kin:
        raise UsageError(
            f"heads cannot be brought into those of a checkpoint that is no kin: {kinship.verdict}: {kinship.why}",
            file=b.checkpoint.path,
            hint="`qkvinspect lineage A B` says more",
        )
    of_a = {one.layer: one for one in a.attentions}
    of_b = {one.layer: (one, said) for one, said in zip(b.attentions, positions, strict=True)}
    layers: list[AlignedLayer] = []
    left = [*found.left_out[1]]
    for fate in kinship.layers:
        if fate.fate == "kept" and fate.a is not None and fate.b is not None:
            one, (other, said) = of_a[fate.a], of_b[fate.b]
            if why := _cannot_align(one, other):
                left.append((other.layer, why))
            else:
                layers.append(_aligned(one, other, fate, said))
    alone = [fate for fate in kinship.layers if fate.fate != "kept"]
    removed, added = ([name for fate in alone if (name := getattr(fate, side)) is not None] for side in ("a", "b"))
    return Alignment(kinship, tuple(layers), tuple(removed), tuple(added), tuple(left))


def _cannot_align(a: Attention, b: Attention) -> str:
    one, other = a.heads, b.heads
    assert one is not None
    assert other is not None
    if one.num_heads * other.num_kv_heads != other.num_heads * one.num_kv_heads:
        shares = f"{one.num_heads}/{one.num_kv_heads} and {other.num_heads}/{other.num_kv_heads}"
        return f"its heads share K and V in other groups: {shares}"
    if any(one.width(part) != other.width(part) for part in "qkv"):
        return "its heads have another width"
    return ""


def _aligned(a: Attention, b: Attention, fate: LayerFate, positions: Positions | None) -> AlignedLayer:
    ours, theirs = whole_heads(a), whole_heads(b)
    pairs = {head.b: head.a for head in fate.heads if head.fate == "kept" and head.b is not None and head.a is not None}
    groups = list(_groups(ours, theirs, pairs))
    share = theirs.share
    order = [head for _, heads in groups for head in heads]
    turns = [_turns(ours, theirs, heads, pairs, positions) for _, heads in groups]
    shared = [heads[0] // share for _, heads in groups]
    anew = HeadsAnew(
        q=tuple(_terms(head, turns[at // share][0], inverse=True) for at, head in enumerate(order)),
        k=tuple(_terms(head, turn[0], inverse=False) for head, turn in zip(shared, turns, strict=True)),
        v=tuple(_terms(head, turn[1], inverse=False) for head, turn in zip(shared, turns, strict=True)),
        o=tuple(_terms(head, turns[at // share][1], inverse=True) for at, head in enumerate(order)),
    )
    undone = tuple(_undone(order, turns))
    partners = tuple(pairs.get(head) for head in order)
    turned = any(turn is not STILL for both in turns for turn in both)
    return AlignedLayer(
        a, b if anew.kept else made_anew(b, anew), anew, partners, tuple(group for group, _ in groups), undone, turned
    )


def _groups(a: WholeHeads, b: WholeHeads, pairs: dict[int, int]) -> Iterator[tuple[int | None, list[int]]]:
    """The heads of B in the order of A's, those that share one of K and V together.

    Those without a partner stand in the places that are left; where B has another number of them, last.
    """
    votes = np.zeros((len(a.k), len(b.k)))
    for theirs, ours in pairs.items():
        votes[ours // a.share, theirs // b.share] += 1
    partner = {group: of_a for of_a, group in one_to_one(votes) if votes[of_a, group]}
    if len(a.k) == len(b.k):
        partner = _filled(partner, range(len(b.k)), range(len(a.k)))
    for group in sorted(range(len(b.k)), key=lambda group: partner.get(group, len(a.k) + group)):
        heads = range(group * b.share, (group + 1) * b.share)
        ours = partner.get(group)
        if ours is None:
            yield None, list(heads)
            continue
        own = range(ours * a.share, (ours + 1) * a.share)
        places = _filled({head: pairs[head] for head in heads if pairs.get(head, -1) in own}, heads, own)
        yield ours, sorted(heads, key=places.__getitem__)


def _filled(partner: dict[int, int], theirs: range, ours: range) -> dict[int, int]:
    """With those that have no partner in the places that are left, in their order."""
    left = iter([place for place in ours if place not in partner.values()])
    return {one: partner[one] if one in partner else next(left) for one in theirs}


def _turns(
    a: WholeHeads, b: WholeHeads, heads: Sequence[int], pairs: dict[int, int], positions: Positions | None
) -> tuple[ExactTurn, ExactTurn]:
    """Of Q against K and of V against the output, for heads that share one of K and V."""
    group = heads[0] // b.share
    known = [head for head in heads if head in pairs]
    of_a = {pairs[head] // a.share for head in known}
    if len(of_a) != 1:
        return STILL, STILL
    (ours,) = of_a
    q, o = ([one[pairs[head]] for head in known] for one in (a.q, a.o))
    others = [b.q[head] for head in known], [b.o[head] for head in known]
    qk = STILL
    if positions is not None:
        qk = nearest_turn((a.k[ours], joined(q)), (b.k[group], joined(others[0])), positions)
    return qk, nearest_turn((a.v[ours], joined(o)), (b.v[group], joined(others[1])), Positions("none"))


def _terms(head: int, turn: ExactTurn, *, inverse: bool) -> Terms:
    return ((head, turn.of(inverse=inverse)),)


def _undone(order: Sequence[int], turns: Sequence[tuple[ExactTurn, ExactTurn]]) -> Iterator[str]:
    moved = sum(head != place for place, head in enumerate(order))
    if moved:
        yield f"{moved} of {len(order)} heads in another place"
    for side, name in ((0, "Q and K"), (1, "V and output")):
        counts = {
            "rotated": sum(both[side].rotated for both in turns),
            "rescaled": sum(abs(both[side].scale - 1) > _SCALED for both in turns),
        }
        said = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
        if said:
            yield f"{name}: {said} of {len(turns)}"
