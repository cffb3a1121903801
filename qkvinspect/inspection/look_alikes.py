"""Modules that are called attention and hold matrices under names that say nothing: what looks like attention there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from qkvinspect.inspection.beside_mlp import holding_mlp
from qkvinspect.inspection.kernels import is_convolution
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES
from qkvinspect.inspection.two_steps import IN_TWO_STEPS, STEPS
from qkvinspect.inspection.words import is_no_projection, is_output, speaks_of_attention, tokens, word_of
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.weight import Weight

_SMALL = 8

_TABLES = frozenset({"table", "tables", "tril", "freqs", "slopes", "alibi", "buffer", "attn_mask"})
"""Words of what is no matrix of numbers that were learned for tokens."""

_ONE_LAYER = (("0",),)
"""What stands between the name of a layer and its weight where something follows it: nn.Sequential."""

_BIASES = ("bias", "biases", "b", "scale", "gamma", "beta")


_Shapes = Mapping[Path, Sequence[int]]
"""By what follows the module in the names of its tensors."""


def looking_alike(names: Names, modules: Mapping[Path, Sequence[str]]) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(its name as stored, the tensors, why) of each such module.

    Args:
        modules: names of matrices, by the path of what is called attention.
    """
    alike: dict[tuple[tuple[Path, Sequence[int]], ...], str] = {}  # most modules of a stack are
    for called, held in modules.items():
        first = names.paths[held[0]]
        is_layer = len(held) == 1 and len(first) == len(called) + 1 and first[-1] in LEAVES
        place = called[:-1] if is_layer else called  # its output may stand beside it
        if names.has("sampling_offsets.weight", place):
            continue
        kind = tuple((names.paths[name][len(place) :], names.shape(name)) for name in held)
        why = alike.get(kind)
        if why is None:
            shapes = dict(kind)
            why = alike[kind] = _in_two_steps(shapes) or _looks_like(shapes) or _query_alone(shapes)
        if why:
            yield names.stored_layer(held[0], len(first) - len(place)), tuple(names.weights[name] for name in held), why


def may_project(shape: Sequence[int], end: Path) -> bool:
    """Whether a tensor may be a projection by its shape and what follows the module in its name."""
    return _is_matrix(shape) and not _is_table(end)


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


def attention_above(path: Path) -> int:
    """How many components of a path are those of the module that is called attention; 0 for none.

    It is one if the tensor lies directly below it: ``attn.fc.weight``, ``attn.W``.
    """
    for at in (len(path) - 1, len(path) - 2, len(path) - 3):
        if at < 1:
            return 0
        above = path[at - 2] if at < len(path) - 1 and at > 1 and path[at - 1].isdecimal() else path[at - 1]
        if not above.isdecimal() and speaks_of_attention(above):  # of many layers, each number would be looked up
            # attn.attn_out is a layer of attn, and so is attn.attn_in.0
            is_layer = at > 1 and path[-1] in LEAVES and (at == len(path) - 1 or path[at:-1] in _ONE_LAYER)
            return at - 1 if is_layer and speaks_of_attention(path[at - 2]) else at
    return 0


def _in_two_steps(shapes: _Shapes) -> str:
    """Whether the names are those of latent attention; "" if not."""
    steps = [".".join(end) for end in shapes if not STEPS.isdisjoint(tokens(end[0]))]
    return f"{IN_TWO_STEPS}: {', '.join(steps)}" if len(steps) > 1 else ""


def _looks_like(shapes: _Shapes) -> str:
    """Why the matrices of a module may be projections; "" where they do not look so."""
    flat = {end: (shape[0], shape[1]) for end, shape in shapes.items() if prod(shape[2:]) == 1}
    sizes = list(flat.values())
    squares = [rows for rows, cols in sizes if rows == cols]
    for end, (rows, cols) in flat.items():
        if cols in squares and rows == 3 * cols:
            return f"{'.'.join(end)} has three times as many rows as columns and stands beside a square matrix"
        if rows in squares and cols == 3 * rows:
            return f"{'.'.join(end)} has three times as many columns as rows and stands beside a square matrix"
    most = max(map(squares.count, squares), default=0)
    if most >= 3:
        return f"{most} square matrices of one size, and no names that say which is Q, K and V"
    for rows, cols in dict.fromkeys(sizes):
        if sizes.count((rows, cols)) == 3 and (cols, rows) in sizes:
            return f"three matrices [{rows}, {cols}] and one that leads back, and no names that say which is Q, K and V"
    if len(sizes) == len(shapes) > 1 and all(rows == 3 * cols for rows, cols in sizes):
        return f"each of {len(sizes)} matrices has three times as many rows as columns"
    if len({*sizes}) == 1 < len(shapes) == len(sizes) and len(sizes) * sizes[0][0] == 3 * sizes[0][1]:
        return f"{len(sizes)} matrices that together have three times as many rows as columns, as a list of heads has"
    if len(sizes) == len(shapes) == 2 and (told := _leads_back(*shapes)):
        (rows, cols), (_, back) = (flat[end] for end in told)
        if rows % back == 0 and rows > back and flat[told[1]][0] == cols:
            return f"{'.'.join(told[0])} makes {rows // back} times what {'.'.join(told[1])} leads back"
    if len(shapes) == 4 and len({_NUMBER.sub("", ".".join(end)) for end in shapes}) == 1:
        return "four layers whose names differ in a number, as Q, K, V and the output projection in Haiku"
    if more := holding_mlp({".".join(end): shape for end, shape in shapes.items()}):
        return f"{more} may make Q, K, V and the hidden layer of an MLP"
    deep = {end: shape for end, shape in shapes.items() if end not in flat and not is_output(end[0])}
    if deep:
        said = ", ".join(f"{'.'.join(end)} {list(shape)}" for end, shape in deep.items())
        return f"parameters of more than two axes, and nothing says what they count: {said}"
    ((end, shape), *others) = shapes.items()
    if not others and shape[0] == 3 * shape[1]:
        return f"{'.'.join(end)} has three times as many rows as columns"
    return ""


_NUMBER = late_pattern(r"_?\d+")


def _leads_back(*ends: Path) -> tuple[Path, Path] | None:
    """Which of two layers leads in, and which is the output by its name; None where neither or both are."""
    first, second = ends
    if is_back(first) == is_back(second):
        return None
    return (second, first) if is_back(first) else (first, second)


def is_back(end: Path) -> bool:
    """Whether a layer's name says that it leads back out."""
    return is_output(end[0]) or "project" in tokens(end[0])


def _query_alone(shapes: _Shapes) -> str:
    """Why a query projection and the way back out of it are attention, whose K and V lie elsewhere; "" if not."""
    queries = [end for end in shapes if (word := word_of(end[0])) is not None and word.parts == "q"]
    outputs = [tuple(shape[:2]) for end, shape in shapes.items() if is_output(end[0])]
    double = [end for end, shape in shapes.items() if queries and shape[0] == 2 * shapes[queries[0]][0] == 2 * shape[1]]
    if len(queries) == len(double) == 1:
        said = ".".join(queries[0])
        return f"q alone: {said} beside {'.'.join(double[0])} of twice as many rows, which may be K and V"
    if len(queries) == 1 and tuple(shapes[queries[0]][:2][::-1]) in outputs:
        said = ".".join(queries[0])
        return f"q alone: {said} beside an output, so that K and V may be those of another layer"
    return ""
