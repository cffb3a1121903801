"""What a graph makes of the rows of its weights, as attention modules by the names of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.computed_rows import (
    ComputedAttention,
    ComputedCut,
    ComputedPart,
    ComputedShared,
    ComputedSum,
    ComputedUnknown,
)
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.flow import Flow, Met
from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.low_rank import AddedProduct
from qkvinspect.formats.onnx.names import Named, Uses
from qkvinspect.formats.onnx.views import View

_MOST_PARTS = 8
"""Components from the end of a name in which it may differ from one that stands beside it."""

_LONGEST = 100
"""Of what is said of a node."""

_MOST_RANGES = 1 << 18
"""Heads of all modules together that are listed."""


def computed(
    met: Iterable[Met], names: Mapping[str, Named], in_out: Collection[str] = ()
) -> Iterator[ComputedAttention]:
    """The modules whose every projection has a name; of several that share a weight each by its own names.

    Args:
        in_out: the stored matrices whose rows lie along their second axis.
    """
    lie = frozenset(name for name, named in names.items() if (named.stored in in_out) != named.turned)
    every = _every_name(names)
    seen: set[ComputedAttention] = set()
    left = _MOST_RANGES
    for one in dict.fromkeys(met):
        for by_stored in _names_together([every.get(view.weight, {}) for view in (one.q, one.k, one.v)], one):
            found = _module(one, by_stored)
            left -= 1 if found is None else sum(len(part.heads) for part in found.parts.values())
            if left < 0:
                return
            if found is not None:
                found = found._replace(in_out=lie.intersection(part.weight for part in found.parts.values()))
            if found is not None and found not in seen:
                seen.add(found)
                yield found


def cut(pieces: Iterable[Sequence[View]], names: Mapping[str, Named]) -> Iterator[ComputedCut]:
    """The weights that are cut into two or three, with the rows of each piece."""
    by_stored = _by_stored(names)
    left = _MOST_RANGES
    for views in pieces:
        weights = {view.weight for view in views}
        name = by_stored.get(views[0].weight)
        if name is None or len(weights) > 1 or len(views) < 2:
            continue
        runs = [_runs(view) for view in views]
        left -= sum(map(len, filter(None, runs))) + 1
        if left < 0:
            return
        known = [each for each in runs if each is not None]
        if len(known) == len(views) == len({frozenset(each) for each in known}):
            yield ComputedCut(name, tuple(known))


def unknown(
    tensors: Mapping[str, TensorInfo],
    known: Collection[str],
    flow: Flow,
    names: Mapping[str, Named],
) -> Iterator[ComputedUnknown]:
    """The matrices that no attention that is known takes, or whose rows are taken in an order that cannot be followed.

    Args:
        known: the weights of such attention.
    """
    places: dict[int, str] = {}
    for name, info in tensors.items():
        stored = names[name].stored if name in names else name
        if stored in flow.reordered or (len(info.shape) > 1 and name not in known):
            node = flow.until.get(stored)
            places = places or _places(flow.graph.nodes)
            yield ComputedUnknown(name, flow.reordered.get(stored, ""), places.get(id(node), "")[:_LONGEST])


def _places(nodes: Sequence[Node]) -> dict[int, str]:
    """What each node is called: its operator and the module that it was traced in, counted where this has several.

    The names of nodes count through the whole graph, so that those of alike layers are not alike.
    """
    alike: dict[tuple[str, str | None], list[Node]] = {}
    for node in nodes:
        alike.setdefault((node.op, node.scope), []).append(node)
    found: dict[int, str] = {}
    for (op, scope), every in alike.items():
        for number, node in enumerate(every, 1):
            counted = f"{op} number {number}" if len(every) > 1 else op
            own = node.name or next(iter(node.outputs), "")
            found[id(node)] = f"{counted} in {scope}" if scope else f"{op} {own}"
    return found


def sums(low_ranks: Mapping[str, Sequence[AddedProduct]], names: Mapping[str, Named]) -> Iterator[ComputedSum]:
    """What is added to each weight, in the order in which it is."""
    by_stored = _by_stored(names)
    for stored, every in low_ranks.items():
        for one in every:
            told = [by_stored.get(name) for name in (stored, one.up, one.down)]
            if None not in told:
                weight, up, down = filter(None, told)
                yield ComputedSum(weight, up, down, one.scale)


def shared(uses: Uses, names: Mapping[str, Named]) -> Iterator[ComputedShared]:
    """The vectors that are used in more places than there are names for them: optimisers keep one of equal ones."""
    named = Counter(one.stored for one in names.values())
    used = Counter(use.stored.name for use in uses.all if len(use.stored.sizes) == 1)
    for stored, name in _by_stored(names).items():
        if used[stored] > named[stored]:
            yield ComputedShared(name, used[stored] - named[stored])


def _runs(view: View) -> tuple[range, ...] | None:
    """All rows of a view, in runs of neighbours."""
    digits = sorted(
        (digit for axis in view.axes for digit in axis if digit.stride), key=lambda digit: -abs(digit.stride or 0)
    )
    digits = list(moved.normal(digits))
    inner = digits.pop() if digits and digits[-1].stride == 1 else moved.Digit(1, 1)
    first = moved.starts(digits, view.offsets[0])
    return None if first is None else tuple(range(start, start + int(inner.size)) for start in first)


def _by_stored(names: Mapping[str, Named]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, named in names.items():
        if named.part is None:
            found.setdefault(named.stored, name)
    return found


def _every_name(names: Mapping[str, Named]) -> dict[str, dict[str, str]]:
    """All names of each initialiser, by themselves and by what they begin with: the first that does."""
    found: dict[str, dict[str, str]] = {}
    for name, named in names.items():
        if named.part is None:
            held = found.setdefault(named.stored, {})
            path = name
            for _ in range(_MOST_PARTS):
                held.setdefault(path, name)
                path = path.rpartition(".")[0]
    return found


def _names_together(parts: Sequence[Mapping[str, str]], met: Met) -> Iterator[dict[str, str]]:
    """The names of Q, K and V that stand together, where a weight has several, as one that layers share.

    Args:
        parts: for each, its names by what they begin with.
    """
    fewest = min(parts, key=lambda every: len({*every.values()}))
    for own in dict.fromkeys(fewest.values()):
        found: dict[str, str] = {}
        for view, every in zip((met.q, met.k, met.v), parts, strict=True):
            path, name = own, None
            while name is None and path:
                name, path = every.get(path), path.rpartition(".")[0]
            found[view.weight] = name or next(iter(every.values()))
        yield found


def _module(met: Met, names: Mapping[str, str]) -> ComputedAttention | None:
    parts: dict[str, ComputedPart] = {}
    for part, view in (("q", met.q), ("k", met.k), ("v", met.v)):
        heads, name = _heads(view, folded=part == "q"), names.get(view.weight)
        if heads is None or name is None:
            return None
        parts[part] = ComputedPart(name, heads)
    q, k, v = (parts[part].heads for part in "qkv")
    if len(k) != len(v) or len(q) % len(k):
        return None
    shared_otherwise = any(_shared_otherwise(met.q, view, len(q), len(k)) for view in (met.k, met.v))
    return ComputedAttention(parts["q"], parts["k"], parts["v"], shared_otherwise, _turn(met))


def _heads(view: View, *, folded: bool) -> tuple[range, ...] | None:
    """The rows of each head, in their order, each once; None where they are not evenly spaced.

    Args:
        folded: whether heads may be counted together with tokens, as those of Q are where all share one K.
    """
    lead, last = [digit for axis in view.axes[:-2] for digit in axis], view.axes[-2:]
    tokens = [axis for axis in last if not all(map(moved.is_rows, axis))]
    if len(tokens) == 1 and all(map(moved.rows_of_axis, last)):
        if not folded:
            return None
        lead += moved.rows_of_axis(tokens[0])
        last = tuple(axis for axis in last if axis is not tokens[0])
    inner = moved.normal(moved.rows_of_axis(tuple(digit for axis in last for digit in axis)))
    if len(inner) > 1 or len(view.offsets) != 1:
        return None
    first = moved.starts(lead, view.offsets[0])
    if first is None:
        return None
    size, step = (int(inner[0].size), inner[0].stride or 0) if inner else (1, 1)
    if step == 0:
        return None
    runs = [range(start, start + size * step, step) for start in dict.fromkeys(first)]
    return tuple(run if step > 0 else run[::-1] for run in runs)


def _shared_otherwise(queries: View, shared: View, heads: int, kv_heads: int) -> bool:
    """Whether heads share those of K, or of V, in another order than one after the other."""
    if heads == kv_heads:
        return False
    rank = max(len(queries.axes), len(shared.axes))
    by_axis = [moved.broadcast(view, rank).axes[:-2] for view in (queries, shared)]
    used = [shared.offsets[0]]
    for one, other in zip(*by_axis, strict=True):
        steps, many = moved.starts(other, 0), moved.count(one)
        if steps is None or len(steps) not in (1, many):
            return False
        used = [at + steps[place % len(steps)] for at in used for place in range(many)]
    order = [*dict.fromkeys(used)]
    in_turn = [at for at in order for _ in range(heads // kv_heads)]
    return len(used) == heads and len(order) == kv_heads and used != in_turn


def _turn(met: Met) -> int:
    turns = {view.turn for view in (met.q, met.k)} - {0}
    return turns.pop() if len(turns) == 1 else 0
