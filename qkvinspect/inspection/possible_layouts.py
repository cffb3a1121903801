"""The layouts that projections found by their names may have: every packing that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.names import Names, Path, shape_of
from qkvinspect.inspection.one_for_all_heads import heads_that_share, shared_by
from qkvinspect.inspection.outputs import has_an_output_each, output_of
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.inspection.three_axes import bias_keys
from qkvinspect.inspection.words import is_no_projection, word_of
from qkvinspect.layouts.layout import PATTERN, Layout, StoredWeight
from qkvinspect.layouts.packing import Groups, Packing
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.weight import Weight


def layouts_of(
    module: ProjectingModule, projections: Sequence[Projection], turns: Sequence[Orientation]
) -> tuple[Layout, ...]:
    """Every layout that the projections may have; one where names and shapes leave nothing open.

    Args:
        turns: how the tensors may lie.
    """
    is_head = projections[0].is_head and not has_an_output_each(module, projections)
    shared = heads_that_share([part.weight.shape for part in projections], [info.shape for _, info in module.outputs])
    one = 1 if is_head or _is_one_head(module) else None
    lists = any(heads_of(one.weight) for one in projections)
    keys = tuple(".".join(one.key) for one in projections)
    forms = [
        _Form(tuple(_parts(one, projections, turn) for one in projections), turn, _are_equal(module, projections, turn))
        for turn in turns
    ]
    open = len(turns) > 1  # several packings never agree, but one orientation may have an output projection alone
    found = (
        layout
        for form in forms
        for layout in _layouts(keys, *_with_output(module, projections, form), one, lists, open)
    )
    return tuple([shared_by(layout, shared) if shared else layout for layout in found])


def layout_of_three_axes(projections: Sequence[Projection], heads: int, out: str) -> Layout:
    """The layout of parameters of three axes, seen as matrices, with an axis for this number of heads.

    Args:
        out: the key of an output projection [heads, head_dim, out]; "" for none.
    """
    keys = tuple(".".join(one.key) for one in projections)
    parts = tuple(_parts(one, projections, "out_in") for one in projections)
    form = _Form(parts, "out_in", _heads_are_equal(projections, "out_in"), "in_out")
    return _layouts(keys, form, (out,) if out else (), heads, False, False)[0]


class _Form(NamedTuple):
    """How the tensors lie, and what follows from it.

    Attributes:
        parts: of each tensor; ``=qk`` where one projection may be used as both.
        equal: whether there are as many kv heads as heads.
    """

    parts: tuple[str, ...]
    turn: Orientation
    equal: bool
    out_turn: Orientation | None = None


def _parts(one: Projection, projections: Sequence[Projection], turn: Orientation) -> str:
    """Its parts, ``=qk`` and ``=kv`` where one projection may be used as both: it has the rows of the third part."""
    third = {"qk": "v", "kv": "q"}.get("".join(part for part in "qkv" if part in one.parts))
    other = next((other for other in projections if other.parts == third), None)
    if other is not None and rows_of(other, turn) == rows_of(one, turn):
        return f"={one.parts}"
    return one.parts


def rows_of(one: Projection, turn: Orientation) -> int:
    """How many rows a projection has, seen as [out, in]."""
    return shape_of(one.weight, turn)[0]


def _heads_are_equal(projections: Sequence[Projection], turn: Orientation) -> bool:
    """Whether Q has as many rows as K, so that there are as many kv heads as heads."""
    if len(projections) == 1 and len(projections[0].parts) == 3:
        rows, cols = shape_of(projections[0].weight, turn)
        return rows == 3 * cols
    rows = {part: rows_of(one, turn) // len(one.parts) for one in projections for part in one.parts}
    return len(projections) < 3 and "q" in rows and rows["q"] == rows.get("k")


def _are_equal(module: ProjectingModule, projections: Sequence[Projection], turn: Orientation) -> bool:
    """The same, where an output projection may be what says how wide Q is: it reads a third of one tensor's rows."""
    if len(projections) > 1 or len(projections[0].parts) != 3 or not module.outputs:
        return _heads_are_equal(projections, turn)
    widths = {width_of(key, info, turn) for key, info in module.outputs if len(info.shape) > 1}
    return _heads_are_equal(projections, turn) or {3 * width for width in widths} == {rows_of(projections[0], turn)}


def _is_one_head(module: ProjectingModule) -> bool:
    """Whether it is one of a list that is called heads, ``sa.heads.3``, and no task's head with layers of its own."""
    if len(module.path) < 2 or not module.path[-1].isdecimal() or not module.path[-2].lower().endswith("heads"):
        return False
    own = (part for part in module.beside if word_of(part) is None and not is_no_projection(part))
    return (
        not module.outputs and _BUFFERS.issuperset(own) and all(map(_is_narrow, (*chain(*module.sets), *module.lone)))
    )


_BUFFERS = frozenset({"tril", "mask", "causal_mask", "dropout"})
"""What else a head holds in lectures."""


def _is_narrow(one: Projection) -> bool:
    """Whether it makes fewer numbers than it reads, as a head of several does."""
    return one.weight.shape[0] < columns_of(one.weight) or one.key[-1] == "kernel"


def turns_of(names: Names, module: ProjectingModule, projections: Sequence[Projection]) -> tuple[Orientation, ...]:
    """How the tensors may lie, as their names and biases say."""
    one = projections[0]
    if (known := _turn(one.key[-1], one.weight)) is not None:
        return (known,)
    for key in bias_keys(one.key[-1]):
        bias = names.find_path((*module.path, *one.key[:-1], key))
        if bias is not None and bias.shape != one.weight.shape and len(set(one.weight.shape)) == 2:
            return ("out_in",) if bias.numel == one.weight.shape[0] else ("in_out",)
    if one.key[-1].endswith("weight"):
        return ("out_in",)
    return ("out_in", "in_out")


