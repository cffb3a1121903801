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
from qkvinspect.inspection.two_steps import IN_TWO_STEPS, STEPS
from qkvinspect.inspection.words import is_output, tokens
from qkvinspect.weights.weight import Weight

_MIXING = frozenset({"mixer", "mixing", "mix", "fusion", "fuse", "fuser", "interaction", "sab", "isab", "pma"})
_HOLDING = frozenset({"block", "blocks", "blk", "layer", "layers"})
"""Words of modules that mix tokens, and of what may hold such a module's projections itself."""

_NON_LOCAL = (frozenset("fgh"), frozenset({"theta", "phi", "g"}))
"""What the 1x1 convolutions of SAGAN and of non-local networks are called."""

_OTHERS = """
    receptance time decay conv conv1d filter filters fft spatial sgu rg lru
    gate gates dt mlp ffn fc ff modulation ada film style hh ih h2h
"""
_NO_ATTENTION = frozenset(_OTHERS.split())
"""Words beside which it is a recurrence, a convolution, a state space or an MLP."""

_IN = frozenset({"in", "input", "inp", "inputs"})


def mixing_tokens(
    names: Names, modules: Mapping[Path, Sequence[str]], taken: Collection[str]
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(its name as stored, the tensors, why) of each such module.

    Args:
        modules: names of matrices, by the path of what may mix tokens.
        taken: tensors that need no more looking at.
    """
    alike: dict[tuple[bool, tuple[tuple[str, Sequence[int]], ...]], str] = {}  # most modules of a stack are
    for place, every in modules.items():
        held = [name for name in every if name not in taken]
        keys = [names.paths[name][len(place)] for name in held]
        if len(held) not in (2, 4) and not any(map(_speaks, keys)):
            continue
        kind = _mixes((*place, ""), len(place)), tuple(zip(keys, map(names.shape, held), strict=True))
        why = alike.get(kind)
        if why is None:
            shapes = dict(kind[1])
            why = alike[kind] = _by_name(shapes) or (_by_shape(shapes) if kind[0] else "")
        if not why:
            continue
        stored = names.stored_layer(held[0], len(names.paths[held[0]]) - len(place))
        if why.startswith(IN_TWO_STEPS) or not any(
            _is_no_attention(names.paths[name][len(place) :]) for name in names.below(stored)
        ):
            yield stored, tuple(names.weights[name] for name in held), why


def mixer_above(path: Path) -> int:
    """How many components of a path are those of a module that may mix tokens; 0 for none."""
    at = len(path) - 1 - (path[-1] in LEAVES)
    return at if at > 0 and (_speaks(path[at]) or _mixes(path, at)) else 0


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
        return f"{IN_TWO_STEPS}: {', '.join(steps)}"
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
    stacks = [key for key, shape in shapes.items() if len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]]
    if stacks and len(shapes) == 2 and shapes[stacks[0]][1] in squares.values():
        return f"{stacks[0]} {list(shapes[stacks[0]])} may be Q, K and V, and stands beside a square output"
    if triples and len(shapes) == 2:
        return f"{triples[0]} has three times as many rows as columns and stands beside a square output"
    if len(squares) == len(shapes) == 4 and len(set(squares.values())) == 1:
        return "four square matrices of one size, and no names that say which is Q, K and V"
    return ""


@lru_cache(1 << 12)
def _is_no_attention(path: Path) -> bool:
    """Whether a name below a module says that it is something else."""
    return path[0] in ("A_log", "D", "A") or any(not _NO_ATTENTION.isdisjoint(tokens(part)) for part in path)
