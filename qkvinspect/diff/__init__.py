"""Compare two reports: match their layers, compare their parts, and recognise known mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qkvinspect.diff.difference import Comparison, Difference, HeadLoss, LayerDifference, PartDifference, Side
from qkvinspect.diff.head_losses import head_losses, worst_first
from qkvinspect.diff.layer_pair import LayerPair
from qkvinspect.diff.moved_scales import Vectors, undone
from qkvinspect.diff.notes import about_quantised, borrowed, codes_of, converted, disagreeing, put_in_order
from qkvinspect.diff.options import DiffOptions as DiffOptions
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.orientation import lying_otherwise
from qkvinspect.diff.other_tensors import computed_scales, pair_others
from qkvinspect.diff.pairing import Pair, Renames, about_pairing, pair_names
from qkvinspect.diff.parts import (
    by_fours,
    common_heads,
    heads_of,
    paired,
    paired_biases,
    parts_of,
    shared_apart,
    stored_of,
    tensors_of,
    with_heads_of,
)
from qkvinspect.diff.read_otherwise import read_otherwise
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.diff.relations import relate
from qkvinspect.diff.rotary_rows import rotary_relations
from qkvinspect.diff.rotary_words import OrdersByWeights
from qkvinspect.diff.shared_tensors import SharedTensors, about_shared
from qkvinspect.diff.stacks import pair_by_order
from qkvinspect.diff.tally import Advance
from qkvinspect.diff.tally import compare as compare_lines
from qkvinspect.errors import UsageError
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.packing import Geometry
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce

if TYPE_CHECKING:
    from qkvinspect.diff.aligned import AlignedSides

ORDER = ("q", "k", "v", "out", "q_bias", "k_bias", "v_bias", "out_bias")
_MOST_GUESSES = 24  # numbers of heads that are tried where none is known


_USUAL = DiffOptions()


def compare(a: Report, b: Report, options: DiffOptions = _USUAL, progress: Progress | None = None) -> Difference:
    """Compare two checkpoints, which must still be open, layer by layer in bounded memory.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: an option has no meaning, or names nothing.
    """
    beside = _beside(a, b, options, progress)
    a, b, renames = (beside.a, beside.b, beside.renames) if beside else (a, b, Renames(options.maps))
    of_a, of_b = ({one.layer: one for one in side.attentions} for side in (a, b))
    pairs = list(beside.pairs) if beside else pair_names(list(of_a), list(of_b), renames)
    prefixes = {pair.prefixes for pair in pairs}
    ordered, undecided = ([], 0) if beside else pair_by_order(a.attentions, b.attentions, pairs)
    place = {name: position for position, name in enumerate(of_a)}
    pairs = sorted([*pairs, *ordered], key=lambda pair: place[pair.a])
    apart = {pair for pair in pairs if not (of_a[pair.a].parts and of_b[pair.b].parts)}
    taken = (
        _taken(a, {pair.a for pair in apart}),
        _taken(b, {pair.b for pair in apart}),
    )
    chosen = [pair for pair in pairs if _wanted(options, pair.a, pair.b)]
    paired_a, paired_b = {pair.a for pair in pairs}, {pair.b for pair in pairs}
    removed = [name for name in of_a if name not in paired_a and _wanted(options, name)]
    added = [name for name in of_b if name not in paired_b and _wanted(options, name)]
    if options.layers and not (chosen or removed or added):
        raise UsageError(f"no attention module of either side is called {' or '.join(options.layers)}")
    extract = _without_out(a, b)
    vectors = Vectors(a.weights), Vectors(b.weights)
    shared = SharedTensors(a), SharedTensors(b)
    work = [_layer(pair, of_a[pair.a], of_b[pair.b], extract, vectors, shared) for pair in chosen]
    others = None
    if options.others and not options.layers:
        written = [any(one.layout and one.layout.rewritten_by for one in side.attentions) for side in (a, b)]
        renamed = written[0] != written[1]
        others = pair_others(
            a.weights,
            b.weights,
            taken,
            renames,
            prefixes,
            shared=shared,
            renamed=renamed,
            computed=(computed_scales(a.checkpoint), computed_scales(b.checkpoint)),
        )
    if renames.unused:
        raise UsageError(f"no tensor of A is called as in --map {renames.unused[0]!r}", file=a.checkpoint.path)
    if others:
        notes = about_pairing(pairs, undecided, others.by_values, others.one_more, len(others.turned))
    else:
        notes = about_pairing(pairs, undecided, 0)
    if extract:
        notes.append(f"{extract} holds no output projection at all, so none was compared")
    notes += about_shared(shared)
    total = sum(one.nbytes for one in work) + (others.nbytes if others else 0)
    advance = counter(total, progress)
    for side in (0, 1):
        announce(region for one in work for lines in one.parts[side].values() for region in lines.weight.regions)
        announce(others.regions(side) if others else ())
    orders = OrdersByWeights(a), OrdersByWeights(b)
    layers = tuple(_compare_layer(one, beside, options.tolerance, advance, orders) for one in work)
    if beside:
        notes = [*beside.notes, *notes]
    notes += [*disagreeing(work), *borrowed(work), *converted(work)]
    notes += [*put_in_order(work), *about_quantised(work, layers)]
    return Difference(
        a=a.checkpoint,
        b=b.checkpoint,
        layers=layers,
        added=tuple(added),
        removed=tuple(removed),
        others=tuple(others.compare(options.tolerance, advance)) if others else None,
        findings=tuple(_warnings(a, b)),
        notes=tuple(notes),
        tolerance=options.tolerance,
        removed_heads=tuple(beside.gone) if beside else (),
        added_heads=tuple(beside.new) if beside else (),
        losses=worst_first([loss for one, layer in zip(work, layers, strict=True) for loss in _losses(one, layer)]),
    )


def _wanted(options: DiffOptions, *names: str) -> bool:
    return not options.layers or any(fnmatchcase(name, glob) for name in names for glob in options.layers)


def _taken(report: Report, stored: set[str]) -> set[str]:
    """The names of tensors that are compared as part of a layer; of layers in ``stored``, of the weights alone."""
    return {
        name
        for one in report.attentions
        for name in ({info.name for info in one.weights} if one.layer in stored else tensors_of(one))
    }


def _losses(layer: LayerPair, found: LayerDifference) -> list[HeadLoss]:
    geometry = common_heads(layer.a, layer.b)
    if geometry is None or found.status not in ("rounding", "tolerated", "changed") or not codes_of(layer):
        return []
    return head_losses(found.a, *layer.parts, found.parts, geometry)


def _without_out(a: Report, b: Report) -> str:
    """A or B, if one of them is an extract of Q, K and V, as ``export --split`` writes."""
    known = [[one for one in side.attentions if one.parts] for side in (a, b)]
    held = [any(one.out is not None for one in some) for some in known]
    return "" if held[0] == held[1] or not all(known) else "B" if held[0] else "A"


def _layer(
    pair: Pair,
    a: Attention,
    b: Attention,
    extract: str,
    sides: tuple[Vectors, Vectors],
    shared: tuple[SharedTensors, SharedTensors],
) -> LayerPair:
    before = a, b
    a, b = with_heads_of(a, b), with_heads_of(b, a)
    without_heads = "A" if a is not before[0] else "B" if b is not before[1] else ""
    if a.parts and b.parts:
        unpaired = any(of(a) != of(b) for of in (paired, paired_biases, by_fours, shared_apart))
        aligned = pair.matched_by == "align"
        one, other = (parts_of(side, unpaired=unpaired, by_heads=aligned) for side in (a, b))
        one, other = shared[0].complete(one, other), shared[1].complete(other, one)
        moved = undone(one, other, (pair.a, pair.b), sides)
        names = [name for name in ORDER if name in one or name in other]
        if extract:
            names = [name for name in names if not name.startswith("out")]
        return LayerPair(pair, a, b, (one, moved.parts), tuple(names), moved.relations, without_heads)
    one, other = stored_of(a), stored_of(b)
    return LayerPair(pair, a, b, (one, other), tuple(dict.fromkeys([*one, *other])))


def _beside(a: Report, b: Report, options: DiffOptions, progress: Progress | None) -> AlignedSides | None:
    if not options.align:
        return None
    from qkvinspect.diff.aligned import aligned_sides

    return aligned_sides(a, b, options.maps, options.rotary, progress)


def _compare_layer(
    layer: LayerPair,
    beside: AlignedSides | None,
    tolerance: float | None,
    advance: Advance,
    orders: tuple[OrdersByWeights, OrdersByWeights],
) -> LayerDifference:
    geometry = common_heads(layer.a, layer.b)
    tolerance = beside.tolerance(layer.pair.a, tolerance) if beside else tolerance
    a, b = layer.parts
    parts = tuple(_part(name, a.get(name), b.get(name), geometry, tolerance, advance) for name in layer.names)
    extra_positions = bool(layer.a.extras or layer.b.extras)
    found = relate(a, b, parts, _sizes(layer, geometry), extra_positions=extra_positions)
    found = _with_rotary(layer, parts, found, geometry or _put_in_order_with(layer), orders)
    relations = (*layer.undone, *read_otherwise(layer.a, layer.b, parts, found))
    return LayerDifference(
        a=layer.pair.a,
        b=layer.pair.b,
        matched_by=layer.pair.matched_by,
        stored=(_stored(layer.a), _stored(layer.b)),
        num_heads=geometry.num_heads if geometry else None,
        parts=parts,
        relations=lying_otherwise(layer.a, layer.b, relations),
        undone=beside.undone.get(layer.pair.a, ()) if beside else (),
    )


def _put_in_order_with(layer: LayerPair) -> Geometry | None:
    """The heads by which rows of one side were put in the order of the other, where the two disagree about heads."""
    turned = [side.heads for side in (layer.a, layer.b) if paired(side)]
    return turned[0] if len(turned) == 1 else None


def _with_rotary(
    layer: LayerPair,
    parts: Sequence[PartDifference],
    found: Sequence[Relation],
    geometry: Geometry | None,
    orders: tuple[OrdersByWeights, OrdersByWeights],
) -> tuple[Relation, ...]:
    """The relations, with those of permuted rows in the words of the converter that wrote one side, if one did."""
    told = list(rotary_relations(layer.a, layer.b, layer.parts, parts, geometry, orders))
    converted = any(side.layout is not None and side.layout.rewritten_by for side in (layer.a, layer.b))
    vague = {RelationCode.ROWS_PERMUTED} | ({RelationCode.ROTARY_PERMUTED} if converted else set[RelationCode]())
    plain = {part for one in found if one.code not in vague for part in one.parts}
    told = [one for one in told if plain.isdisjoint(one.parts)]
    named = {part for one in told for part in one.parts}
    return (*told, *(one for one in found if one.code not in vague or not named.issuperset(one.parts)))


def _part(
    name: str, a: Lines | None, b: Lines | None, geometry: Geometry | None, tolerance: float | None, advance: Advance
) -> PartDifference:
    if a is None or b is None:
        whole, heads = Comparison("removed" if a else "added", None, None, None), ()
        advance(sum(side.nbytes for side in (a, b) if side))
    else:
        whole, heads = compare_lines(a, b, heads_of(name, a, geometry), tolerance, advance)
    one, other = ((side.kind, side.shape) if side else None for side in (a, b))
    return PartDifference(name, one, other, whole, heads)


def _sizes(layer: LayerPair, geometry: Geometry | None) -> list[Geometry]:
    """The sizes of the heads; where these are unknown, one for every number of heads that the shapes allow."""
    if geometry is not None:
        return [geometry]
    q, k = layer.a.part("q"), layer.a.part("k")
    if q is None or k is None:
        return []
    counts = layer.a.possible_heads or layer.b.possible_heads
    rows, others = q.shape[0], k.shape[0]
    return [Geometry(n, n * others // rows, rows // n) for n in counts[:_MOST_GUESSES] if n * others % rows == 0]


def _stored(attention: Attention) -> str:
    if attention.layout is None:
        return attention.may_be
    return f"{attention.layout.id} ({attention.layout.kind}) {attention.dtype}"


def _warnings(a: Report, b: Report) -> list[tuple[Side, Finding]]:
    sides: tuple[tuple[Side, Report], ...] = (("a", a), ("b", b))
    return [(side, finding) for side, report in sides for finding in report.findings if finding.severity != "info"]
