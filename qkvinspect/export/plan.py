"""Plan a rewritten checkpoint: split, packed, or converted from one layout to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.export.adapter_factors import factors_plan, updates_in
from qkvinspect.export.naming import DEFAULT, TORCH, naming, tensor_in, without_label
from qkvinspect.export.parts import StoredPart, as_before, consumed, reordered_parts, source_of, writable
from qkvinspect.export.pieces import OutputTensor, Parallel, RowRun, unchanged
from qkvinspect.export.repack import repack
from qkvinspect.export.reread import require_known
from qkvinspect.export.split import scales_of_inputs, split_layer
from qkvinspect.export.target import Plan, Target, layers_named, sized
from qkvinspect.export.whole import Change, numbers_of, require_whole, whole
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import Layout
from qkvinspect.weights.weight import plain

_EXTRA = ("gate", "vgate", "mlp")


def split_whole(
    report: Report,
    *,
    names: str | None = None,
    rename: Callable[[str], str] = str,
    numbers_as: DType | None = None,
    undo_permute: bool = False,
) -> Plan:
    """The whole checkpoint, each fused tensor as its parts.

    Args:
        names: a preset or a template; where one is given, layers whose parts lie apart already are renamed too.
        undo_permute: put the rows that llama.cpp's converter permuted back; the layers are then named as others are.

    Raises:
        LayoutError: a layer cannot be split, or names collide.
        UsageError: ``names`` is no such thing.
    """
    if names not in (None, TORCH):
        naming(names or DEFAULT)
    changes: list[Change] = []
    for attention in report.attentions:
        require_whole(report, attention)
        permuted = undo_permute and reordered_parts(attention)
        if names is None and _apart(attention) and not permuted:
            continue
        if permuted:
            _require_no_norms(report.checkpoint, attention)
        tensors = report.checkpoint.tensors
        pieces = split_layer(
            attention,
            names=names or DEFAULT,
            everything=True,
            numbers_as=numbers_as,
            undo_permute=undo_permute,
            beside=tensors,
        )
        of_inputs = {info.name for weight in attention.weights for info in scales_of_inputs(weight, tensors)}
        changes.append(Change((attention.layer, attention.layer), consumed(attention) | of_inputs, tuple(pieces)))
    return Plan(tuple(whole(report, changes, rename, numbers_as)), len(changes))


def _require_no_norms(checkpoint: Checkpoint, attention: Attention) -> None:
    """Raises:
    LayoutError: norms of the heads of Q or K would keep the order of llama.cpp (Chameleon).
    """
    for part in (part for part in reordered_parts(attention) if part in "qk"):
        name = f"{attention.layer}.attn_{part}_norm.weight"
        if name in checkpoint.tensors:
            raise LayoutError(
                f"the heads of {part.upper()} of layer {attention.layer!r} would lie in another order than their norms",
                tensor=name,
                hint="leave --all out",
            )


def merged_whole(
    report: Report, *, rename: Callable[[str], str] = str, numbers_as: DType | None = None
) -> tuple[OutputTensor, ...]:
    """The whole checkpoint as it is, with the adapter in it that was added.

    Raises:
        LayoutError: it is added to codes, and ``numbers_as`` does not say what they become; or names collide.
    """
    return tuple(whole(report, (), rename, numbers_as))


def pack_whole(report: Report, target: Target, layers: tuple[str, ...] = ()) -> Plan:
    """The whole checkpoint, layers whose Q, K and V are apart packed; the rest of a layer stays as it is.

    Args:
        layers: globs of the layers to pack; all where there is none.

    Raises:
        LayoutError: a layer cannot be packed so, or names collide.
        UsageError: there is none to pack.
    """
    if updated := updates_in(report):
        return factors_plan(report, [one for one in updated if one.layout and one.layout.kind == "separate"], target)
    sources: list[StoredPart] = []
    for attention in report.attentions:
        if attention.layout is not None and attention.layout.kind == "separate":
            require_whole(report, attention)
            sources.append(_source(attention, target, report.checkpoint))
    known = {attention.layer for attention in report.attentions}
    sources += [
        source
        for source in _pairs(report.checkpoint, known)
        if not layers or any(fnmatchcase(source.layer, glob) for glob in layers)
    ]
    if not sources:
        raise UsageError(
            "holds no layer whose Q, K and V are apart",
            file=report.checkpoint.path,
            hint="`qkvinspect convert` goes from one packing to another",
        )
    return _rewritten(report, [(source, None) for source in sources], target)


def convert_whole(report: Report, target: Target) -> Plan:
    """The whole checkpoint, its layers as another layout stores them, the output projection included.

    Raises:
        LayoutError: a layer cannot be stored so, or names collide.
    """
    if updated := updates_in(report):
        return factors_plan(report, updated, target, with_out=True)
    sources: list[tuple[StoredPart, Attention | None]] = []
    for attention in report.attentions:
        require_whole(report, attention)
        sources.append((_source(attention, target, report.checkpoint), attention))
    return _rewritten(report, sources, target)


def _rewritten(report: Report, sources: Sequence[tuple[StoredPart, Attention | None]], target: Target) -> Plan:
    """Args:
    sources: the layers, and where the output projection changes too, the modules that they were.
    """
    changes: list[Change] = []
    zeros: list[tuple[str, str]] = []
    layers = layers_named([source for source, _ in sources], target.layout)
    for (source, attention), layer in zip(sources, layers, strict=True):
        packed = repack(sized(source, target), target.layout, layer, zero_bias=target.zero_bias)
        out = list(_out(attention, target, layer)) if attention else []
        gone = source.consumed | {info.name for piece in out for info in piece.sources}
        changes.append(
            Change((without_label(source.layer, source.layout), layer), gone, (*packed.weights, *packed.biases, *out))
        )
        zeros += [(source.layer, part) for part in packed.zeros]
    if any(attention for _, attention in sources):
        label = f".{target.layout.label}" if target.layout.label else ""
        require_known(whole(report, changes), target.layout, [f"{change.layer[1]}{label}" for change in changes])
    pieces = whole(report, changes, target.rename, target.numbers_as)
    reordered = [a for a in report.attentions if reordered_parts(a) and not _keeps_order(a, target.layout)]
    put_back = len({a.layer for a in reordered} & {source.layer for source, _ in sources})
    return Plan(tuple(pieces), len(changes), tuple(zeros), put_back=put_back)


def _source(attention: Attention, target: Target, checkpoint: Checkpoint) -> StoredPart:
    """The parts of a layer, with rows that a converter put in another order as the target's library has them.

    Raises:
        LayoutError: other tensors of the layer would keep the converter's order, or the target's is another.
    """
    source, parts, layout = source_of(attention, target.numbers_as), reordered_parts(attention), target.layout
    if not _keeps_order(attention, layout):
        if layout.rewritten_by and (layout.paired or layout.by_fours):
            raise LayoutError(
                f"layer {attention.layer!r} cannot be stored as {layout.id}",
                expected=f"rows in the order that {layout.rewritten_by}'s converter gives them",
                hint=f"let {layout.rewritten_by}'s own converter write it",
            )
        if "v" in parts:
            raise LayoutError(
                f"the heads of V of layer {attention.layer!r} would lie in another order than its other tensors",
                hint="leave it out with --layer",
            )
        _require_no_norms(checkpoint, attention)
        source, _ = as_before(source, attention)
    return _with_extra(source, checkpoint)


def _keeps_order(attention: Attention, target: Layout) -> bool:
    """Whether the rows of a layer's heads lie as the target has them, as far as converters and layouts tell."""
    layout = attention.layout
    if layout is None or (not reordered_parts(attention) and not (target.paired or target.by_fours)):
        return True
    if target.rewritten_by:
        one, other = ((each.paired, each.by_fours, each.biases_stay) for each in (layout, target))
        return one == other
    return layout.rotary is not None and layout.rotary == target.rotary


