"""What a layout's row asks of the sizes of its tensors, beyond their names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.names import Names, Path
from qkvinspect.layouts import Layout
from qkvinspect.weights.weight import Weight


def sizes_fit(layout: Layout, names: Names, layer: Path, weights: Sequence[Weight]) -> bool:
    """Whether the sizes are those that the row asks for."""
    if not _has_ratio(layout, weights[0]) or _is_less_than_v(layout, names, layer, weights[0]):
        return False
    if layout.out_ratio is not None and not _has_out_ratio(layout, names, layer, weights[0]):
        return False
    if layout.fed_by is not None and not _is_fed_by(*layout.fed_by, names, layer, weights[-1]):
        return False
    return not _is_one_for_two(layout, weights) and not _lost_its_v(layout, names, layer, weights)


def _lost_its_v(layout: Layout, names: Names, layer: Path, weights: Sequence[Weight]) -> bool:
    """Whether K would be V as well, and another layer of the stack has a V of its own that is as large.

    Gemma 4's local layers have both, and narrower ones than its global layers.
    """
    k = [i for i, stored in enumerate(layout.weights) if stored.packing.order == ("kv",) and len(layout.weights) > 1]
    if not k or layout.found_by != "layout" or not layout.unless:
        return False
    beside = names.find_in_stack(layout.unless[0], layer)
    return beside is not None and beside.shape == weights[k[0]].shape


def _is_less_than_v(layout: Layout, names: Names, layer: Path, weight: Weight) -> bool:
    """Whether a tensor that would hold Q, K and V has no more rows than the output projection reads of V alone.

    CRATE's ``qkv`` is one projection, used as all three.
    """
    if len(layout.weights) != 1 or len(weight.shape) != 2 or not {"q", "k", "v"} <= {*layout.weights[0].packing.order}:
        return False
    out = names.find("to_out.0.weight", layer)
    return out is not None and len(out.shape) == 2 and out.shape == weight.shape and out.shape[0] == out.shape[1]


def _is_one_for_two(layout: Layout, weights: Sequence[Weight]) -> bool:
    """Whether a tensor that would hold two parts has no more rows than the third part alone.

    No library whose K has as many heads as Q stores it so: it may be one projection that is used twice.
    """
    if layout.kv_heads != "equal" or layout.may_share_kv or layout.v_free or len(weights) != 2:
        return False
    if layout.found_by != "layout" or sorted(len(stored.packing.order) for stored in layout.weights) != [1, 2]:
        return False
    try:
        (one, _), (other, _) = (one.as_shape(s.orientation) for one, s in zip(weights, layout.weights, strict=True))
    except LayoutError:
        return False
    return one == other


def with_shared_kv(layout: Layout, names: Names, layer: Path, weights: Sequence[Weight]) -> Layout:
    """The layout with any number of kv heads, where its library has that option and only so the rows fit.

    The output projection reads as many rows as Q has; K and V have a fraction of these.
    """
    out = names.find_first(layout.out, layer)
    if not layout.may_share_kv or out is None or len(out.shape) < 2 or any(len(one.shape) < 2 for one in weights):
        return layout
    q = out.shape[1]
    rows = sum(one.shape[0] for one in weights)
    if len(weights) > 1 and q != weights[0].shape[0]:
        return layout
    kv, odd = divmod(rows - q, 2)
    return _with_any_kv(layout) if 0 < kv < q and not odd and q % kv == 0 else layout


@lru_cache
def _with_any_kv(layout: Layout) -> Layout:
    return replace(layout, kv_heads="free")


def _has_out_ratio(layout: Layout, names: Names, layer: Path, weight: Weight) -> bool:
    """Whether the weight has as many rows as the row asks for, for each input of the output projection."""
    out = names.find_first(layout.out, layer)
    if out is None or len(out.shape) < 2 or not weight.shape:
        return False
    return weight.shape[0] == (layout.out_ratio or 1) * out.shape[1]


def _is_fed_by(key: str, times: int, names: Names, layer: Path, weight: Weight) -> bool:
    """Whether the weight takes what that tensor gives, so many times."""
    before = names.find(key, layer)
    if before is None or len(before.shape) != 2 or len(weight.shape) != 2:
        return times == 1
    return weight.shape[1] == times * before.shape[0]


def _has_ratio(layout: Layout, weight: Weight) -> bool:
    """Whether the first weight's rows are to its columns as the row says."""
    if layout.ratio is None and layout.q_rows is None:
        return True
    try:
        rows, cols = weight.as_shape(layout.weights[0].orientation)
    except LayoutError:
        return False
    return rows == (layout.ratio * cols if layout.ratio is not None else (layout.q_rows or 0) + 2 * cols)
