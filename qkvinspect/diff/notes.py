"""What is said of all layers together: what a converter did, which rows were put in order, what quantisation did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.diff.difference import LayerDifference
from qkvinspect.diff.head_losses import quantised
from qkvinspect.diff.layer_pair import LayerPair
from qkvinspect.diff.parts import by_fours, common_heads, paired, shared_apart
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.adapters import is_sum


def disagreeing(work: Sequence[LayerPair]) -> list[str]:
    """Whether the two have other numbers of heads, with those of the first layer; of kv heads where these are fewer."""
    odd = [one for one in work if one.a.heads and one.b.heads and not common_heads(one.a, one.b)]
    if not odd:
        return []
    sides = [(one.heads, one.heads_from) for one in (odd[0].a, odd[0].b) if one.heads]
    grouped = any(sizes.num_heads != sizes.num_kv_heads for sizes, _ in sides)
    a, b = (f"{_counts(sizes, grouped=grouped)} ({origin})" for sizes, origin in sides)
    return [f"A has {a} and B {b} in {len(odd)} of {len(work)} layers, which were compared without heads"]


def _counts(sizes: Geometry, *, grouped: bool) -> str:
    """``8 heads``, or ``8 heads over 2 kv heads``."""
    heads, kv = (
        f"{n} {what}{'s' * (n != 1)}" for n, what in ((sizes.num_heads, "head"), (sizes.num_kv_heads, "kv head"))
    )
    return f"{heads} over {kv}" if grouped else heads


def borrowed(work: Sequence[LayerPair]) -> Iterator[str]:
    """Whose heads put the rows of the other side in order, where that gives none."""
    for side, other in (("A", "B"), ("B", "A")):
        if any(one.without_heads == side for one in work):
            yield f"no number of heads is known in {side}, so those of {other} were used"


def converted(work: Sequence[LayerPair]) -> Iterator[str]:
    """What a converter did to the rows, where it wrote one side only."""
    sides = {"A": [one.a.layout for one in work], "B": [one.b.layout for one in work]}
    rewritten = {
        side: [layout for layout in layouts if layout is not None and layout.rewritten_by]
        for side, layouts in sides.items()
    }
    if all(rewritten.values()):
        return
    for side, layouts in rewritten.items():
        for layout in dict.fromkeys(layout for layout in layouts if layout.note):
            yield f"what {layout.rewritten_by}'s converter did to {side} ({layout.id}): {layout.note}"


def put_in_order(work: Sequence[LayerPair]) -> list[str]:
    """Which rows were put in another order before they were compared."""
    if any(shared_apart(one.a) != shared_apart(one.b) for one in work):
        return ["the heads of V that share a head of K were compared side by side, as transformers has them"]
    if any(by_fours(one.a) != by_fours(one.b) for one in work):
        return ["the rows of each head of Q and K that were taken apart by fours were compared in transformers' order"]
    sides = [(a, b) for one in work if (a := paired(one.a)) != (b := paired(one.b))]
    if not sides:
        return []
    side, parts = ("A", sides[0][0]) if sides[0][0] else ("B", sides[0][1])
    names = " and ".join(part.upper() for part in parts)
    text = f"in each head of {names} of {side} the rows of the two halves lie in turn, as llama.cpp has them"
    return [f"{text}; they were compared in the order of the other side"]


def codes_of(layer: LayerPair) -> tuple[str, ...]:
    """The encodings of the quantised weights on either side."""
    rounded = [lines for side in layer.parts for lines in side.values() if quantised([lines])]
    return tuple(dict.fromkeys(lines.weight.encoding.label for lines in rounded if lines.weight.encoding))


def about_quantised(work: Sequence[LayerPair], layers: Sequence[LayerDifference]) -> list[str]:
    """Whether quantisation alone explains the difference; an adapter is no rounding."""
    notes: list[str] = []
    by_codes: dict[tuple[bool, tuple[str, ...]], list[LayerDifference]] = {}
    for one, layer in zip(work, layers, strict=True):
        if layer.status != "identical" and (codes := codes_of(one)):
            adapted = any(is_sum(lines.weight) for side in one.parts for lines in side.values())
            by_codes.setdefault((adapted, codes), []).append(layer)
    for (adapted, codes), some in by_codes.items():
        more = [layer.a for layer in some if layer.status != "rounding"]
        label = " and ".join(codes[:2]) + (", ..." if len(codes) > 2 else "")
        named = f"{', '.join(more[:3])}{', ...' if len(more) > 3 else ''}"
        if adapted:
            notes.append(f"adapted ({label}): changed in {len(more)} of {len(some)} layers" + f": {named}" * bool(more))
            continue
        text = f"quantised ({label}): within its rounding in {len(some) - len(more)} of {len(some)} layers"
        notes.append(f"{text}, more than that in {named}" if more else text)
    return notes
