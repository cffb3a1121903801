"""Convert an adapter alone to another layout: A stays, B's rows move like the weight's, and several may be joined.

Where Q, K and V that lie apart are packed, their A's are stacked and their B's stand on the diagonal: the rank is the
sum of theirs. All that are joined need one scale, which the config of the result then says as ``lora_alpha``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.export.naming import tensor_in, without_label
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor, RowRun, unchanged
from qkvinspect.export.repack import repack
from qkvinspect.export.row_runs import BOTH, arrange, count
from qkvinspect.export.target import Plan, Target, layers_named, sized
from qkvinspect.export.whole import Change, whole
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.adapters import is_update
from qkvinspect.weights.adapters.low_rank import LowRank
from qkvinspect.weights.adapters.placed import no_factor, placed_factor
from qkvinspect.weights.weight import Weight, plain

_SUFFIXES = {"lora_B.weight": "lora_A.weight", "lora_up.weight": "lora_down.weight"}
"""What B is called, and A beside it: PEFT's names, and kohya's with the dots kept."""

_PREFIX = "base_model.model."
_MERGE = "merge it into the base (export --all --base), and convert that"


@dataclass(frozen=True, slots=True)
class _Joined:
    """The updates whose rows go into one tensor, each with the first of its columns in the B of all."""

    places: Mapping[LowRank, int]
    rank: int
    scale: float

    @property
    def suffixes(self) -> tuple[str, str]:
        """How the names of B and A end."""
        first = next(iter(self.places))
        return next(item for item in _SUFFIXES.items() if first.up.name.endswith(item[0]))


def updates_in(report: Report) -> list[Attention]:
    """The modules of an adapter without its base; none where the checkpoint holds weights."""
    return [one for one in report.attentions if one.weights and all(map(is_update, one.weights))]


def factors_plan(report: Report, attentions: Sequence[Attention], target: Target, *, with_out: bool = False) -> Plan:
    """The whole adapter, its factors as the layout packs the weights that they are for.

    Args:
        with_out: whether the output projection gets the layout's name too.

    Raises:
        LayoutError: a module cannot be stored so.
        UsageError: there is none to store.
    """
    if not attentions:
        raise UsageError("holds no module of which that can be done", file=report.checkpoint.path)
    changes: list[Change] = []
    scales: dict[str, tuple[int, float]] = {}
    changed: set[str] = set()
    sources = [_source(one, target.layout) for one in attentions]
    for attention, source, layer in zip(attentions, sources, layers_named(sources, target.layout), strict=True):
        pieces, gone = (
            list(_pieces(attention, sized(source, target), target.layout, layer, scales)),
            set(source.consumed),
        )
        changed |= {weight.name for weight in attention.weights}
        if with_out and attention.out is not None and target.layout.out and is_update(attention.out):
            name = tensor_in(layer, target.layout.out[0])
            pieces += _renamed(attention.out, name.removesuffix("weight"), scales)
            gone |= {info.name for info in attention.out.stored}
            changed.add(attention.out.name)
        names = without_label(source.layer, source.layout), layer
        changes.append(Change(names, frozenset(gone), tuple(pieces)))
    for name, weight in report.weights.encoded.items():
        if name not in changed and isinstance(weight.encoding, LowRank) and weight.encoding.scale is not None:
            scales[name.removesuffix(".weight")] = weight.encoding.rank, weight.encoding.scale
    turned = any(stored.orientation != "out_in" for stored in target.layout.weights)
    pieces = tuple(whole(report, changes, target.rename, target.numbers_as))
    return Plan(pieces, len(changes), adapter=_config(scales, target, turned=turned))


def _source(attention: Attention, target: Layout) -> StoredPart:
    """The rows of B of each part, and zeros for parts that are not adapted.

    Raises:
        LayoutError: the parts are not known, or this cannot be done to their factors.
    """
    if not attention.parts or attention.layout is None or attention.layout.nn_multihead or target.nn_multihead:
        raise LayoutError(
            f"the adapter of layer {attention.layer!r} cannot be stored as {target.id}",
            expected="one layout, known, and no nn.MultiheadAttention: PEFT adapts that as a module of its own kind",
            found=attention.layout.id if attention.layout else attention.may_be,
        )
    weights = {part.name: tuple(RowRun(rows, part.weight) for rows in part.heads) for part in attention.parts}
    for one, other in (("k", "v"), ("v", "k")):
        if one not in weights and other in weights and target.kind != "separate":
            weights[one] = tuple(RowRun(run.rows) for run in weights[other])
    if "q" not in weights and target.kind != "separate":
        weights["q"] = ()
    heads = attention.heads
    consumed = frozenset(info.name for weight in attention.weights for info in weight.stored)
    both = (heads.num_heads, heads.num_kv_heads) if heads else None
    return StoredPart(attention.layer, attention.layout, weights, {}, both, consumed=consumed)


def _pieces(
    attention: Attention, source: StoredPart, target: Layout, layer: str, scales: dict[str, tuple[int, float]]
) -> Iterator[OutputTensor]:
    wanted = [part for stored in target.weights for part in stored.packing.order]
    if any(part in BOTH for part in wanted):
        raise LayoutError(f"{target.id} has one tensor for two parts, which no adapter has", tensor=attention.layer)
    if set(wanted) - source.weights.keys() and target.kind == "separate":
        yield from _apart(source, target, layer, scales)
        return
    missing = [part for part in wanted if not source.weights.get(part)]
    if missing:
        raise LayoutError(
            f"the adapter of layer {attention.layer!r} says nothing of {', '.join(missing).upper()}",
            expected="all parts that are packed together, but for K or V alone",
        )
    joined = {stored.key: _join(source, stored) for stored in target.weights}
    weights = dict(source.weights)
    for stored in target.weights:
        for part in stored.packing.order:
            weights[part] = _placed(source.weights[part], joined[stored.key], f"{layer}.{part}")
    packed = repack(replace(source, weights=weights), target, layer)
    for stored, piece in zip(target.weights, packed.weights, strict=True):
        yield from _factors(source, stored, joined[stored.key], piece, packed.geometry, scales)


def _apart(
    source: StoredPart, target: Layout, layer: str, scales: dict[str, tuple[int, float]]
) -> Iterator[OutputTensor]:
    """Parts that lie apart there too, of which some are not adapted."""
    for stored in target.weights:
        (part,) = stored.packing.order
        if part in source.weights:
            rows = replace(source, weights={part: source.weights[part]})
            joined = _join(rows, stored)
            runs = _placed(source.weights[part], joined, part)
            piece = OutputTensor(tensor_in(layer, stored.key), (count(runs), joined.rank), DTYPES["float32"], runs)
            yield from _factors(rows, stored, joined, piece, None, scales)


def _join(source: StoredPart, stored: StoredWeight) -> _Joined:
    """What goes into one tensor of the layout.

    Raises:
        LayoutError: it cannot be one: other scales, other dtypes, other columns, other kinds of factors.
    """
    found: dict[LowRank, int] = {}
    rank = 0
    for part in stored.packing.order:
        for run in source.weights.get(part, ()):
            update = run.weight.encoding if run.weight is not None else None
            if isinstance(update, LowRank) and update not in found:
                found[update], rank = rank, rank + update.rank
    if not found:
        raise LayoutError(f"layer {source.layer!r} has no factors for {stored.key}")
    _require_alike(source.layer, list(found))
    scale = next(iter(found)).scale
    if scale is None:
        raise LayoutError(
            f"the lora_alpha of layer {source.layer!r} is unknown",
            hint="--config adapter_config.json, or a file with lora_alpha",
        )
    return _Joined(found, rank, scale)


def _require_alike(layer: str, updates: Sequence[LowRank]) -> None:
    first = updates[0]
    for one in updates:
        if not one.up.name.endswith(tuple(_SUFFIXES)) or one.groups > 1 or len(one.up.shape) != 2:
            raise LayoutError(
                f"the factors of layer {layer!r} are not moved",
                tensor=one.up.name,
                expected=f"two axes, and a name that ends in {' or '.join(_SUFFIXES)}",
                found=f"{len(one.up.shape)} axes" if len(one.up.shape) != 2 else None,
            )
        if one.of_inputs:
            raise LayoutError(
                f"the factors of layer {layer!r} are not moved: DoRA has lengths of the columns of a whole weight",
                tensor=one.up.name,
                hint=_MERGE,
            )
        kinds = (one.up.dtype, one.down.dtype, one.down.shape[1], one.magnitude is None, one.alpha is None)
        wanted = (first.up.dtype, first.down.dtype, first.down.shape[1], first.magnitude is None, first.alpha is None)
        if kinds != wanted or one.scale != first.scale:
            raise LayoutError(
                f"the factors of layer {layer!r} do not become one: {first.up.name} and {one.up.name}",
                expected="one dtype, one scale, as many columns, all with DoRA's lengths or none",
                found=f"{first.label} and {one.label}",
                hint=_MERGE,
            )


def _placed(runs: Sequence[RowRun], joined: _Joined, name: str) -> tuple[RowRun, ...]:
    """The rows of a part as they stand in the B of all."""
    kept: dict[LowRank | None, Weight] = {}
    dtype = next(iter(joined.places)).up.dtype
    found: list[RowRun] = []
    for run in runs:
        update = run.weight.encoding if run.weight is not None else None
        key = update if isinstance(update, LowRank) else None
        if key not in kept:
            height = max(run.rows.stop for run in runs)
            if key is None:
                kept[key] = no_factor(name, height, joined.rank, dtype)
            elif len(joined.places) == 1 and key.rank == joined.rank:
                kept[key] = plain(key.up)
            else:
                kept[key] = placed_factor(key.up, joined.places[key], joined.rank)
        found.append(RowRun(run.rows, kept[key]))
    return tuple(found)


def _factors(
    source: StoredPart,
    stored: StoredWeight,
    joined: _Joined,
    piece: OutputTensor,
    geometry: Geometry | None,
    scales: dict[str, tuple[int, float]],
) -> Iterator[OutputTensor]:
    """B and A under the names of the module, and what lies beside them."""
    module = piece.name.removesuffix("weight")
    updates = list(joined.places)
    up, down = joined.suffixes
    scales[module.removesuffix(".")] = joined.rank, joined.scale
    rows = count(piece.runs)
    yield OutputTensor(f"{module}{up}", (rows, joined.rank), updates[0].up.dtype, piece.runs)
    whole_rows = tuple(RowRun(range(one.rank), plain(one.down)) for one in updates)
    yield OutputTensor(f"{module}{down}", (joined.rank, updates[0].down.shape[1]), updates[0].down.dtype, whole_rows)
    if updates[0].alpha is not None:
        made = struct.pack("<f", joined.scale * joined.rank)
        yield OutputTensor(f"{module}alpha", (1,), DTYPES["float32"], made=made)
    if updates[0].magnitude is not None:
        yield _lengths(source, stored, module, geometry)


def _lengths(source: StoredPart, stored: StoredWeight, module: str, geometry: Geometry | None) -> OutputTensor:
    """DoRA's length of each row, in the order of the rows.

    Raises:
        LayoutError: some rows have none.
    """
    parts: dict[str, tuple[RowRun, ...]] = {}
    kept: dict[str, Weight] = {}
    for part in stored.packing.order:
        runs: list[RowRun] = []
        for run in source.weights[part]:
            update = run.weight.encoding if run.weight is not None else None
            if not isinstance(update, LowRank) or update.magnitude is None:
                raise LayoutError(f"layer {source.layer!r} has no lengths (DoRA) for {part.upper()}")
            lengths = kept.setdefault(update.magnitude.name, plain(update.magnitude))
            runs.append(RowRun(run.rows, lengths))
        parts[part] = tuple(runs)
    placed = next(iter(parts.values())) if geometry is None else arrange(stored.packing, geometry, parts)
    first = next(iter(kept.values()))
    leaf = "lora_magnitude_vector" if "lora_magnitude_vector" in first.name else "dora_scale"
    end = first.name.rpartition(leaf)[2]
    return OutputTensor(f"{module}{leaf}{end}", (count(placed), *first.shape[1:]), first.dtype, placed)


def _renamed(weight: Weight, module: str, scales: dict[str, tuple[int, float]]) -> Iterator[OutputTensor]:
    """The factors of a weight that is not packed, under another module's name."""
    update = weight.encoding
    assert isinstance(update, LowRank)
    if update.scale is not None:
        scales[module.removesuffix(".")] = update.rank, update.scale
    before = next((update.up.name.removesuffix(up) for up in _SUFFIXES if update.up.name.endswith(up)), None)
    for info in update.stored:
        if before is None or not info.name.startswith(before):
            raise LayoutError("the factors of the output projection are not moved", tensor=info.name)
        yield unchanged(info, module + info.name.removeprefix(before))


def _config(scales: Mapping[str, tuple[int, float]], target: Target, *, turned: bool) -> dict[str, object]:
    """What a config of PEFT's has to say of the result: the usual rank and alpha, and of which modules others hold."""
    said = {target.rename(f"{name}.weight").removesuffix(".weight"): pair for name, pair in scales.items()}
    pairs = {name.removeprefix(_PREFIX): (rank, scale * rank) for name, (rank, scale) in said.items()}
    ((rank, alpha), _), *_ = Counter(pairs.values()).most_common(1) or [((1, 1.0), 0)]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: pair[0] for name, pair in pairs.items() if pair[0] != rank},
        "alpha_pattern": {name: pair[1] for name, pair in pairs.items() if pair[1] != alpha},
        "use_rslora": False,
        "fan_in_fan_out": turned,
        "target_modules": sorted({name.rpartition(".")[2] for name in pairs}),
    }
