"""ONNX models, with their weights under the names that they had in the exported model.

Read here rather than by the onnx package, which loads the weights of a file together with all else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Container, TensorInfo, contiguous_strides
from qkvinspect.computed_rows import ComputedScale, ComputedSum
from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats.onnx.biases import pieces_of_vectors
from qkvinspect.formats.onnx.computed import computed, cut, shared, sums, unknown
from qkvinspect.formats.onnx.flow import Flow
from qkvinspect.formats.onnx.graph import read_graph
from qkvinspect.formats.onnx.heads import Heads, heads_of
from qkvinspect.formats.onnx.names import Named, Uses, is_folded, is_product, names_of
from qkvinspect.formats.onnx.operators import operator_names
from qkvinspect.formats.onnx.order import in_order
from qkvinspect.formats.onnx.qlinear import with_plain_operators
from qkvinspect.formats.onnx.quantised import quantised_names, said_of_blocks, with_decoded, without_scale
from qkvinspect.formats.onnx.tensors import Tensors
from qkvinspect.formats.onnx.unnamed import attention_names, cut_biases
from qkvinspect.formats.onnx.wire import Wire
from qkvinspect.formats.request import OpenRequest
from qkvinspect.late_pattern import late_pattern

NAME: str = "onnx"
IS_INDEX: bool = False

_BEGINNING = late_pattern(rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
"""ir_version 3 to 31, then another field of ModelProto (onnx.proto)."""


_LARGE = 1 << 14
"""Bytes of matrices in nodes that are worth a line: exporters put masks and tables there."""


def sniff(head: bytes) -> bool:
    return _BEGINNING.match(head) is not None


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the graph and the descriptions of the weights; no weight is read.

    Raises:
        CheckpointError: the file is malformed, over a limit, or one that holds its weights is missing.
    """
    if request.container:
        raise UsageError("ONNX files have no containers", file=source.name, found=repr(request.container))
    wire = Wire(source, request.limits)
    graph = in_order(with_plain_operators(read_graph(wire)))
    uses = Uses(graph)
    names = names_of(uses)
    inside = [*operator_names(uses, names)]
    for named in inside:
        names.pop(named.stored, None)
        names.setdefault(named.name, named)
    flow = Flow(graph, wire)
    pieces = pieces_of_vectors(graph, flow.sizes)
    unnamed = [*attention_names(flow, uses, names, pieces)]
    for named in unnamed:
        bare = names.get(named.stored) if named.part is None and "." not in named.stored else None
        if bare is not None and bare.stored == named.stored:
            names.pop(named.stored)
        names.setdefault(named.name, named)
    names = with_decoded(uses, names)
    names |= {named.name: named for named in cut_biases(uses, names, pieces)}
    taken = {view.weight for met in flow.met for view in (met.q, met.k, met.v)}
    stored_as = without_scale(taken, uses, quantised_names(uses, names))
    resources = ExitStack()
    with resources:
        files = Tensors(wire, resources)
        infos = {name: info for name, stored in graph.initialisers.items() if (info := files.info(stored))}
        tensors = {
            named.name: _as_named(infos[named.stored], named) for named in stored_as.values() if named.stored in infos
        }
        attentions = tuple(computed(flow.met, names, flow.projections.in_out))
        known = {part.weight for one in attentions for part in one.parts.values()} | {named.name for named in inside}
        heads = heads_of(uses, names.values(), attentions)
        lost = tuple(unknown(tensors, known, flow, names))
        added = tuple(sums(flow.low_ranks.found, names))
        silent = frozenset(one.weight for one in lost if heads.get(one.weight, Heads()) == Heads())
        return Checkpoint(
            path=source.name,
            format=NAME,
            num_bytes=source.size + sum(file.size for file in files.files.values()),
            tensors=tensors,
            num_files=1 + len(files.files),
            metadata=graph.metadata,
            configs=tuple(_config(heads, said_of_blocks(uses, names), silent)),
            modules=_modules(heads, tensors),
            containers=(Container("", len(tensors), "model"),),
            findings=(*_findings(stored_as, infos), *_unnamed(uses, names), *_of_sums(added)),
            resources=resources.pop_all(),
            loader="onnx",
            computed=(
                *attentions,
                *cut(flow.pieces.values(), names),
                *lost,
                *added,
                *(ComputedScale(name) for name in tensors if is_folded(stored_as[name])),
                *shared(uses, {name: named for name, named in names.items() if name in tensors}),
            ),
        )


def _as_named(info: TensorInfo, named: Named) -> TensorInfo:
    if named.part is not None:
        start, stop = named.part
        if len(info.shape) != 1 or stop > info.shape[0]:
            return replace(info, name=named.name)
        return replace(info, name=named.name, shape=(stop - start,), offset=start)
    if not named.turned:
        return replace(info, name=named.name)
    turned = info.shape[::-1]
    return replace(info, name=named.name, shape=turned, strides=contiguous_strides(info.shape)[::-1])


