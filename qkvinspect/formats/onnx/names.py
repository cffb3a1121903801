"""Recover the names that weights had in the model from the nodes that use them.

Torch's exporters transpose the weight of a Linear and call it ``onnx::MatMul_326`` or ``val_27``; weights of equal
bytes they store once. What the modules called them stands around the nodes that use them: in the module's path, and
in the name of the bias that is added.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.onnx.biases import bias_of
from qkvinspect.formats.onnx.calls import Calls
from qkvinspect.formats.onnx.graph import Graph, Node, Stored
from qkvinspect.formats.onnx.labels import before_quantising, is_generated, own_name
from qkvinspect.formats.onnx.paths import Paths, is_short_for
from qkvinspect.formats.onnx.products import PRODUCTS, holds_codes, is_turned, size_of
from qkvinspect.late_pattern import late_pattern

_BUILT = late_pattern(r"(.+\.)(?:MatMul\.(weight)|Add\.(bias))", re.DOTALL)
"""What the model builder of onnxruntime-genai calls a weight [in, out] and the bias that is added to its product."""

_SAME = frozenset({"Identity", "Cast"})
"""Operators that pass a tensor on, at most in another dtype."""

DEQUANTIZE = "DequantizeLinear"
"""Operators that decode codes with a scale and a zero point: weights that were quantised in place."""

_SCALES = frozenset({"Mul", "RMSNormalization", "SimplifiedLayerNormalization"})
"""Operators of a norm that multiply with its scale."""

_COUNTS = frozenset({6, 7})
"""TensorProto.DataType of int32 and int64: axes, shapes, places."""

_MOST_READERS = 64
"""How many readers of a value are examined; a graph may have very many."""


_FOLDED = ".folded"
"""What the scale of a norm is called whose numbers are not those that the model has for it."""


class Named(NamedTuple):
    """An initialiser under the name that its module has for it.

    Attributes:
        stored: its name in the file.
        turned: whether it is stored [in, out].
        part: the entries of a vector that are meant, where it holds those of several.
    """

    name: str
    stored: str
    turned: bool = False
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A place where a node uses an initialiser.

    Attributes:
        label: the name by which it does: that of the initialiser, or of a copy of it.
        stored: with its sizes as the node has them.
        transposed: whether it is before.
    """

    node: Node
    slot: int
    label: str
    stored: Stored
    transposed: bool = False

    @property
    def turned(self) -> bool:
        """Whether the weight of a product is stored [in, out]."""
        return is_turned(self.node) != self.transposed


