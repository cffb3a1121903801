"""Modules that mix tokens and are not called attention: ``mixer``, ``fusion``, ``block``; and names that few have.

What stands there is often something else (a state space, a convolution, an MLP over tokens), so that less counts than
in what is called attention: names of the two steps of latent attention or of non-local blocks, four squares of which
one leads out, or a projection in of three times the width beside a square one out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod

from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.words import is_output, tokens
from qkvinspect.weights.weight import Weight

_MIXING = frozenset({"mixer", "mixing", "mix", "fusion", "fuse", "fuser", "interaction", "sab", "isab", "pma"})
_HOLDING = frozenset({"block", "blocks", "blk", "layer", "layers"})
"""Words of modules that mix tokens, and of what may hold such a module's projections itself."""

STEPS = frozenset({"dq", "uq", "dkv", "ukv", "dk", "uk", "dv", "uv", "wdq", "wuq", "wdkv", "wukv", "wuk", "wuv"})
"""Words for the two steps of latent attention, as DeepSeek's papers have them."""

_NON_LOCAL = (frozenset("fgh"), frozenset({"theta", "phi", "g"}))
"""What the 1x1 convolutions of SAGAN and of non-local networks are called."""

_OTHERS = """
    receptance time decay conv conv1d filter filters fft spatial sgu rg lru
    gate gates dt mlp ffn fc ff modulation ada film style hh ih h2h
"""
_NO_ATTENTION = frozenset(_OTHERS.split())
"""Words beside which it is a recurrence, a convolution, a state space or an MLP."""

_LATENT = "projections in two steps, as latent attention has them"

_IN = frozenset({"in", "input", "inp", "inputs"})


def mixing_tokens(
    names: Names, paths: Mapping[str, Path], known: Collection[str] = (), taken: Collection[str] = ()
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(its name as stored, the tensors, why) of each such module.

    Args:
        paths: of the tensors that are looked at.
        known, taken: those of them that need no more looking at.
    """
    modules: dict[Path, list[tuple[str, str]]] = {}
    for name, path in paths.items():
        if name in known or name in taken:
            continue
        at = len(path) - 1 - (path[-1] in LEAVES)
        if at < 1 or not (_speaks(path[at]) or _mixes(path, at)):
            continue
        if sum(size > 1 for size in names.shape(name)) > 1:
            modules.setdefault(path[:at], []).append((path[at], name))
    for place, held in modules.items():
        if len(held) not in (2, 4) and not any(_speaks(key) for key, _ in held):
            continue
        shapes = {key: names.shape(name) for key, name in held}
        why = _by_name(shapes) or (_by_shape(shapes) if _mixes((*place, ""), len(place)) else "")
        if not why:
            continue
        first = held[0][1]
        stored = names.stored_layer(first, len(names.paths[first]) - len(place))
        if why.startswith(_LATENT) or not any(
            _is_no_attention(names.paths[name][len(place) :]) for name in names.below(stored)
        ):
            yield stored, tuple(names.weights[name] for _, name in held), why


@lru_cache(1 << 12)
def _speaks(component: str) -> bool:
    """Whether a name is one of those that few others have."""
    said = tokens(component)
    return not STEPS.isdisjoint(said) or (len(said) == 1 and any(said[0] in some for some in _NON_LOCAL))


def _mixes(path: Path, at: int) -> bool:
    """Whether the module in which a component stands, or what counts it, is called so."""
    above = path[at - 2] if path[at - 1].isdecimal() and at > 1 else path[at - 1]
    return _may_mix(above)


@lru_cache(1 << 12)
def _may_mix(component: str) -> bool:
    return not (_MIXING | _HOLDING).isdisjoint(tokens(component))


def _by_name(shapes: Mapping[str, Sequence[int]]) -> str:
    steps = [key for key in shapes if not STEPS.isdisjoint(tokens(key))]
    if len(steps) > 2 and any("kv" in key.lower() for key in steps):
        return f"{_LATENT}: {', '.join(steps)}"
    for some in _NON_LOCAL:
        found = [shape for key, shape in shapes.items() if key in some]
        if len(found) == 3 and len({shape[1] for shape in found}) == 1 and all(map(_is_1x1, found)):
            return f"1x1 convolutions called {', '.join(sorted(some))}, as non-local blocks and SAGAN call Q, K and V"
    return ""


def _is_1x1(shape: Sequence[int]) -> bool:
    return len(shape) > 2 and prod(shape[2:]) == 1


def _by_shape(shapes: Mapping[str, Sequence[int]]) -> str:
    """Why matrices of a module that mixes tokens may be projections; "" where they do not look so."""
    squares = {key: shape[0] for key, shape in shapes.items() if prod(shape) == shape[0] * shape[1] == shape[0] ** 2}
    outputs = {squares[key] for key in squares if is_output(key)}
    triples = [
        key
        for key, shape in shapes.items()
        if shape[0] == 3 * shape[1] == prod(shape) // shape[1]
        and not _IN.isdisjoint(tokens(key))
        and shape[1] in outputs
    ]
    if triples and len(shapes) == 2:
        return f"{triples[0]} has three times as many rows as columns and stands beside a square output"
    if len(squares) == len(shapes) == 4 and len(set(squares.values())) == 1:
        return "four square matrices of one size, and no names that say which is Q, K and V"
    return ""


@lru_cache(1 << 12)
def _is_no_attention(path: Path) -> bool:
    """Whether a name below a module says that it is something else."""
    return path[0] in ("A_log", "D", "A") or any(not _NO_ATTENTION.isdisjoint(tokens(part)) for part in path)
