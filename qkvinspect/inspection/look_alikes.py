"""Modules that are called attention and hold matrices under names that say nothing: what looks like attention there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

from qkvinspect.inspection.kernels import is_convolution
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.words import is_no_projection, is_output, speaks_of_attention, tokens, word_of
from qkvinspect.weights.weight import Weight

_SMALL = 8

_TABLES = frozenset({"table", "tables", "tril", "freqs", "slopes", "alibi", "buffer", "attn_mask"})
"""Words of what is no matrix of numbers that were learned for tokens."""

_BIASES = ("bias", "biases", "b", "scale", "gamma", "beta")

_STEPS = frozenset({"dq", "uq", "dkv", "ukv", "dk", "uk", "dv", "uv", "qr", "kr", "wdq", "wuq", "wdkv", "wuk", "wuv"})
"""Words for the two steps of latent attention, down and up, and for its rotary part, as DeepSeek's papers have them."""


def looking_alike(
    names: Names, paths: Mapping[str, Path], known: Collection[str] = (), taken: Collection[str] = ()
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(its name as stored, the tensors, why) of each such module.

    Args:
        paths: of the tensors that are looked at.
        known, taken: those of them that need no more looking at.
    """
    modules: dict[Path, list[Weight]] = {}
    for name, path in paths.items():
        if len(path) < 2 or name in known or name in taken:
            continue
        place = _attention_above(path)
        if place is not None and _is_matrix(names.shape(name)) and not _is_table(path[len(place) :]):
            modules.setdefault(place, []).append(names.weights[name])
    for place, held in modules.items():
        if names.has("sampling_offsets.weight", place):
            continue
        ends = {info.name: names.paths[info.name][len(place) :] for info in held}
        why = _in_two_steps(ends) or _looks_like(held, ends) or _query_alone(held, ends)
        if why:
            stored = names.stored_layer(held[0].name, len(names.paths[held[0].name]) - len(place))
            yield stored, tuple(held), why


def _is_matrix(shape: Sequence[int]) -> bool:
    """Whether it is a linear layer, a 1x1 convolution or a stack of such that is not tiny."""
    sizes = sorted(size for size in shape if size > 1)
    return len(sizes) > 1 and sizes[-2] >= _SMALL and (prod(shape[2:]) == 1 or not is_convolution(shape))


def _is_table(path: Path) -> bool:
    """Whether it is a bias, a table of positions or the like."""
    leaf = path[-1]
    if leaf in _BIASES or (leaf not in LEAVES and is_no_projection(leaf)):
        return True
    return any(not _TABLES.isdisjoint(tokens(part)) for part in path)


def _attention_above(path: Path) -> Path | None:
    """The module that is called attention, if the tensor lies directly below it: ``attn.fc.weight``, ``attn.W``."""
    for at in (len(path) - 1, len(path) - 2, len(path) - 3):
        if at < 1:
            return None
        above = path[at - 2] if at < len(path) - 1 and at > 1 and path[at - 1].isdecimal() else path[at - 1]
        if not above.isdecimal() and speaks_of_attention(above):  # of many layers, each number would be looked up
            return path[:at]
    return None


def _in_two_steps(ends: Mapping[str, Path]) -> str:
    """Whether the names are those of latent attention; "" if not."""
    steps = [".".join(end) for end in ends.values() if not _STEPS.isdisjoint(tokens(end[0]))]
    return f"projections in two steps, as latent attention has them: {', '.join(steps)}" if len(steps) > 1 else ""


def _looks_like(held: Sequence[Weight], ends: Mapping[str, Path]) -> str:
    """Why the matrices of a module may be projections; "" where they do not look so."""
    squares = [info.shape[0] for info in held if info.shape[0] == info.shape[1] and prod(info.shape[2:]) == 1]
    for info in held:
        rows, cols = info.shape[:2]
        if prod(info.shape[2:]) == 1 and cols in squares and rows in (3 * cols, cols // 3):
            return (
                f"{'.'.join(ends[info.name])} has three times as many rows as columns and stands beside a square matrix"
            )
    alike: Mapping[int, int] = {size: squares.count(size) for size in squares}
    if max(alike.values(), default=0) >= 3:
        return f"{max(alike.values())} square matrices of one size, and no names that say which is Q, K and V"
    shapes = [info.shape[:2] for info in held if prod(info.shape[2:]) == 1]
    for rows, cols in dict.fromkeys(shapes):
        if shapes.count((rows, cols)) == 3 and (cols, rows) in shapes:
            return f"three matrices [{rows}, {cols}] and one that leads back, and no names that say which is Q, K and V"
    deep = [info for info in held if prod(info.shape[2:]) > 1 and not is_output(ends[info.name][0])]
    if deep:
        said = ", ".join(f"{'.'.join(ends[info.name])} {list(info.shape)}" for info in deep)
        return f"parameters of more than two axes, and nothing says what they count: {said}"
    if len(held) == 1 and held[0].shape[0] == 3 * held[0].shape[1]:
        return f"{'.'.join(ends[held[0].name])} has three times as many rows as columns"
    return ""


def _query_alone(held: Sequence[Weight], ends: Mapping[str, Path]) -> str:
    """Why a query projection and the way back out of it are attention, whose K and V lie elsewhere; "" if not."""
    named = [(ends[info.name][0], info) for info in held]
    queries = [info for name, info in named if (word := word_of(name)) is not None and word.parts == "q"]
    outputs = [info.shape[:2] for name, info in named if is_output(name)]
    if len(queries) == 1 and queries[0].shape[:2][::-1] in outputs:
        said = ".".join(ends[queries[0].name])
        return f"q alone: {said} beside an output, so that K and V may be those of another layer"
    return ""