def _config(
    heads: Mapping[str, Heads], blocks: Mapping[str, Mapping[str, int]], silent: frozenset[str]
) -> Iterator[Config]:
    """What all projections of the graph agree on, and what operators say of the codes that they take."""
    told = {
        "num_attention_heads": {one.num_heads for one in heads.values()},
        "num_key_value_heads": {one.num_kv_heads for one in heads.values()},
        "head_dim": {one.head_dim for one in heads.values()},
    }
    agreed: dict[str, object] = {
        key: next(iter(values - {None})) for key, values in told.items() if len(values - {None}) == 1
    }
    if any(one.packed for one in heads.values()):
        agreed["packed_qkv_of_operator"] = True
    if blocks:
        agreed["matmul_nbits"] = blocks
    if agreed:
        yield Config("checkpoint:graph", agreed, inside=True, silent_on=silent)


def _modules(heads: Mapping[str, Heads], tensors: Mapping[str, TensorInfo]) -> dict[str, Mapping[str, object]]:
    """The heads of each module that holds a projection, or holds one that is a module itself.

    Where no operator says them, they are those of its widest product: Q is never narrower than K and V.
    """
    by_layer: dict[str, list[tuple[int, Heads]]] = {}
    for name, one in heads.items():
        parts = name.split(".")
        rows = next(iter(tensors[name].shape), 0) if name in tensors else 0
        for layer in {".".join(parts[:-1]), ".".join(parts[:-2])} - {""}:
            by_layer.setdefault(layer, []).append((rows, one))
    found: dict[str, Mapping[str, object]] = {}
    for layer, products in by_layer.items():
        most = max(rows for rows, _ in products)
        told = {one.num_heads for _, one in products} - {None}
        counts = told or {one.own_heads for rows, one in products if rows == most}
        if len(counts) == 1 and counts != {None}:
            found[layer] = {"num_heads": next(iter(counts))}
    return found


def _unnamed(uses: Uses, names: Mapping[str, Named]) -> Iterator[Finding]:
    """Matrices of products that nothing in the graph names, and those inside nodes.

    Quantisers drop what torch's exporter wrote of modules.
    """
    known = {named.stored for named in names.values()}
    left = [use for use in uses.all if is_product(use) and use.stored.name not in known]
    if left:
        operators = ", ".join(sorted({use.node.op for use in left}))
        many = "matrix" if len(left) == 1 else "matrices"
        text = f"{len(left)} {many} of {operators} left out, for nothing in the graph says whose they are: "
        text += f"{left[0].stored.name}; quantise a file whose nodes or weights are called after the model's modules"
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text)
    sparse = [name for name in uses.graph.sparse if name]
    if sparse:
        text = f"{len(sparse)} sparse initialiser{'s' * (len(sparse) > 1)} left out, of which only the name is read: "
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text + ", ".join(sparse[:3]) + ", ..." * (len(sparse) > 3))
    called = [node.op for node in uses.graph.nodes if (node.domain, node.op) in uses.graph.functions]
    if called:
        names_of_called = ", ".join(sorted({*called})[:3])
        text = f"{len(called)} node{'s' * (len(called) > 1)} of functions that the file defines ({names_of_called}): "
        text += "these are not looked into, nor what weights they use"
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text)
    places = [node.constant.place for node in uses.graph.nodes if node.constant and len(node.constant.sizes) > 1]
    inside = sum(place[2] - place[1] for place in places if place)
    if inside >= _LARGE:
        text = f"{inside} bytes of matrices lie inside nodes (Constant), not among the initialisers: these are not read"
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text)


def _of_sums(added: Sequence[ComputedSum]) -> Iterator[Finding]:
    if added:
        one, many = added[0], len({each.weight for each in added})
        weights = "weight is" if many == 1 else "weights are"
        text = f"{many} {weights} read with what the graph adds as an adapter does, which is in no tensor of the file: "
        text += f"{one.weight} + {one.up} @ {one.down} * {one.scale:g}"
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text)


def _findings(names: Mapping[str, Named], infos: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    renamed = [named for named in names.values() if named.name != named.stored]
    left = len(infos.keys() - {named.stored for named in names.values()})
    if renamed:
        one = next((named for named in renamed if named.turned), renamed[0])
        turned = ", transposed" if one.turned else ""
        text = f"{len(renamed)} weights are called what the module that uses them calls them: "
        text += f"{one.stored} is {one.name}{turned}"
        constants = "constant" if left == 1 else "constants"
        text += f"; {left} {constants} of the graph without such a name left out" if left else ""
        yield Finding(FindingCode.NAMES_FROM_GRAPH, text)