class Uses:
    """Which nodes use which initialisers, and which nodes use what others give."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers: dict[str, list[Node]] = {}
        self.makers: dict[str, Node] = {}
        for node in graph.nodes:
            for name in node.outputs:
                self.makers.setdefault(name, node)
            for name in node.inputs:
                readers = self.readers.setdefault(name, [])
                if len(readers) < _MOST_READERS:
                    readers.append(node)
        self._roots = {name: (name, name) for name in graph.initialisers}
        self._transposed: set[str] = set()
        for node in graph.nodes:
            root = self._roots.get(node.inputs[0]) if node.op in _SAME and node.inputs else None
            if root is not None and node.outputs:
                label = node.outputs[0] if node.op == "Identity" and not is_generated(node.outputs[0]) else root[1]
                self._roots.setdefault(node.outputs[0], (root[0], label))
                if node.inputs[0] in self._transposed:
                    self._transposed.add(node.outputs[0])
            elif node.op == "Transpose" and node.outputs and (root := self._roots.get(node.input(0))) is not None:
                if len(graph.initialisers[root[0]].sizes) == 2 and node.numbers.get("perm", (1, 0)) == (1, 0):
                    self._roots.setdefault(node.outputs[0], root)
                    if node.input(0) not in self._transposed:
                        self._transposed.add(node.outputs[0])
            elif node.op == DEQUANTIZE and node.outputs and node.inputs and node.inputs[0] in graph.initialisers:
                # A matrix under no name of its own: what the module calls it is told by the product.
                codes, made = node.inputs[0], node.outputs[0]
                own = before_quantising(codes, made) if len(graph.initialisers[codes].sizes) == 1 else None
                self._roots.setdefault(made, (codes, own or f"/{made}"))
        self.all = [use for node in graph.nodes for use in self.of(node)]

    def of(self, node: Node) -> list[Use]:
        """The initialisers that a node uses."""
        if node.op in _SAME:
            return []
        return [use for slot in range(len(node.inputs)) if (use := self.at(node, slot))]

    def at(self, node: Node, slot: int) -> Use | None:
        """The initialiser that a node uses at a place, or None."""
        root = self._roots.get(node.inputs[slot]) if slot < len(node.inputs) else None
        if root is None:
            return None
        stored, transposed = self.graph.initialisers[root[0]], node.inputs[slot] in self._transposed
        return Use(node, slot, root[1], replace(stored, sizes=stored.sizes[::-1]) if transposed else stored, transposed)

    @property
    def labels(self) -> Iterator[tuple[str, str]]:
        """(name, initialiser) of each name that is not made up."""
        return ((label, stored) for stored, label in self._roots.values() if not is_generated(label))


def is_folded(named: Named) -> bool:
    """Whether it is the scale of a norm that an exporter computed, which has no name in the file."""
    return named.name.endswith(_FOLDED) and named.name != named.stored


def names_of(uses: Uses) -> dict[str, Named]:
    """Every initialiser that is a weight of the model, under each name that a module has for it."""
    found: dict[str, Named] = {}
    own = _own_scopes(uses.all)
    for label, stored in uses.labels:
        found.setdefault(label, Named(label, stored))
    folded = _folded(uses)
    for name in folded:
        found.pop(name, None)
    for use in uses.all:
        name = _in_scope(use, own)
        if name is not None and use.label not in folded:
            found.setdefault(name, Named(name, use.stored.name))
    products = [use for use in uses.all if is_product(use)]
    for use, name in _product_names(uses, products, own):
        found.setdefault(name, Named(name, use.stored.name, use.turned))
        bias = bias_of(uses, use)
        if bias is not None and name.endswith(".weight") and _has_noown_name(bias, folded):
            found.setdefault(f"{name[:-6]}bias", Named(f"{name[:-6]}bias", bias.stored.name))
    for name, stored in _computed_scales(uses, found, folded):
        found.setdefault(name, Named(name, stored))
    return _as_built(uses, found)


def _computed_scales(uses: Uses, found: Mapping[str, Named], folded: set[str]) -> Iterator[tuple[str, str]]:
    """Scales of norms that an exporter computed of their weights, as 1 + w of Gemma's, which no name is left of."""
    paths = Paths(_known_paths(uses))
    held = {name.rpartition(".")[0] for name in found}
    for use in uses.all:
        node, sizes = use.node, use.stored.sizes
        computed = use.label in folded or is_generated(use.label)
        if node.op not in _SCALES or not node.scope or not computed or len(sizes) != 1 or sizes[0] < 2:
            continue
        scope = node.scope if node.told else paths.whole(node.scope)
        if "norm" in scope.rpartition(".")[2].lower() and scope not in held:
            yield scope + _FOLDED, use.stored.name


def _as_built(uses: Uses, found: dict[str, Named]) -> dict[str, Named]:
    """The names without those of operators in them."""
    for use in uses.all:
        built = _BUILT.fullmatch(use.label) if use.label in found else None
        if built is not None and (built[3] or (use.slot == PRODUCTS.get(use.node.op) and len(use.stored.sizes) == 2)):
            name = built[1] + (built[2] or built[3])
            named = found.pop(use.label)
            turned = named.turned if built[3] else use.turned
            found.setdefault(name, Named(name, named.stored, turned))
    return found


def is_product(use: Use) -> bool:
    """Whether it is the matrix that a Linear multiplies with, under a name that was made up."""
    return (
        use.slot == PRODUCTS.get(use.node.op)
        and size_of(use.node, use.stored) is not None
        and (holds_codes(use.node) or is_generated(use.label) or _is_computed(use))
    )


def _has_noown_name(bias: Use, folded: Collection[str]) -> bool:
    """Whether what is added to a product has no name but that of the product: computed, or shared with another."""
    return is_generated(bias.label) or bias.label in folded or bias.label.endswith(".bias")


