"""The figures of one attention module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

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
from qkvinspect.analysis.weights import no_values, of_output, of_part, unusable
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry

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


def figures(attention: Attention, bounds: Bounds, wanted: Wanted) -> LayerFigures:
    """The figures of a module that are asked for.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    geometry = attention.heads
    if geometry is None:
        return LayerFigures(attention.layer, why="the number of heads is not known")
    why = next((reason for weight in attention.weights if (reason := no_values(weight))), "")
    if why:
        return LayerFigures(attention.layer, why=why)
    bound = bounds.of(attention)
    if geometry.width("q") != geometry.width("k"):  # latent attention keeps its rotary part with K's latents
        bound = "a head of Q is wider than one of K: a part of K lies elsewhere"
    try:
        queries = _qk(_factors(wanted.factors("qk"), attention, geometry), geometry, bound, wanted)
        values = _ov(_factors(wanted.factors("vo"), attention, geometry), geometry, wanted)
    except _UnusableError as error:
        return LayerFigures(attention.layer, why=str(error))
    return LayerFigures(
        attention.layer,
        tuple(_heads(geometry, queries, values)),
        (*queries.wholes(), *values.wholes()) if wanted.parts else (),
        bound_from=bound if isinstance(bound, str) else bound.origin,
    )


class _UnusableError(Exception):
    """A factor has no values to compute with; the message says which and why."""


@dataclass(frozen=True, slots=True)
class _Circuits:
    """The circuits of a layer that two factors make; empty where they were not asked for or a factor is not stored."""

    sides: Mapping[str, CircuitSide]
    spectra: Mapping[str, Sequence[Spectrum]]
    circuits: Sequence[Spectrum] = ()
    similar: Sequence[Similar | None] = ()
    symmetric: Sequence[float | None] = ()
    bounds: Sequence[float | None] = ()

    def spectrum(self, name: str, head: int) -> Spectrum | None:
        """Of one head of a factor."""
        return self.spectra[name][head] if name in self.spectra else None

    def wholes(self) -> Iterator[tuple[str, Spectrum]]:
        """Of each factor that is a part."""
        return ((name, self.sides[name].whole()) for name in "qkv" if name in self.sides)


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


def _factors(names: str, attention: Attention, geometry: Geometry) -> dict[str, Factor]:
    """Those of the named factors that are stored."""
    found: dict[str, Factor] = {}
    for name in names:
        part = attention.part(name)
        if name == "o":
            rows = of_output(attention, geometry.num_heads * geometry.width("v"))
        else:
            rows = of_part(part) if part is not None else None
        if rows is None:
            continue
        if why := unusable(rows):
            raise _UnusableError(f"{_WHAT[name]} {why}")
        found[name] = Factor(rows, geometry.num_heads if name == "o" else geometry.heads(name))
    return found


def _qk(factors: Mapping[str, Factor], geometry: Geometry, bound: Bound | str, wanted: Wanted) -> _Circuits:
    fields = wanted.fields
    sides, spectra = _sides(factors, fields, together=wanted.parts or "similar_qk" in fields)
    pairs = _query_pairs(geometry)
    if len(sides) < 2 or geometry.width("q") != geometry.width("k"):
        return _Circuits(sides, spectra)
    q, k = sides["q"], sides["k"]
    plain = isinstance(bound, Bound) and not bound.most_q and bound.gain is None
    found = circuits(q, k, pairs) if "qk" in fields or (plain and "logit_bound" in fields) else ()
    return _Circuits(
        sides,
        spectra,
        found,
        most_similar(inner_products(q, k, pairs)) if "similar_qk" in fields else (),
        symmetric_shares(q, k, pairs) if "symmetric" in fields else (),
        _logit_bounds(factors, pairs, found, bound) if "logit_bound" in fields else (),
    )


def _ov(factors: Mapping[str, Factor], geometry: Geometry, wanted: Wanted) -> _Circuits:
    fields = wanted.fields
    sides, spectra = _sides(factors, fields, together=wanted.parts or "similar_ov" in fields)
    if len(sides) < 2:
        return _Circuits(sides, spectra)
    o, v = sides["o"], sides["v"]
    pairs = [(head, geometry.kv_head(head)) for head in range(geometry.num_heads)]
    found = circuits(o, v, pairs) if "ov" in fields else ()
    return _Circuits(sides, spectra, found, most_similar(inner_products(o, v, pairs)) if "similar_ov" in fields else ())


def _sides(
    factors: Mapping[str, Factor], fields: Set[str], *, together: bool
) -> tuple[dict[str, CircuitSide], dict[str, Sequence[Spectrum]]]:
    """What is computed of each factor alone."""
    sides = {name: CircuitSide(factor, together=together) for name, factor in factors.items()}
    return sides, {name: side.spectra for name, side in sides.items() if name in fields}


def _logit_bounds(
    factors: Mapping[str, Factor], pairs: Pairs, found: Sequence[Spectrum], bound: Bound | str
) -> list[float | None]:
    if isinstance(bound, str):
        return [None] * len(pairs)
    if bound.most_q:
        return [bound.scale * bound.most_q[query] * bound.most_k[key] for query, key in pairs]
    q, k = factors["q"], factors["k"]
    if bound.gain is not None:
        found = circuits(CircuitSide(q, gain=bound.gain), CircuitSide(k, gain=bound.gain), pairs)
    length = sqrt(q.rows.shape[1] * k.rows.shape[1])
    return [bound.scale * spectrum.largest * length for spectrum in found]
