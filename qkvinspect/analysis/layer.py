"""The figures of attention modules, those of alike ones in one call for all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import sqrt
from typing import TypeVar

import numpy as np

from qkvinspect.analysis.bounds import Bound, Bounds
from qkvinspect.analysis.circuits import (
    CircuitSide,
    Factor,
    Pairs,
    circuits,
    inner_products,
    most_similar,
    symmetric_shares,
)
from qkvinspect.analysis.figures import HeadFigures, LayerFigures, Similar, Spectrum
from qkvinspect.analysis.weights import no_values, of_output, of_parts, unusable
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry
from qkvinspect.weights.reading import Array

_WHAT = {"q": "Q", "k": "K", "v": "V", "o": "the output projection"}

Figure = TypeVar("Figure")

_QK = frozenset({"q", "k", "qk", "symmetric", "logit_bound", "similar_qk"})
_OV = frozenset({"v", "ov", "similar_ov"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which figures are computed.

    Attributes:
        fields: those of ``HeadFigures``.
        parts: whether those of Q, K and V as a whole are computed, too.
    """

    fields: frozenset[str] = _QK | _OV
    parts: bool = True

    def factors(self, names: str) -> str:
        """Which factors must be read: of Q and K, or of V and the output projection."""
        asked = self.fields & (_QK if "q" in names else _OV)
        alone = "".join(name for name in names if name in asked or (self.parts and name != "o"))
        return names if asked - frozenset("qkv") else alone


@dataclass(frozen=True, slots=True)
class _Computable:
    """One module whose figures can be computed."""

    attention: Attention
    geometry: Geometry
    bound: Bound | str

    @property
    def bound_kind(self) -> str:
        """How the bound on its logits is computed: "" where there is none."""
        if isinstance(self.bound, str):
            return ""
        return "lengths" if self.bound.most_q else "gain" if self.bound.gain is not None else "plain"


