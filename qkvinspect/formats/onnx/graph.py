"""Parse the parts of an ONNX file (onnx.proto) that tell what its weights are: initialisers, nodes, module paths."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.error_codes import Code
from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.onnx.unread import function_name, sparse_name
from qkvinspect.formats.onnx.wire import BYTES, FIXED32, VARINT, Field, Wire, signed
from qkvinspect.late_pattern import late_pattern

_GRAPH, _METADATA, _FUNCTION = 7, 14, 25  # of a ModelProto
_NODE, _INITIALIZER, _INPUT, _SPARSE = 1, 5, 11, 15  # of a GraphProto
_MOST_INTS = 64
_MAX_METADATA = 1 << 14

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Torch's exporter since 2.5: the modules around a node, as Python writes a list of their paths, and its own name."""


_FUSION = late_pattern(r"(?:/[A-Za-z]{1,60}Fusion/{0,2}){1,8}$")


@dataclass(frozen=True, slots=True)
class Stored:
    """A TensorProto: nothing of its numbers has been read.

    Attributes:
        type: one of TensorProto.DataType.
        place: the field that holds its numbers, and where these lie; None where it has none.
        external: what it says of another file that holds them; empty where it is in none.
    """

    name: str
    sizes: tuple[int, ...]
    type: int
    place: tuple[int, int, int] | None
    external: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Node:
    """A NodeProto.

    Attributes:
        numbers: its attributes that are whole numbers, or lists of them.
        constant: the tensor that a Constant gives.
        equation: of an Einsum.
        scope: the path of the module that it was traced in; None where that is not known.
        factor: what a product is multiplied by (alpha).
        told: whether the exporter wrote that path into the node's metadata, so that it was not guessed from its name.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]
    constant: Stored | None
    scope: str | None
    told: bool
    equation: str = ""
    factor: float = 1.0

    def input(self, slot: int) -> str:
        """The name of what it takes at a place; "" where it takes nothing there."""
        return self.inputs[slot] if 0 <= slot < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class Graph:
    """All nodes, those of branches and loops too, and all initialisers, in the order of the file.

    Attributes:
        inputs: the shapes of what the model is given, by name; a text for a size that is left open.
        sparse: the names of sparse initialisers, which are not read.
        functions: operators that the file defines itself, into which nothing looks: (domain, name).
    """

    nodes: tuple[Node, ...]
    initialisers: Mapping[str, Stored]
    metadata: Mapping[str, str]
    inputs: Mapping[str, tuple[int | str, ...]]
    sparse: Sequence[str] = ()
    functions: frozenset[tuple[str, str]] = frozenset()


def read_graph(wire: Wire) -> Graph:
    """Read everything but the weights.

    Raises:
        CheckpointError: the file is malformed, or over a limit.
    """
    nodes: list[Node] = []
    initialisers: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    inputs: dict[str, tuple[int | str, ...]] = {}
    sparse: list[str] = []
    functions: set[tuple[str, str]] = set()
    found = False
    for part in wire.fields(0, wire.source.size):
        if part.number == _GRAPH:
            if found:
                raise damaged(wire.source, Code.ONNX_DUPLICATE, "has two graphs", None)
            found = True
            _graph(wire, part, nodes, initialisers, 1, inputs, sparse)
        elif part.number == _METADATA:
            key, value = _pair(wire, part)
            metadata[key] = value
        elif part.number == _FUNCTION:
            functions.add(function_name(wire, part))
    if not found:
        raise damaged(wire.source, Code.ONNX_GRAPH, "is an ONNX model without a graph", None)
    return Graph(tuple(nodes), initialisers, metadata, inputs, sparse, frozenset(functions))


def _graph(
    wire: Wire,
    whole: Field,
    nodes: list[Node],
    initialisers: dict[str, Stored],
    depth: int,
    inputs: dict[str, tuple[int | str, ...]] | None = None,
    sparse: list[str] | None = None,
) -> None:
    wire.limits.check("depth", depth, wire.source.name)
    for part in wire.fields(*wire.message(whole, "a graph")):
        if part.number == _NODE:
            nodes.append(_node(wire, part, nodes, initialisers, depth))
        elif part.number == _INITIALIZER:
            stored = _tensor(wire, part)
            if stored.name in initialisers:
                raise damaged(wire.source, Code.ONNX_DUPLICATE, "stands there twice", None, stored.name)
            initialisers[stored.name] = stored
            wire.limits.check("tensors", len(initialisers), wire.source.name)
        elif part.number == _INPUT and inputs is not None:
            name, shape = _input(wire, part)
            inputs[name] = shape
        elif part.number == _SPARSE and sparse is not None:
            sparse.append(sparse_name(wire, part))


def _node(wire: Wire, whole: Field, nodes: list[Node], initialisers: dict[str, Stored], depth: int) -> Node:
    texts: dict[int, str] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    numbers: dict[str, tuple[int, ...]] = {}
    constant: Stored | None = None
    scope: str | None = None
    equation, factor = "", 1.0
    for part in wire.fields(*wire.message(whole, "a node")):
        if part.number in (1, 2):
            (inputs if part.number == 1 else outputs).append(wire.text(part, "the name of a value"))
        elif part.number in (3, 4, 7):
            texts[part.number] = wire.text(part, "the name of a node")
        elif part.number == 5:
            name, values, tensor, text = _attribute(wire, part, nodes, initialisers, depth)
            factor = text if name == "alpha" and isinstance(text, float) else factor
            numbers |= {name: values} if values else {}
            equation = text if name == "equation" and isinstance(text, str) else equation
            constant = tensor or constant
        elif part.number == 9:
            scope = _scope(*_pair(wire, part)) or scope
    told = scope is not None
    path = scope if told else _path(texts.get(3, ""))
    return Node(
        texts.get(4, ""),
        texts.get(7, ""),
        texts.get(3, ""),
        tuple(inputs),
        tuple(outputs),
        numbers,
        constant,
        path,
        told,
        equation,
        factor,
    )


def _attribute(
    wire: Wire, whole: Field, nodes: list[Node], initialisers: dict[str, Stored], depth: int
) -> tuple[str, tuple[int, ...], Stored | None, str | float]:
    """(its name, its whole numbers, its tensor, its text, or its number).

    The nodes of a branch or a loop are added to the others.
    """
    name, values, tensor = "", list[int](), None
    text: str | float = ""
    for part in wire.fields(*wire.message(whole, "an attribute")):
        if part.number == 1:
            name = wire.text(part, "the name of an attribute")
        elif part.number == 2 and part.kind == FIXED32:
            (text,) = struct.unpack("<f", wire.take(part.start, part.stop))
        elif part.number in (3, 8):
            values += _numbers(wire, part, _MOST_INTS - len(values))
        elif part.number == 4 and part.kind == BYTES and part.stop - part.start <= _MOST_INTS:
            text = wire.take(part.start, part.stop).decode(errors="replace")
        elif part.number == 5:
            tensor = _tensor(wire, part)
        elif part.number in (6, 11):
            _graph(wire, part, nodes, initialisers, depth + 1)
    return name, tuple(values), tensor if name == "value" else None, text


def _input(wire: Wire, whole: Field) -> tuple[str, tuple[int | str, ...]]:
    """The name and the shape of a ValueInfoProto: TypeProto, its Tensor, TensorShapeProto, and its dimensions."""
    name, shape = "", list[int | str]()
    places = [(whole, 0)]
    while places:
        message, depth = places.pop()
        for part in wire.fields(*wire.message(message, "an input")):
            if depth == 0 and part.number == 1:
                name = wire.text(part, "the name of an input")
            elif part.number == (2, 1, 2)[depth] and depth < 2:
                places.append((part, depth + 1))
            elif depth == 2 and part.number == 2:
                shape = [_size(wire, one, place) for place, one in enumerate(_dimensions(wire, part))]
    return name, tuple(shape)


def _dimensions(wire: Wire, whole: Field) -> list[Field]:
    found = [part for part in wire.fields(*wire.message(whole, "a shape")) if part.number == 1]
    return found[: _MOST_INTS + 1]


def _size(wire: Wire, whole: Field, place: int) -> int | str:
    """A dimension: its number, or its name."""
    for part in wire.fields(*wire.message(whole, "a dimension")):
        if part.number == 1 and part.kind == VARINT and signed(part.value) > 0:
            return part.value
        if part.number == 2:
            return wire.text(part, "the name of a dimension")
    return f"?{whole.start}.{place}"


def _tensor(wire: Wire, whole: Field) -> Stored:
    name, sizes, kind = "", list[int](), 0
    place: tuple[int, int, int] | None = None
    external: dict[str, str] = {}
    is_external = False
    for part in wire.fields(*wire.message(whole, "a tensor")):
        if part.number == 1:
            sizes += _numbers(wire, part, _MOST_INTS + 1 - len(sizes))
        elif part.number == 2 and part.kind == VARINT:
            kind = part.value
        elif part.number == 8:
            name = wire.text(part, "the name of a tensor")
        elif part.number in (4, 5, 7, 9, 10, 11):
            if place is not None:
                raise damaged(wire.source, Code.ONNX_DUPLICATE, "has its numbers twice, or in pieces", None, name)
            place = (part.number, part.start, part.stop)
        elif part.number == 13:
            key, value = _pair(wire, part)
            external[key] = value
        elif part.number == 14:
            is_external = part.value == 1
    if len(sizes) > _MOST_INTS or min(sizes, default=0) < 0:
        raise damaged(wire.source, Code.ONNX_SHAPE, "shape cannot be", str(sizes)[:80], name)
    if is_external and (place is not None or "location" not in external):
        found = "numbers of its own as well" if place is not None else "no location"
        raise damaged(wire.source, Code.ONNX_EXTERNAL, "is said to be in another file", found, name)
    return Stored(name, tuple(sizes), kind, place, external if is_external else {})


def _numbers(wire: Wire, part: Field, most: int) -> Iterator[int]:
    """The numbers of a repeated field, packed or not, as many as are wanted."""
    if part.kind == VARINT:
        yield from [signed(part.value)][: max(most, 0)]
    elif part.kind == BYTES:
        for _, value in zip(range(most), wire.varints(part.start, part.stop), strict=False):
            yield signed(value)


def _pair(wire: Wire, whole: Field) -> tuple[str, str]:
    """A StringStringEntryProto; empty texts where one is long or no text, which are those of no interest here."""
    texts = ["", ""]
    for part in wire.fields(*wire.message(whole, "an entry")):
        if part.number in (1, 2) and part.kind == BYTES and part.stop - part.start <= _MAX_METADATA:
            texts[part.number - 1] = wire.take(part.start, part.stop).decode(errors="replace")
    return texts[0], texts[1]


def _scope(key: str, value: str) -> str | None:
    """The path of the innermost module around a node, in what torch's exporters say of it."""
    if key == _SCOPES:
        paths = re.findall(r"'([^']*)'", value)
        return paths[-2] if len(paths) > 1 else None
    if key == "namespace":
        paths = [part.partition(":")[0].strip() for part in value.split("/")]
        return paths[-2] if len(paths) > 1 else None
    return None


def _path(name: str) -> str | None:
    """The path in the names of torch's older exporter: ``/encoder/layer.0/query/MatMul``.

    onnxruntime adds what it fused: ``/encoder/layer.0/query/MatMul/MatMulAddFusion``.

    A module of a list or a sequence has the name of that before its own: ``/blocks/blocks.0/attn/MatMul``.
    """
    if not name.startswith("/"):
        return None
    parts = _FUSION.sub("", name).split("/")[1:-1]
    return ".".join(
        part for part, after in zip(parts, [*parts[1:], ""], strict=False) if not after.startswith(f"{part}.")
    )
