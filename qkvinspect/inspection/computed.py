"""Rows as the graph of a file computes them: the names of its weights only say what they usually are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations

from qkvinspect.checkpoint import Checkpoint, Orientation
from qkvinspect.computed_rows import ComputedAttention, ComputedCut, ComputedUnknown
from qkvinspect.errors import LayoutError, clean
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.computed_lists import in_lists
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.module import Facts, Module
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.layouts.layout import Layout, StoredWeight, Turn
from qkvinspect.layouts.packing import Geometry, Groups, Packing, merge, span, split_rows
from qkvinspect.weights.weight import Weight

ID = "graph"
"""The id of layouts that a graph says."""

_OUTPUTS = ("o_proj|out_proj|proj|proj_out|to_out|out|c_proj|dense|wo.weight", "to_out.0.weight")
_MINE = (DecidedBy.FLAG, DecidedBy.SETTINGS)


@dataclass(frozen=True, slots=True)
class Computed:
    """The modules that a graph computes, by the weights that they take."""

    modules: tuple[ComputedAttention, ...]
    cuts: tuple[ComputedCut, ...]
    unknown: Mapping[str, ComputedUnknown]
    names: Names

    @classmethod
    def of(cls, checkpoint: Checkpoint, names: Names) -> Computed:
        """What the graph of a checkpoint says; nothing where it has none."""
        every = in_lists(checkpoint.computed, names)
        modules = tuple(one for one in every if isinstance(one, ComputedAttention))
        cuts = tuple(one for one in every if isinstance(one, ComputedCut))
        unknown = {one.weight: one for one in every if isinstance(one, ComputedUnknown)}
        return cls(modules, cuts, unknown, names)

    def told(self, module: Module, facts: Facts) -> Module:
        """The module as the graph has it, with a finding where its names say otherwise."""
        if not self.modules and not self.cuts and not self.unknown:
            return module
        held = {weight.name for candidate in module.match.candidates for weight in candidate.weights}
        own = [one for one in self.modules if _weights(one) <= held]
        if not own:
            return self._as_far(module)
        if len({*map(_as_rows, own)}) > 1:
            text = "the graph takes its rows in more than one way; they are reported as its names say"
            return replace(module, findings=(*module.findings, self._finding(module, text)))
        return self._as_computed(module, max(own, key=lambda one: one.shared_otherwise), facts)

    def completed(self, matches: Sequence[Match], left: Sequence[Leftover]) -> tuple[list[Match], list[Leftover]]:
        """All modules in the order of the file, with those that only the graph shows; what is left of names then."""
        if not self.modules:
            return [*matches], [*left]
        more = [*self._unnamed(matches)]
        claimed = {weight.name for one in more for weight in one.candidates[0].weights}
        order = {name: position for position, name in enumerate(self.names.weights)}
        every = sorted([*matches, *more], key=lambda one: order[one.begins])
        return every, [some for some in left if claimed.isdisjoint(tensor.name for tensor in some.tensors)]

    def _unnamed(self, matches: Sequence[Match]) -> Iterator[Match]:
        """The modules whose weights no layout claims: their names say nothing of attention."""
        claimed = {weight.name for match in matches for one in match.candidates for weight in one.weights}
        for one in self.modules:
            names = [*dict.fromkeys(part.weight for part in one.parts.values())]
            if claimed.isdisjoint(names) and all(name in self.names.paths for name in names):
                claimed |= {*names}
                yield Match((self._candidate(one, names),), DecidedBy.GRAPH)

    def _candidate(self, one: ComputedAttention, names: Sequence[str]) -> Candidate:
        """A module that is called what the names of its weights begin with."""
        paths = [self.names.paths[name] for name in names]
        shared = min(len(path) for path in paths) - 1
        while shared and len({path[:shared] for path in paths}) > 1:
            shared -= 1
        if len(paths) == 1 and shared and paths[0][-1] in ("weight", "kernel"):
            shared -= 1
        keys = [".".join(path[shared:]) for path in paths]
        weights = tuple(self.names.weights[name] for name in names)
        stored = _stored(one, [*zip(keys, weights, strict=True)])
        layer = self.names.stored_layer(names[0], len(paths[0]) - shared)
        if stored is None:  # a module all the same, which is not split
            stored = tuple(StoredWeight(key, Packing(("rest",))) for key in keys)
        return Candidate(_layout(one, stored), paths[0][:shared], layer, weights)

    def _as_computed(self, module: Module, one: ComputedAttention, facts: Facts) -> Module:
        attention, match = module.attention, module.match
        if one.shared_otherwise:
            text = (
                f"the graph gives heads of Q those of K and V in another order than one after the other "
                f"({len(one.q.heads)} heads over {len(one.k.heads)}), which cannot be expressed"
            )
            return self._whole(module, text)
        if attention is not None and _agrees(attention, one):
            if match.decided_by in (DecidedBy.NAMES, DecidedBy.SIBLINGS):
                attention = replace(attention, layout_from=DecidedBy.GRAPH.value)
            return replace(module, attention=attention)
        if match.decided_by in _MINE:
            text = f"the graph takes {_said(one)}, which is not what was asked for"
            return replace(module, findings=(*module.findings, self._finding(module, text)))
        return self._anew(module, one, facts)

    def _whole(self, module: Module, why: str) -> Module:
        """The module, not split and without a layout that it may be, unless the user said how it is."""
        if module.match.decided_by in _MINE:
            return replace(module, findings=(*module.findings, self._finding(module, why)))
        base = replace(unsplit(module.match), layout_from=DecidedBy.GRAPH.value, candidates=())
        return Module(module.match, base, (self._finding(module, f"{why}: it is not split"),))

    def _as_far(self, module: Module) -> Module:
        """The module as far as the graph can be followed.

        It is not split where the graph cuts its tensor into other pieces than its names say, or takes its rows in an
        order that cannot be followed.
        """
        attention = module.attention
        if attention is None or module.match.decided_by in _MINE:
            return module
        for weight in attention.weights:
            one = self.unknown.get(weight.name)
            if one is not None and one.reordered_by:
                text = f"the graph takes rows of {one.weight} in another order ({one.reordered_by})"
                return self._whole(module, f"{text}, which cannot be followed")
        for one in self.cuts:
            parts = [part for part in attention.parts if part.weight.name == one.weight]
            named = {_every(part.heads) for part in parts}
            if len(named) == len(one.pieces) and named != {_every(piece) for piece in one.pieces}:
                first = ", ".join(map(span, merge(one.pieces[0])[:3]))
                text = (
                    f"the graph cuts {one.weight} into other pieces than its names say, {first} ... first, and cannot"
                )
                return self._whole(module, f"{text} be followed further")
        lost = [one for weight in attention.weights if (one := self.unknown.get(weight.name)) is not None]
        if lost:
            first = next((one for one in lost if one.until), None)
            until = "" if first is None else f" ({first.weight} is followed as far as {clean(first.until)})"
            text = f"the graph's attention was not recognised{until}"
            text += ": what is Q, K and V is what its names say" if attention.parts else ""
            return replace(module, findings=(*module.findings, self._finding(module, text)))
        return module

    def _anew(self, module: Module, one: ComputedAttention, facts: Facts) -> Module:
        """The module cut as the graph has it, whatever its names say."""
        candidate = module.match.candidates[0]
        keys = [
            (stored.key, weight) for stored, weight in zip(candidate.layout.weights, candidate.weights, strict=True)
        ]
        stored = _stored(one, keys, candidate.layout)
        if stored is not None:
            layout = _layout(one, stored, candidate.layout)
            for as_told in (layout, replace(layout, out=())):  # an output projection may read an MLP beside the heads
                told = replace(candidate, layout=as_told)
                match = Match((told,), DecidedBy.GRAPH)
                try:
                    attention, findings = split(unsplit(match), told, self.names, facts(told))
                except LayoutError:
                    continue
                if _agrees(attention, one):
                    text = f"the graph takes {_said(one)}{_unlike(module, one)}"
                    return Module(match, attention, (*findings, self._finding(module, text)))
        return self._whole(module, f"the graph takes {_said(one)}, which is no packing that is known")

    @staticmethod
    def _finding(module: Module, text: str) -> Finding:
        return Finding(FindingCode.ROWS_FROM_GRAPH, text, module.match.layer)


def _weights(one: ComputedAttention) -> set[str]:
    return {part.weight for part in one.parts.values()}


def _as_rows(one: ComputedAttention) -> ComputedAttention:
    return one._replace(shared_otherwise=False, turn=0)


def _agrees(attention: Attention, one: ComputedAttention) -> bool:
    """Whether Q, K and V are the same rows of the same heads; heads that the user gave are taken as they are."""
    for name, computed in one.parts.items():
        part = attention.part(name)
        if part is None or part.weight.name != computed.weight:
            return False
        if attention.heads is None or attention.heads_said_by is SaidBy.FLAG:
            if _every(part.heads) != _every(computed.heads):
                return False
        elif part.heads != computed.heads:
            return False
    return attention.heads is not None


def _every(heads: Sequence[range]) -> frozenset[int]:
    return frozenset(row for run in heads for row in run)


def _said(one: ComputedAttention) -> str:
    """``rows 0:6, 18:24, ... of qkv.weight as Q``, of each part."""
    said: list[str] = []
    for name, part in one.parts.items():
        runs = merge(part.heads)
        more = ", ..." * (len(runs) > 2)
        said.append(f"rows {', '.join(map(span, runs[:2]))}{more} of {part.weight.rpartition('.')[0] or part.weight}")
        said[-1] += f" as {name.upper()}"
    heads, kv_heads = len(one.q.heads), len(one.k.heads)
    over = f" over {kv_heads}" if kv_heads != heads else ""
    return f"{', '.join(said)}, {heads} head{'s' * (heads != 1)}{over}"


def _unlike(module: Module, one: ComputedAttention) -> str:
    """What the names would say, where that is known and not the same rows without heads."""
    found, attention = module.match.chosen, module.attention
    if found is None or attention is None:
        return ""
    parts = {part.name: (part.weight.name, _every(part.heads)) for part in attention.parts}
    is_as_said = parts == {name: (part.weight, _every(part.heads)) for name, part in one.parts.items()}
    if not parts or (is_as_said and attention.heads is None):
        return ""
    return f"; its names would say {found.layout.id}"


def _geometry(one: ComputedAttention) -> Geometry | None:
    """The sizes, where all heads of a part are of one width."""
    widths = {name: {len(run) for run in part.heads} for name, part in one.parts.items()}
    if any(len(found) != 1 for found in widths.values()) or widths["q"] != widths["k"]:
        return None
    (width,), (v_width,) = widths["q"], widths["v"]
    return Geometry(len(one.q.heads), len(one.k.heads), width, None if v_width == width else v_width)


def _stored(
    one: ComputedAttention, weights: Sequence[tuple[str, Weight]], known: Layout | None = None
) -> tuple[StoredWeight, ...] | None:
    """How each weight is packed; None where one is in no known way."""
    geometry = _geometry(one)
    if geometry is None:
        return None
    found: list[StoredWeight] = []
    turns: list[Orientation] = ["out_in"] * len(weights)
    if known is not None:
        turns = [stored.orientation for stored in known.weights]
    else:
        turns = ["in_out" if weight.name in one.in_out else "out_in" for _, weight in weights]
    for (key, weight), orientation in zip(weights, turns, strict=True):
        held = tuple((name, part.heads) for name, part in one.parts.items() if part.weight == weight.name)
        try:
            total = weight.as_shape(orientation)[0]
        except LayoutError:
            return None
        packing = _packing(held, geometry, total)
        if packing is None:
            return None
        found.append(StoredWeight(key, packing, orientation))
    return tuple(found)


@lru_cache(64)
def _packing(held: tuple[tuple[str, tuple[range, ...]], ...], geometry: Geometry, total: int) -> Packing | None:
    """The packing by which a tensor's rows are those; cached, as the layers of a stack are alike."""
    rows = {name: _every(heads) for name, heads in held}
    parts = [*rows]
    for one, other, both in (("k", "v", "kv"), ("q", "k", "qk")):
        if one in rows and other in rows and rows[one] == rows[other]:
            parts = [both, *(part for part in parts if part not in (one, other))]
    if len({row for own in rows.values() for row in own}) < total:
        parts.append("rest")
    groups: list[Groups] = ["one", "heads", "kv_heads", "rows"]
    groups += [many for many in range(2, geometry.num_kv_heads) if geometry.num_kv_heads % many == 0]
    for order in permutations(parts):
        for many in groups if len(parts) > 1 else groups[:1]:
            for innermost in ({}, {"slot_innermost": True}, {"heads_innermost": True}):
                packing = Packing(order, many, **innermost)
                try:
                    made = split_rows(packing, geometry, total)
                except LayoutError:
                    continue
                if all(made.get(name) == heads for name, heads in held):
                    return packing
    return None


def _layout(one: ComputedAttention, stored: tuple[StoredWeight, ...], known: Layout | None = None) -> Layout:
    """The layout that a graph says, with the other tensors of the one that the names say."""
    width = len(one.q.heads[0])
    turns: dict[int, Turn] = {1: "neighbours", width // 2: "halves"}
    made = Layout(
        id=ID,
        libraries="as the graph of the file computes it",
        weights=stored,
        source="the nodes between the products with the weights and attention",
        proof="graph",
        out=_OUTPUTS if known is None else known.out,
        out_orientation="out_in" if known is None else known.out_orientation,
        kv_heads="free",
        v_free=True,
        head_tensors=(),
        num_heads=len(one.q.heads),
        num_kv_heads=len(one.k.heads),
        head_dim=width,
        rotary=turns.get(one.turn) if width > 2 else None,
        found_by=ID,
    )
    if known is None or len(known.biases) != len(stored):
        return made
    biases = zip(known.biases, stored, strict=True)
    return replace(made, biases=tuple(StoredWeight(bias.key, own.packing) for bias, own in biases))