def figures(attentions: Sequence[Attention], bounds: Bounds, wanted: Wanted) -> list[LayerFigures]:
    """The figures of some modules that are asked for: all are in memory at the same time.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    modules: dict[int, _Computable] = {}
    why: dict[int, str] = {}
    for place, attention in enumerate(attentions):
        found = _module(attention, bounds)
        if isinstance(found, str):
            why[place] = found
        else:
            modules[place] = found
    queries = _circuits("qk", modules, wanted, why)
    values = _circuits("vo", {place: one for place, one in modules.items() if place not in why}, wanted, why)
    layers: list[LayerFigures] = []
    for place, one in enumerate(attentions):
        whole = None if place in why else _of_module(modules[place], queries[place], values[place])
        if whole is None or (whole.why and not _says_anything(whole, wanted)):
            whole = LayerFigures(one.layer, why=whole.why if whole else why[place])
        layers.append(whole)
    return layers


def _says_anything(layer: LayerFigures, wanted: Wanted) -> bool:
    return any(getattr(head, name) is not None for head in layer.heads for name in wanted.fields)


def _module(attention: Attention, bounds: Bounds) -> _Computable | str:
    """It with its bound; or why there are no figures."""
    geometry = attention.heads
    if geometry is None:
        return "the number of heads is not known"
    why = next((reason for weight in attention.weights if (reason := no_values(weight))), "")
    if why:
        return why
    bound = bounds.of(attention)
    if geometry.width("q") != geometry.width("k"):  # latent attention keeps its rotary part with K's latents
        bound = "a head of Q is wider than one of K: a part of K lies elsewhere"
    return _Computable(attention, geometry, bound)


@dataclass(frozen=True, slots=True)
class _Circuits:
    """The circuits that two factors make, of one layer after another; empty where they were not asked for, or a factor
    is not stored.

    Attributes:
        spectra, wholes: of each factor, by its name: of all its heads, and of its layers.
        lost: why a factor cannot be computed with.
    """

    spectra: Mapping[str, Sequence[Spectrum]]
    wholes: Mapping[str, Sequence[Spectrum]]
    circuits: Sequence[Spectrum] = ()
    similar: Sequence[Similar | None] = ()
    symmetric: Sequence[float | None] = ()
    bounds: Sequence[float | None] = ()
    lost: tuple[str, ...] = ()

    def spectrum(self, name: str, head: int) -> Spectrum | None:
        """Of one head of a factor."""
        return self.spectra[name][head] if name in self.spectra else None

    def of_each(self, layers: int) -> Iterator[_Circuits]:
        """Those of each of so many layers alone."""
        for at in range(layers):
            yield _Circuits(
                {name: _share(some, at, layers) for name, some in self.spectra.items()},
                {name: _share(some, at, layers) for name, some in self.wholes.items()},
                _share(self.circuits, at, layers),
                _share(self.similar, at, layers),
                _share(self.symmetric, at, layers),
                _share(self.bounds, at, layers),
            )


def _share(found: Sequence[Figure], at: int, layers: int) -> Sequence[Figure]:
    size = len(found) // layers
    return found[at * size : (at + 1) * size]


def _of_module(module: _Computable, queries: _Circuits, values: _Circuits) -> LayerFigures:
    bound = "" if queries.lost else module.bound
    return LayerFigures(
        module.attention.layer,
        tuple(_heads(module.geometry, queries, values)),
        tuple((name, one) for found in (queries, values) for name, (one,) in found.wholes.items()),
        bound_from=bound if isinstance(bound, str) else bound.origin,
        why="; ".join((*queries.lost, *values.lost)),
    )


def _heads(geometry: Geometry, queries: _Circuits, values: _Circuits) -> Iterator[HeadFigures]:
    for head, (query, key) in enumerate(_query_pairs(geometry)):
        whole = geometry.whole_head(head)
        kv = geometry.kv_head(whole)
        yield HeadFigures(
            head=head,
            kv_head=kv,
            q=queries.spectrum("q", query),
            k=queries.spectrum("k", key),
            v=values.spectrum("v", kv),
            qk=_at(queries.circuits, head),
            ov=_at(values.circuits, whole),
            symmetric=_at(queries.symmetric, head),
            logit_bound=_at(queries.bounds, head),
            similar_qk=_at(queries.similar, head),
            similar_ov=_at(values.similar, whole),
        )


def _at(found: Sequence[Figure], place: int) -> Figure | None:
    return found[place] if found else None


def _query_pairs(geometry: Geometry) -> Pairs:
    """For each head of Q the head of K that it is compared with; both may be divided further."""
    return [(head, geometry.partner("k", head)) for head in range(geometry.heads("q"))]


def _circuits(
    names: str, modules: Mapping[int, _Computable], wanted: Wanted, why: dict[int, str]
) -> Mapping[int, _Circuits]:
    """Those of two factors of each module, all of one size at once; of the others ``why`` then says why not."""
    alike: dict[Hashable, dict[int, Mapping[str, Array]]] = {}
    lost: dict[int, tuple[str, ...]] = {}
    for place, module in modules.items():
        every = _read(wanted.factors(names), module)
        unfit = {name: said for name, rows in every.items() if (said := unusable(rows))}
        lost[place] = tuple(f"{_WHAT[name]} {said}" for name, said in unfit.items())
        read = {name: rows for name, rows in every.items() if name not in unfit}
        sizes = tuple((name, rows.shape) for name, rows in read.items())
        alike.setdefault((module.geometry, module.bound_kind, sizes), {})[place] = read
    compute = _qk if names == "qk" else _ov
    found: dict[int, _Circuits] = {}
    while alike:
        _, some = alike.popitem()
        found.update(_of_alike(compute, some, modules, wanted, why))
    return {place: replace(one, lost=lost[place]) if lost[place] else one for place, one in found.items()}


def _of_alike(
    compute: Callable[[Mapping[str, Factor], Sequence[_Computable], Wanted], _Circuits],
    read: Mapping[int, Mapping[str, Array]],
    modules: Mapping[int, _Computable],
    wanted: Wanted,
    why: dict[int, str],
) -> Mapping[int, _Circuits]:
    """Those of modules of one size; of each alone where LAPACK fails on one of them, which has none."""
    group = [modules[place] for place in read]
    try:
        every = compute(_stacked(list(read.values()), group[0].geometry), group, wanted)
    except np.linalg.LinAlgError:
        if len(read) > 1:
            alone = (_of_alike(compute, {place: rows}, modules, wanted, why) for place, rows in read.items())
            return {place: one for found in alone for place, one in found.items()}
        why.update(dict.fromkeys(read, "LAPACK does not decompose its matrices"))
        return {}
    return dict(zip(read, every.of_each(len(group)), strict=True))


def _read(names: str, module: _Computable) -> Mapping[str, Array]:
    """The rows of those of the named factors that are stored."""
    attention, geometry = module.attention, module.geometry
    parts = [part for name in names if (part := attention.part(name)) is not None]
    found = dict(zip((part.name for part in parts), of_parts(parts), strict=True))
    output = of_output(attention, geometry.num_heads * geometry.width("v")) if "o" in names else None
    if output is not None:
        found["o"] = output
    return found


def _stacked(read: Sequence[Mapping[str, Array]], geometry: Geometry) -> Mapping[str, Factor]:
    """The factors of modules that are alike."""
    return {
        name: Factor(
            rows[None] if len(read) == 1 else np.stack([one[name] for one in read]),
            geometry.num_heads if name == "o" else geometry.heads(name),
        )
        for name, rows in read[0].items()
    }


def _qk(factors: Mapping[str, Factor], modules: Sequence[_Computable], wanted: Wanted) -> _Circuits:
    fields, geometry, kind = wanted.fields, modules[0].geometry, modules[0].bound_kind
    sides = _sides(factors, together=wanted.parts or "similar_qk" in fields)
    pairs = _query_pairs(geometry)
    if len(sides) < 2 or geometry.width("q") != geometry.width("k"):
        return _Circuits(*_of_factors(sides, wanted))
    q, k = sides["q"], sides["k"]
    needed = "qk" in fields or (kind == "plain" and "logit_bound" in fields)
    found = circuits(q, k, pairs) if needed else ()
    return _Circuits(
        *_of_factors(sides, wanted),
        found,
        most_similar(inner_products(q, k, pairs)) if "similar_qk" in fields else (),
        symmetric_shares(q, k, pairs) if "symmetric" in fields else (),
        _logit_bounds(factors, modules, pairs, found) if "logit_bound" in fields else (),
    )


def _ov(factors: Mapping[str, Factor], modules: Sequence[_Computable], wanted: Wanted) -> _Circuits:
    fields, geometry = wanted.fields, modules[0].geometry
    sides = _sides(factors, together=wanted.parts or "similar_ov" in fields)
    if len(sides) < 2:
        return _Circuits(*_of_factors(sides, wanted))
    o, v = sides["o"], sides["v"]
    pairs = [(head, geometry.kv_head(head)) for head in range(geometry.num_heads)]
    found = circuits(o, v, pairs) if "ov" in fields else ()
    similar = most_similar(inner_products(o, v, pairs)) if "similar_ov" in fields else ()
    return _Circuits(*_of_factors(sides, wanted), found, similar)


def _sides(factors: Mapping[str, Factor], *, together: bool) -> Mapping[str, CircuitSide]:
    return {name: CircuitSide(factor, together=together) for name, factor in factors.items()}


def _of_factors(
    sides: Mapping[str, CircuitSide], wanted: Wanted
) -> tuple[Mapping[str, Sequence[Spectrum]], Mapping[str, Sequence[Spectrum]]]:
    """What is computed of each factor alone: of its heads, and as a whole."""
    return (
        {name: side.spectra for name, side in sides.items() if name in wanted.fields},
        {name: side.wholes() for name, side in sides.items() if wanted.parts and name != "o"},
    )


def _logit_bounds(
    factors: Mapping[str, Factor], modules: Sequence[_Computable], pairs: Pairs, found: Sequence[Spectrum]
) -> Sequence[float | None]:
    bounds = [module.bound for module in modules]
    known = [bound for bound in bounds if isinstance(bound, Bound)]
    if len(known) < len(bounds):
        return [None] * (len(bounds) * len(pairs))
    if known[0].most_q:
        return [bound.scale * bound.most_q[query] * bound.most_k[key] for bound in known for query, key in pairs]
    q, k = factors["q"], factors["k"]
    gains = [bound.gain for bound in known if bound.gain is not None]
    if gains:
        gain = np.stack(gains)
        found = circuits(CircuitSide(q, gain=gain), CircuitSide(k, gain=gain), pairs)
    length = sqrt(q.rows.shape[2] * k.rows.shape[2])
    scales = (bound.scale for bound in known for _ in pairs)
    return [scale * spectrum.largest * length for scale, spectrum in zip(scales, found, strict=True)]
