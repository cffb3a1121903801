"""The layouts that projections found by their names may have: every packing that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from qkvinspect.checkpoint import Orientation
from qkvinspect.inspection.names import Names, shape_of
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.inspection.three_axes import bias_keys
from qkvinspect.layouts.layout import PATTERN, Layout, StoredWeight
from qkvinspect.layouts.packing import Packing
from qkvinspect.weights.head_list import heads_of
from qkvinspect.weights.weight import Weight


def layouts_of(
    names: Names, module: ProjectingModule, projections: Sequence[Projection], heads: int | None = None
) -> tuple[Layout, ...]:
    """Every layout that the projections may have; one where the names leave nothing open.

    Args:
        heads: their number, where the tensors have an axis for them and are seen as matrices.
    """
    keys = tuple(".".join(one.key) for one in projections)
    parts = tuple(_parts(one, projections) for one in projections)
    equal = _heads_are_equal(projections)
    if heads is not None:
        outs = tuple(".".join(key) for key, info in module.outputs if len(info.shape) == 3)
        return _layouts(keys, parts, ("out_in",), outs[:1], "in_out", equal, heads)
    out = _output(module, projections)
    one = 1 if projections[0].is_head or _is_one_head(module) else None
    lists = any(heads_of(one.weight) for one in projections)
    return _layouts(keys, parts, _turns(names, module, projections), out, None, equal, one, lists)


def _parts(one: Projection, projections: Sequence[Projection]) -> str:
    """Its parts, ``=qk`` where one projection is used as both."""
    if set(one.parts) == {"q", "k"}:
        v = next((other for other in projections if other.parts == "v"), None)
        if v is not None and v.weight.shape[0] == one.weight.shape[0]:
            return "=qk"
    return one.parts


def _heads_are_equal(projections: Sequence[Projection]) -> bool:
    """Whether Q has as many rows as K, so that there are as many kv heads as heads."""
    if len(projections) == 1 and len(projections[0].parts) == 3:
        rows, cols = shape_of(projections[0].weight, "out_in")
        return rows == 3 * cols
    rows = {part: one.weight.shape[0] // len(one.parts) for one in projections for part in one.parts}
    return len(projections) < 3 and "q" in rows and rows["q"] == rows.get("k")


def _is_one_head(module: ProjectingModule) -> bool:
    """Whether it is one of a list that is called heads: ``sa.heads.3``."""
    return len(module.path) > 1 and module.path[-1].isdecimal() and module.path[-2].lower().endswith("heads")


def _turns(names: Names, module: ProjectingModule, projections: Sequence[Projection]) -> tuple[Orientation, ...]:
    """How the tensors may lie. A layer's ``weight`` is [out, in], a ``kernel`` of TensorFlow, Keras and Flax and a
    ``w`` of Haiku (whose names have slashes) are [in, out]; a bare parameter may be either.
    """
    one = projections[0]
    if one.key[-1] == "weight" or len(one.weight.shape) != 2:
        return ("out_in",)
    if one.key[-1] == "kernel" or (one.key[-1] == "w" and "/" in one.weight.name):
        return ("in_out",)
    bias = names.find_path((*module.path, *one.key[:-1], one.key[-1].replace("weight", "bias")))
    if bias is not None and bias.shape != one.weight.shape and len(set(one.weight.shape)) == 2:
        return ("out_in",) if bias.numel == one.weight.shape[0] else ("in_out",)
    if one.key[-1].endswith("weight"):
        return ("out_in",)
    return ("out_in", "in_out")


def _output(module: ProjectingModule, projections: Sequence[Projection]) -> tuple[str, ...]:
    """The key of the output projection: it reads as many columns as V, or all its heads, have rows."""
    rows = {part: one.weight.shape[0] for one in projections for part in one.parts}
    wanted = {rows.get("q"), rows.get("v")}
    if len(projections) == 1 and len(projections[0].parts) == 3:
        rows_of, cols = shape_of(projections[0].weight, "out_in")
        wanted = {rows_of // 3, cols}
    for key, info in module.outputs:
        if columns_of(info) in wanted:
            return (".".join(key),)
    return ()


def columns_of(info: Weight) -> int:
    """How many numbers a row has."""
    return info.numel // info.shape[0]


@lru_cache(1 << 10)
def _layouts(
    keys: tuple[str, ...],
    parts: tuple[str, ...],
    turns: tuple[Orientation, ...],
    out: tuple[str, ...],
    out_turn: Orientation | None,
    equal: bool,
    heads: int | None,
    lists: bool = False,
) -> tuple[Layout, ...]:
    """The same objects for all layers of a stack."""
    choices = [choice for choice in _packings(parts, equal=equal) if not (lists and choice[0] == "blocks")]
    open = len(choices) * len(turns) > 1
    return tuple(
        Layout(
            id="-".join([PATTERN, *([how] if how else []), *(["turned"] if turn == "in_out" else [])]),
            libraries=f"not known; found by its names: {', '.join(keys)}",
            weights=tuple(StoredWeight(key, packing, turn) for key, packing in zip(keys, packings, strict=True)),
            biases=tuple(StoredWeight(_bias(key), packing) for key, packing in zip(keys, packings, strict=True)),
            out=out,
            out_orientation=out_turn or turn,
            kv_heads="equal" if equal else "free",
            head_tensors=(),
            v_free=True,
            num_heads=heads,
            needs_config=open,
            found_by="pattern",
            source="the names and shapes of the tensors themselves",
            proof="pattern",
        )
        for how, packings in choices
        for turn in turns
    )


def _bias(key: str) -> str:
    """The key of the bias beside a weight."""
    head, dot, last = key.rpartition(".")
    return f"{head}{dot}{bias_keys(last)[0]}"


def _packings(parts: tuple[str, ...], *, equal: bool) -> Iterator[tuple[str, tuple[Packing, ...]]]:
    """(name, a packing for each tensor); "" where there is no choice."""
    if all(len(some) == 1 or some.startswith("=") for some in parts):
        yield "", tuple(Packing((some.lstrip("="),)) for some in parts)
        return
    per_head = ("per-head", "heads") if equal else ("per-kv-head", "kv_heads")
    yield "blocks", tuple(Packing(_order(some)) for some in parts)
    yield per_head[0], tuple(_grouped(some, per_head[1]) for some in parts)
    if equal:
        yield "row-by-row", tuple(_grouped(some, "heads", innermost=True) for some in parts)


def _order(some: str) -> tuple[str, ...]:
    return (some[1:],) if some.startswith("=") else tuple(some)


def _grouped(some: str, groups: str, *, innermost: bool = False) -> Packing:
    order = _order(some)
    if len(order) == 1:
        return Packing(order)
    return Packing(order, groups="heads" if groups == "heads" else "kv_heads", slot_innermost=innermost)
