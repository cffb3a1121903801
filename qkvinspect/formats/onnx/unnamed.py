"""Names for the weights of attention for which nothing in a graph says what their module called them.

Quantisers and optimisers drop what torch's exporter wrote of modules, and a part of a weight has no name of its own.
That they are Q, K and V follows from the graph all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.onnx.biases import PieceOfVector, bias_of, piece_added
from qkvinspect.formats.onnx.calls import Calls
from qkvinspect.formats.onnx.flow import Flow, Met
from qkvinspect.formats.onnx.labels import is_generated
from qkvinspect.formats.onnx.names import Named, Use, Uses
from qkvinspect.formats.onnx.products import PRODUCTS

_MOST = 1 << 12
"""Attention modules whose weights are named."""

_PACKED_BIAS = "in_proj_bias"
"""What nn.MultiheadAttention calls the biases of Q, K and V, one behind the other, where their weights are apart."""


def attention_names(
    flow: Flow, uses: Uses, names: Mapping[str, Named], pieces: Mapping[str, PieceOfVector]
) -> Iterator[Named]:
    """Each such weight by its name in the file, behind the path of its module, or the number of its attention.

    A weight that several modules use has a name in each of them: exporters store equal ones once.

    Args:
        pieces: values that are cut of vectors, as biases may be.
    """
    known = {one.stored for one in names.values()} - _bare(flow, names)
    times = Counter(use.stored.name for use in uses.all)
    done = {(name.rpartition(".")[0], one.stored) for name, one in names.items() if is_generated(one.stored)}
    partly: dict[tuple[int, str], bool] = {}  # whether modules of the same attention have names for a weight
    for number, one, modules, own, taken in islice(_in_each_module(flow, uses), _MOST):
        cut = [None if use is None else piece_added(uses, use, pieces) for use in taken]
        home = _multihead(taken, cut, names, own[0])
        for part, view, use, scope, piece in zip("qkv", (one.q, one.k, one.v), taken, own, cut, strict=True):
            place = scope or f"attention.{number}"
            if (place, view.weight) in done:
                continue
            if (number, view.weight) not in partly:
                partly[number, view.weight] = any((other, view.weight) in done for other in modules)
            if view.weight in known and not partly[number, view.weight]:
                continue
            if use is None:  # cut before its product
                known.add(view.weight)
                name = f"attention.{number}.{view.weight.replace('.', '_')}.weight"
                yield Named(name, view.weight, view.weight in flow.projections.in_out)
                continue
            done.add((place, use.stored.name))
            if not scope:
                known.add(use.stored.name)
            if home is not None:
                yield Named(f"{home}{part}_proj_weight", use.stored.name, use.turned)
                continue
            name = f"{place}.{use.stored.name.replace('.', '_')}"
            yield Named(f"{name}.weight", use.stored.name, use.turned)
            bias = bias_of(uses, use)
            if bias is not None and _has_no_other_place(bias, known, times):
                yield Named(f"{name}.bias", bias.stored.name)
            elif piece is not None:
                yield Named(f"{name}.bias", piece.stored, part=(piece.start, piece.stop))


class _Placed(NamedTuple):
    """Attention in a module.

    Attributes:
        number: which of all attention it is.
        modules: the paths of all modules that have it.
        own: for Q, K and V the path of the node that multiplies with it, and which use that is.
    """

    number: int
    met: Met
    modules: Sequence[str]
    own: Sequence[str]
    taken: Sequence[Use | None]


def _in_each_module(flow: Flow, uses: Uses) -> Iterator[_Placed]:
    """All attention, once a module.

    Where an optimiser has computed once what several modules make of the same input, it stands in one of them.
    """
    calls = Calls(uses.all)
    products: dict[str, dict[str, Use]] = {}
    for use in uses.all:
        if use.slot == PRODUCTS.get(use.node.op):
            products.setdefault(use.stored.name, {})[calls.module(use.node)] = use
    times = Counter(flow.met)
    by_queries = Counter(one.q.weight for one in times)
    shared: dict[tuple[str, ...], list[str]] = {}
    for number, one in enumerate(times):
        weights = (one.q.weight, one.k.weight, one.v.weight)
        q, k, v = every = [products.get(weight, {}) for weight in weights]
        if weights not in shared:
            shared[weights] = [path for path in min(every, key=len) if all(path in each for each in every)]
        modules = shared[weights]
        if (
            modules
            and by_queries[one.q.weight] == 1
            and times[one] >= len(q)
            and k.keys() <= q.keys()
            and v.keys() <= q.keys()
        ):
            modules = [*q]
        for path in modules:
            taken = [each.get(path) or next(iter(each.values())) for each in every]
            yield _Placed(number, one, modules, [path] * 3, taken)
        if not modules:
            last = [next(reversed(each.items()), ("", None)) for each in every]
            yield _Placed(number, one, (), [path for path, _ in last], [use for _, use in last])


def _has_no_other_place(bias: Use, known: Collection[str], times: Mapping[str, int]) -> bool:
    """Whether a bias is not, or not only, that of the module whose name it has."""
    return bias.stored.name not in known or "." not in bias.label or times[bias.stored.name] > 1


def _bare(flow: Flow, names: Mapping[str, Named]) -> set[str]:
    """The weights of several modules that are called by one word each: nothing is left of the modules' names."""
    modules = {frozenset(view.weight for view in (one.q, one.k, one.v)) for one in flow.met[:_MOST]}
    named = {one.stored for one in names.values() if "." in one.name}
    bare = [weights for weights in modules if not any("." in one or one in named for one in weights)]
    return {one for weights in bare for one in weights} if len(bare) > 1 else set()


def cut_biases(uses: Uses, names: Mapping[str, Named], pieces: Mapping[str, PieceOfVector]) -> Iterator[Named]:
    """The biases of products whose weights have names, where they are pieces of a vector."""
    if not pieces:
        return
    by_stored = {one.stored: name for name, one in names.items() if one.part is None and name.endswith(".weight")}
    for use in uses.all:
        stored = use.stored.name
        if use.slot != PRODUCTS.get(use.node.op) or stored not in by_stored:
            continue
        scope = use.node.scope
        own = [f"{scope}.weight", f"{scope}.{stored.replace('.', '_')}.weight"] if scope else []
        own = [name for name in own if name in names and names[name].stored == stored]
        for name in own or [by_stored[stored]]:
            piece = piece_added(uses, use, pieces)
            if piece is not None and f"{name[:-6]}bias" not in names:
                yield Named(f"{name[:-6]}bias", piece.stored, part=(piece.start, piece.stop))


def _multihead(
    taken: Sequence[Use | None], cut: Sequence[PieceOfVector | None], names: Mapping[str, Named], own: str
) -> str | None:
    """The path of the nn.MultiheadAttention that three matrices are of: thirds of its biases are added to them.

    Args:
        own: the path in the name of the node, which tells which it is where several have equal biases.
    """
    pieces = [piece for piece in cut if piece is not None]
    if len({use.stored.name for use in taken if use is not None}) != 3 or len(pieces) != 3:
        return None
    width, stored = pieces[0].stop, pieces[0].stored
    if pieces != [PieceOfVector(stored, place * width, (place + 1) * width) for place in range(3)]:
        return None
    homes = [name for name, named in names.items() if named.stored == stored and name.endswith(_PACKED_BIAS)]
    if len(homes) > 1:
        homes = [name for name in homes if name == f"{own}.{_PACKED_BIAS}"]
    return homes[0].removesuffix(_PACKED_BIAS) if len(homes) == 1 else None
