"""Norms of Q and K beside matrices that nothing knows: something there makes Q and K, under names that do not say it.

Flux's single blocks make Q, K, V and an MLP of one ``linear1`` and have ``norm.query_norm`` and ``norm.key_norm``
beside it; under another name than ``single_blocks`` no row of the registry takes them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache

from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.words import is_no_projection, tokens
from qkvinspect.weights.weight import Weight

_NORMS = frozenset({"norm", "ln", "layernorm", "rmsnorm", "rms", "qnorm", "knorm"})
_OF = {
    **dict.fromkeys(("q", "query", "queries", "qnorm"), "q"),
    **dict.fromkeys(("k", "key", "keys", "knorm"), "k"),
}
_SCALES = frozenset({"weight", "scale", "gamma", "g"})
"""What the parameter of a norm is called, in the module of the norm."""

NO_ROW = (
    "nothing tells which rows the norms of Q and K are for; --layout ID reads it as a row of the registry has it, such "
    "as flux-single where it is a block of Flux under another name"
)

_LEVELS = 2
"""How many modules up the matrices may stand: norms may have a module of their own."""


def normed_above(path: Path) -> int:
    """How many components of a path are those of the module that a norm of Q or K is for; 0 for none."""
    at = _at(path)
    if at < 1 or not _part(path[at]):
        return 0
    return at - 1 if at > 1 and "norm" in path[at - 1].lower() else at


def _at(path: Path) -> int:
    """Where in a path the name of a norm would stand."""
    return len(path) - 1 - (path[-1] in _SCALES)


@lru_cache(1 << 12)
def _part(component: str) -> str:
    """Which part a norm of this name is of: q or k; "" for none."""
    said = tokens(component)
    parts = {_OF[word] for word in said if word in _OF}
    return parts.pop() if len(parts) == 1 and not _NORMS.isdisjoint(said) else ""


def beside_norms(
    names: Names, modules: Mapping[Path, Sequence[str]], understood: Sequence[Container[str]]
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(its name as stored, its matrices, why) of each module with norms of Q and K of which nothing is understood.

    Args:
        modules: names of norms, by the path of the module that they are for.
        understood: tensors of which something is said already.
    """
    for place, held_by in modules.items():
        parts = {name: _part(names.paths[name][_at(names.paths[name])]) for name in held_by}
        if len({*parts.values()}) < 2:
            continue
        norms = sorted(held_by, key=lambda name: "qk".index(parts[name]))
        path = names.paths[norms[0]]
        for at in range(len(place), max(len(place) - _LEVELS, -1), -1):
            stored = names.stored_layer(norms[0], len(path) - at)
            below = names.below(stored)
            if any(name in some for some in understood for name in below):
                break
            held = tuple([names.weights[name] for name in below if _is_own_matrix(names, name, at)])
            if held:
                ends = [".".join(names.paths[name][at:]) for name in norms]
                said = " and ".join(f"{end} {list(names.shape(name))}" for end, name in zip(ends, norms, strict=True))
                yield stored, held, f"norms of Q and K, and no name that says which rows of what they are for: {said}"
                break


def _is_own_matrix(names: Names, name: str, at: int) -> bool:
    """Whether a tensor is the matrix of a layer of the module itself, and of no table or gate."""
    end = names.paths[name][at:]
    own = len(end) == 1 or (len(end) == 2 and end[-1] in LEAVES)
    return own and not is_no_projection(end[0]) and sum(size > 1 for size in names.shape(name)) > 1