def _is_computed(use: Use) -> bool:
    """Whether torch's exporter computed it, as ``permute``: all else has the path of the module that uses it."""
    return bool(use.node.told and use.node.scope) and "." not in use.label


def _own_scopes(uses: Iterable[Use]) -> Mapping[str, str]:
    """For each name the longest path of a module that uses it and that it begins with."""
    own: dict[str, str] = {}
    for use in uses:
        scope = use.node.scope
        if scope and use.label.startswith(f"{scope}.") and len(scope) > len(own.get(use.label, "")):
            own[use.label] = scope
    return own


def _in_scope(use: Use, own: Mapping[str, str]) -> str | None:
    """What a module calls an initialiser: torch stores equal ones once, under the name of the first module."""
    if is_generated(use.label):
        return None
    scope, first = use.node.scope, own.get(use.label)
    if not scope or not use.node.told or first is None or use.label.startswith(f"{scope}."):
        return use.label
    return scope + use.label[len(first) :]


def _folded(uses: Uses) -> set[str]:
    """Constants that exporters computed: they have no path, and only modules below the root use them, or are counts."""
    scopes: dict[str, set[str | None]] = {}
    counts: set[str] = set()
    for use in uses.all:
        if "." not in use.label:
            scopes.setdefault(use.label, set()).add(use.node.scope if use.node.told else "")
            if use.stored.type in _COUNTS and len(use.stored.sizes) < 2:
                counts.add(use.label)
    return counts | {label for label, seen in scopes.items() if "" not in seen}


def _product_names(uses: Uses, products: list[Use], own: Mapping[str, str]) -> Iterator[tuple[Use, str]]:
    """The names of the matrices of Linears."""
    by_scope: dict[str, list[Use]] = {}
    paths, calls = Paths(_known_paths(uses)), Calls(uses.all)
    for use in products:
        known = own_name(use.label)
        if known is not None:
            yield use, known
            continue
        bias = bias_of(uses, use)
        label = _in_scope(bias, own) if bias is not None else None
        scope = calls.module(use.node)
        if label is not None and label.endswith("bias") and _is_of(label, use.node):
            yield use, f"{label[:-4]}weight"
        elif scope:
            known_path = use.node.told or scope != use.node.scope
            by_scope.setdefault(scope if known_path else paths.whole(scope), []).append(use)
    labels = dict(uses.labels)
    homes = {".".join(label.split(".")[:-2]) for label in labels}
    for scope, alike in by_scope.items():
        stored = {use.stored.name: use for use in alike}
        threefold = [name for name, use in stored.items() if _is_threefold(use)]
        others = [name for name in stored if name not in threefold]
        if len(threefold) == 1 and (len(others) == 1) != (f"{scope}.out_proj.weight" in labels):
            # nn.MultiheadAttention multiplies with its matrices itself, and has no biases here to tell them by
            yield stored[threefold[0]], f"{scope}.in_proj_weight"
            yield from ((stored[name], f"{scope}.out_proj.weight") for name in others)
        elif len(stored) == 1:
            # a module of others that multiplies with the matrix of one of them, as timm's BEiT does
            inner = ".qkv" if threefold and scope in homes else ""
            yield alike[0], f"{scope}{inner}.weight"


def _known_paths(uses: Uses) -> Iterator[tuple[str, str]]:
    """(path in the name of a node, path of what it uses), where both are known."""
    for use in uses.all:
        path = use.label.rpartition(".")[0]
        if path and use.node.scope and not use.node.told and not is_generated(use.label):
            yield use.node.scope, path


def _is_of(label: str, node: Node) -> bool:
    """Whether a bias is of the module that a node was traced in."""
    if not node.scope or label.startswith(f"{node.scope}."):
        return True
    return not node.told and is_short_for(node.scope, label.rpartition(".")[0])


def _is_threefold(use: Use) -> bool:
    """Whether a matrix has three times as many rows as columns, as Q, K and V of one width have."""
    size = size_of(use.node, use.stored)
    return size is not None and size[0] == 3 * size[1]