def _turn(leaf: str, weight: Weight) -> Orientation | None:
    """How a tensor of this name lies; None where it may lie either way.

    A layer's ``weight`` is [out, in], a ``kernel`` of TensorFlow, Keras and Flax and a ``w`` of Haiku (whose names
    have slashes) are [in, out]; a bare parameter may be either.
    """
    if leaf == "weight" or len(weight.shape) != 2:
        return "out_in"
    return "in_out" if leaf == "kernel" or (leaf == "w" and "/" in weight.name) else None


def width_of(key: Path, info: Weight, turn: Orientation) -> int:
    """How many numbers an output projection reads; a bare parameter lies as those that it stands beside.

    Raises:
        LayoutError: it has no form of a matrix.
    """
    return shape_of(info, _turn(key[-1], info) or turn)[1]


def _with_output(
    module: ProjectingModule, projections: Sequence[Projection], form: _Form
) -> tuple[_Form, tuple[str, ...]]:
    """The key of the output projection: it reads as many columns as V, or all its heads, have rows."""
    turn = form.turn
    rows = {part: rows_of(one, turn) for one in projections for part in one.parts}
    wanted = {rows.get("q"), rows.get("v")}
    if len(projections) == 1 and len(projections[0].parts) == 3:
        whole, cols = shape_of(projections[0].weight, turn)
        wanted = {whole // 3, cols}
        for width in {width_of(key, info, turn) for key, info in module.outputs if len(info.shape) > 1}:
            rest, odd = divmod(whole - width, 2)
            if not odd and rest > 0 and (width < rest or width % rest == 0):
                wanted.add(width)  # of a V that is narrower or wider than Q and K, or of a Q of shared kv heads

    def reads_them(key: Path, info: Weight) -> bool:
        return len(info.shape) > 1 and width_of(key, info, turn) in wanted

    found = output_of(module, projections, reads_them)
    if found is None:
        return form, ()
    key, info = found
    return form._replace(out_turn=_turn(key[-1], info)), (".".join(key),)


def known_widths(module: ProjectingModule) -> set[int]:
    """How many numbers those output projections read whose names say how they lie."""
    return {width_of(key, info, "out_in") for key, info in module.outputs if _turn(key[-1], info) is not None}


def columns_of(info: Weight) -> int:
    """How many numbers a row has."""
    return info.numel // info.shape[0]


@lru_cache(1 << 10)
def _layouts(
    keys: tuple[str, ...], form: _Form, out: tuple[str, ...], heads: int | None, lists: bool, open: bool
) -> tuple[Layout, ...]:
    """The same objects for all layers of a stack."""
    turn, equal = form.turn, form.equal
    return tuple(
        Layout(
            id="-".join([PATTERN, *([how] if how else []), *(["turned"] if turn == "in_out" else [])]),
            libraries=f"not known; found by its names: {', '.join(keys)}",
            weights=tuple(StoredWeight(key, packing, turn) for key, packing in zip(keys, packings, strict=True)),
            biases=tuple(StoredWeight(_bias(key), packing) for key, packing in zip(keys, packings, strict=True)),
            out=out,
            out_orientation=form.out_turn or turn,
            kv_heads="equal" if equal or how in (_SHARED, _WIDE) else "free",
            head_tensors=(),
            v_free=True,
            num_heads=heads,
            needs_config=open,
            found_by="pattern",
            source="the names and shapes of the tensors themselves",
            proof="pattern",
        )
        for how, packings in _packings(form.parts, equal=equal, lists=lists, out=bool(out))
    )


def _bias(key: str) -> str:
    """The key of the bias beside a weight."""
    head, dot, last = key.rpartition(".")
    return f"{head}{dot}{bias_keys(last)[0]}"


_SHARED = "shared"
_WIDE = "wide-v"


def _packings(
    parts: tuple[str, ...], *, equal: bool, lists: bool = False, out: bool = False
) -> Iterator[tuple[str, tuple[Packing, ...]]]:
    """(name, a packing for each tensor); "" where there is no choice. A list of heads is never one of blocks."""
    if all(len(some) == 1 for some in parts):
        yield "", tuple(Packing((some,)) for some in parts)
        return
    if any(some.startswith("=") for some in parts):
        yield _SHARED, tuple(Packing(("".join(part for part in "qkv" if part in some),)) for some in parts)
        parts = tuple(some.lstrip("=") for some in parts)
    per_head = ("per-head", "heads") if equal else ("per-kv-head", "kv_heads")
    if not lists:
        yield "blocks", tuple(Packing(tuple(some)) for some in parts)
    yield per_head[0], tuple(_grouped(some, per_head[1]) for some in parts)
    if out and not equal and not lists and len(parts[0]) == 3:  # as wide as the output reads may be Q, or V
        yield _WIDE, (Packing(tuple(parts[0])),)
    if equal:
        yield "row-by-row", tuple(_grouped(some, "heads", innermost=True) for some in parts)
    if equal and not lists:
        yield "heads-in-turn", tuple(replace(_grouped(some, "heads"), groups=_in_turn(some)) for some in parts)


def _in_turn(some: str) -> Groups:
    """How often a tensor's parts come: once for every row of a head, [head_dim, slots, heads]."""
    return "rows" if len(some) > 1 else "one"


def _grouped(some: str, groups: str, *, innermost: bool = False) -> Packing:
    order = tuple(some)
    if len(order) == 1:
        return Packing(order)
    return Packing(order, groups="heads" if groups == "heads" else "kv_heads", slot_innermost=innermost)
