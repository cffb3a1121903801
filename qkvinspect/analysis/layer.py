"""The figures of one attention module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from qkvinspect.analysis.bounds import Bound, Bounds
from qkvinspect.analysis.circuits import CircuitSide, Factor, circuit, inner_products, most_similar, symmetric_share
from qkvinspect.analysis.figures import HeadFigures, LayerFigures, Similar, Spectrum
from qkvinspect.analysis.spectra import reduced, singular_values
from qkvinspect.analysis.weights import no_values, of_output, of_part
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import Geometry

_WHAT = {"q": "Q", "k": "K", "v": "V", "o": "the output projection"}

_MOST = 1e60
"""The product of four such values is still finite in float64."""

Pairs = list[tuple[int, int]]


def figures(attention: Attention, bounds: Bounds) -> LayerFigures:
    """All figures of a module.

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
        queries = _qk(_factors("qk", attention, geometry), geometry, bound)
        values = _ov(_factors("vo", attention, geometry), geometry)
    except _UnusableError as error:
        return LayerFigures(attention.layer, why=str(error))
    heads: list[HeadFigures] = []
    for head, (query, key) in enumerate(_query_pairs(geometry)):
        whole = head // geometry.subheads.get("q", 1)
        kv = geometry.kv_head(whole)
        heads.append(
            HeadFigures(
                head=head,
                kv_head=kv,
                q=queries.spectrum("q", query),
                k=queries.spectrum("k", key),
                v=values.spectrum("v", kv),
                qk=queries.circuits[head],
                ov=values.circuits[whole],
                symmetric=queries.symmetric[head],
                logit_bound=queries.bounds[head],
                similar_qk=queries.similar[head],
                similar_ov=values.similar[whole],
            )
        )
    wholes = {**queries.sides, **values.sides}
    return LayerFigures(
        attention.layer,
        tuple(heads),
        tuple((name, wholes[name].whole()) for name in "qkv" if name in wholes),
        bound_from=bound if isinstance(bound, str) else bound.origin,
    )


class _UnusableError(Exception):
    """A factor has no values to compute with; the message says which and why."""


@dataclass(frozen=True, slots=True)
class _Circuits:
    """The circuits QK and OV of a layer; None where a factor is not stored."""

    sides: Mapping[str, CircuitSide]
    circuits: Sequence[Spectrum | None]
    similar: Sequence[Similar | None]
    symmetric: Sequence[float | None] = ()
    bounds: Sequence[float | None] = ()

    def spectrum(self, name: str, head: int) -> Spectrum | None:
        """The spectrum of one head of a factor."""
        return self.sides[name].spectra[head] if name in self.sides else None


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
        if not np.isfinite(rows).all():
            raise _UnusableError(f"{_WHAT[name]} has values that are not finite")
        if rows.size and max(rows.max(), -rows.min()) > _MOST:
            raise _UnusableError(f"{_WHAT[name]} has values above {_MOST:g}")
        found[name] = Factor(rows, geometry.num_heads if name == "o" else geometry.heads(name))
    return found


def _qk(factors: Mapping[str, Factor], geometry: Geometry, bound: Bound | str) -> _Circuits:
    sides = {name: CircuitSide(factor) for name, factor in factors.items()}
    pairs = _query_pairs(geometry)
    if len(sides) < 2 or geometry.width("q") != geometry.width("k"):
        none = [None] * len(pairs)
        return _Circuits(sides, none, none, none, none)
    q, k = sides["q"], sides["k"]
    circuits = [circuit(q, k, pair) for pair in pairs]
    symmetric = [symmetric_share((factors["q"], factors["k"]), (q, k), pair) for pair in pairs]
    bounds = [_logit_bound(factors, pair, found, bound) for pair, found in zip(pairs, circuits, strict=True)]
    return _Circuits(sides, circuits, most_similar(inner_products(q, k, pairs)), symmetric, bounds)


def _ov(factors: Mapping[str, Factor], geometry: Geometry) -> _Circuits:
    sides = {name: CircuitSide(factor) for name, factor in factors.items()}
    pairs = [(head, geometry.kv_head(head)) for head in range(geometry.num_heads)]
    if len(sides) < 2:
        none = [None] * len(pairs)
        return _Circuits(sides, none, none)
    o, v = sides["o"], sides["v"]
    circuits = [circuit(o, v, pair) for pair in pairs]
    return _Circuits(sides, circuits, most_similar(inner_products(o, v, pairs)))


def _logit_bound(
    factors: Mapping[str, Factor], pair: tuple[int, int], found: Spectrum, bound: Bound | str
) -> float | None:
    if isinstance(bound, str):
        return None
    if bound.most_q:
        return bound.scale * bound.most_q[pair[0]] * bound.most_k[pair[1]]
    query, key = factors["q"].head(pair[0]), factors["k"].head(pair[1])
    largest = found.largest
    if bound.gain is not None:
        largest = float(singular_values(reduced(query * bound.gain).T @ reduced(key * bound.gain))[0])
    return bound.scale * largest * sqrt(query.shape[1] * key.shape[1])