def _apart(attention: Attention) -> bool:
    """Whether every stored tensor of the layer is one part already."""
    layout = attention.layout
    return layout is not None and all(
        len(stored.packing.parts) == len(stored.packing.order) == 1 for stored in (*layout.weights, *layout.biases)
    )


def _with_extra(source: StoredPart, checkpoint: Checkpoint) -> StoredPart:
    """With the rows that are not attention, under the names that split gives them."""
    name = naming(DEFAULT)
    weights, biases, taken = dict(source.weights), dict(source.biases), set(source.consumed)
    for part in _EXTRA:
        for kind, held in (("weight", weights), ("bias", biases)):
            info = checkpoint.tensors.get(name(source.layer, part, kind))
            if info is not None and part not in held and 1 <= len(info.shape) <= 2:
                held[part] = (RowRun(range(info.shape[0]), plain(info)),)
                taken.add(info.name)
    return replace(source, weights=weights, biases=biases, consumed=frozenset(taken))


def _pairs(checkpoint: Checkpoint, known: set[str]) -> Iterator[StoredPart]:
    """K and V whose Q lies elsewhere, under the names that split gives them."""
    name = naming(DEFAULT)
    for key in checkpoint.tensors:
        layer, found, _ = key.rpartition("k_proj.weight")
        layer = layer.removesuffix(".")
        infos = {part: checkpoint.tensors.get(name(layer, part, "weight")) for part in "kv"}
        if not found or layer in known or name(layer, "k", "weight") != key:
            continue
        if any(info is None or len(info.shape) != 2 for info in infos.values()):
            continue
        if name(layer, "q", "weight") in checkpoint.tensors:
            continue
        biases = {part: checkpoint.tensors.get(name(layer, part, "bias")) for part in "kv"}

        def runs(infos: dict[str, TensorInfo | None]) -> dict[str, tuple[RowRun, ...]]:
            return {
                part: (RowRun(range(info.shape[0]), plain(info)),)
                for part, info in infos.items()
                if info and info.shape
            }

        taken = frozenset(info.name for info in (*infos.values(), *biases.values()) if info is not None)
        yield StoredPart(layer, None, runs(infos), runs(biases), consumed=taken)


def _out(attention: Attention, target: Target, layer: str) -> Iterator[OutputTensor]:
    """The output projection and its bias, as the target lays and calls them."""
    weight, source, layout = attention.out, attention.layout, target.layout
    if weight is None or source is None or not layout.out:
        return
    names = [tensor_in(layer, key) for key in layout.out]
    name = weight.name if weight.name in names else names[0]
    held = writable(weight, attention.layer, target.numbers_as)
    lie: Parallel = "inputs last" if layout.out_orientation == "out_in" else "inputs first"
    if source.out_orientation == layout.out_orientation:
        one = unchanged(held.info) if held.encoding is None and held.info else numbers_of(held, held.dtype)
        yield replace(one, name=name, parallel=lie)
    else:
        rows, cols = held.as_shape(source.out_orientation)
        shape = (rows, cols) if layout.out_orientation == "out_in" else (cols, rows)
        run = RowRun(range(rows), held, source.out_orientation)
        yield OutputTensor(name, shape, held.dtype, (run,), layout.out_orientation, parallel=lie)
    bias = attention.out_bias
    if bias is not None:
        bias_name = f"{name.removesuffix('weight').removesuffix('.')}.bias".removeprefix(".")
        yield replace(unchanged(bias.require_info(), bias_name), parallel="whole")
