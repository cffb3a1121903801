"""Compute the sizes of a module from the shapes of its tensors and one fact about its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.facts.fact import MAX_HEADS, HeadFact, SaidBy
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import HEADED, QUERY_SIDE, V_SIDE, Geometry, Rows, split_rows


def rows_of(layout: Layout, geometry: Geometry, totals: Sequence[int]) -> list[Rows]:
    """For each stored weight, the rows of every head of every part.

    Raises:
        LayoutError: the geometry does not fill them.
    """
    return [split_rows(stored.packing, geometry, total) for stored, total in zip(layout.weights, totals, strict=True)]


def part_rows_of(layout: Layout, shapes: Sequence[tuple[int, int]], out_features: int | None) -> dict[str, int]:
    """How many rows Q, K and V have, where the shapes alone tell."""
    found: dict[str, int] = {}
    for stored, (total, cols) in zip(layout.weights, shapes, strict=True):
        parts = [part for part in stored.packing.order if part in ("q", "k", "v")]
        if len(stored.packing.order) == 1:
            found |= dict.fromkeys(stored.packing.parts, total)
        elif layout.q_rows is not None:
            found |= {"q": layout.q_rows, "k": cols, "v": cols}
        elif stored.packing.order == ("q", "vgate") and out_features and total > out_features:
            found["q"] = total - out_features
        elif stored.packing.groups != "one":
            continue
        elif stored.packing.order == ("v", "vgate"):
            found["v"] = _divide(total, 2, "rows", "of V and its gate")
        elif layout.square:
            found |= dict.fromkeys(parts, cols)
        elif not HEADED.issuperset(stored.packing.order):
            continue
        elif {*stored.packing.order} == {"q", "k"} and layout.kv_heads == "equal":
            found |= dict.fromkeys(parts, _divide(total, 2, "rows", "parts"))
        elif not layout.v_free and (layout.kv_heads == "equal" or "q" not in parts):
            share = _divide(total, len(stored.packing.order), "rows", "parts")
            if "v" in parts and layout.kv_heads == "equal" and out_features not in (None, share):
                raise LayoutError(f"V would have {share} rows where the output projection takes {out_features}")
            found |= dict.fromkeys(parts, share)
        elif layout.v_free and layout.kv_heads == "equal" and len(parts) == 3 and not layout.out:
            found |= _beside_v(total, cols)
        elif layout.v_free and layout.kv_heads == "equal" and len(stored.packing.order) == 3 == len(parts):
            if out_features and not layout.subheads:
                found |= _beside_v(total, out_features)
        elif (
            layout.kv_heads == "free"
            and len(stored.packing.order) == 3
            and out_features
            and (total == 3 * out_features or not _says_no_more(layout))
            and total > out_features
            and (total - out_features) % 2 == 0
        ):
            rest = (total - out_features) // 2
            found |= {"q": out_features, "k": rest, "v": rest}
    q = found.get("q")
    for stored, (total, _) in zip(layout.weights, shapes, strict=True):
        if set(stored.packing.order) == {"k", "v"} and stored.packing.groups in ("kv_heads", "rows") and not total % 2:
            found |= dict.fromkeys("kv", total // 2) if q and (not layout.v_free or out_features == q) else {}
    if layout.v_free and out_features and "q" in found:
        found |= dict(_of_k_and_v(layout, shapes, found["q"], out_features))
    return found if all(found.values()) else {}


def _says_no_more(layout: Layout) -> bool:
    """Whether a user's row says of one tensor that it holds Q, K and V in blocks.

    What the output projection reads may be a wide V, or the heads that share a narrow one: the numbers of heads tell.
    """
    return layout.found_by == "settings" and [one.packing.groups for one in layout.weights] == ["one"]


def _beside_v(rows: int, v: int) -> dict[str, int]:
    """Q, K and V of one tensor where V is as wide as the output projection reads.

    Where there is none, V is given to the next layer as it is, and replaces what it was made of.
    """
    rest, odd = divmod(rows - v, 2)
    return {} if odd or rest < 1 else {"q": rest, "k": rest, "v": v}


def _of_k_and_v(
    layout: Layout, shapes: Sequence[tuple[int, int]], q: int, out_features: int
) -> Iterator[tuple[str, int]]:
    """K and V in blocks of one tensor: K is to V as Q is to what the output projection reads, however many heads."""
    for stored, (total, _) in zip(layout.weights, shapes, strict=True):
        if set(stored.packing.order) == {"k", "v"} and stored.packing.groups == "one":
            k, odd = divmod(total * q, q + out_features)
            if not odd and 0 < k < total:
                yield from (("k", k), ("v", total - k))


def shared_unlike(layout: Layout, part_rows: Mapping[str, int], out_features: int | None) -> str:
    """Why no number of heads fits, where K and V have different numbers of heads; else "".

    Where the output projection reads as many columns as Q has rows, heads of V are as wide as those of Q and K, so that
    there are as many of V as of K only where both have as many rows.
    """
    q, k, v = (part_rows.get(part, 0) for part in ("q", "k", "v"))
    apart = all(len(stored.packing.order) == 1 for stored in layout.weights)
    if not apart or out_features != q or 0 in (q, k, v) or k == v or q % k or q % v:
        return ""
    return (
        f"K has {k} rows and V {v}, so that a head of K would serve {q // k} of Q, and one of V {q // v}: "
        "no number of heads fits both"
    )


def geometry_of(
    layout: Layout,
    totals: Sequence[int],
    part_rows: Mapping[str, int],
    out_features: int | None,
    fact: HeadFact,
) -> Geometry:
    """The sizes that a fact leads to.

    Raises:
        LayoutError: the shapes contradict it, or it leaves too much open.
    """
    if fact.num_heads is None and fact.head_dim and "q" in part_rows:
        heads = _divide(part_rows["q"], fact.head_dim, "rows of Q", "head_dim")
    elif fact.num_heads is None and fact.head_dim and layout.kv_heads == "equal":
        parts = sum(_slots(layout, part) for stored in layout.weights for part in stored.packing.order)
        heads = _divide(sum(totals), parts * fact.head_dim, "rows", f"{parts} parts of head_dim {fact.head_dim}")
    elif fact.num_heads is not None:
        heads = fact.num_heads
    else:
        raise LayoutError("it does not give the number of heads")
    widths: dict[str, int] = {}
    one_for_all = len(totals) == 1 and layout.v_free and layout.kv_heads == "free"
    if "q" in part_rows and not (one_for_all and fact.num_kv_heads):
        if unlike := shared_unlike(layout, part_rows, out_features):
            raise LayoutError(unlike)
        width = _divide(part_rows["q"], heads, "rows of Q", "heads")
        kv_heads = _divide(part_rows["k"], width, "rows of K", "head_dim") if "k" in part_rows else fact.num_kv_heads
        kv_heads = heads if layout.kv_heads == "equal" else kv_heads or heads
        if layout.q_rows is not None:
            widths["k"] = _divide(part_rows["k"], kv_heads, "rows of K", "heads")
        v_width = width
        if "v" in part_rows:
            v_width = _divide(part_rows["v"], kv_heads, "rows of V", "kv heads")
        for stored, total in zip(layout.weights, totals, strict=True):
            if stored.packing.order == ("k", "v") and (stored.packing.groups == "heads" or layout.v_free):
                both = _divide(total, kv_heads, "rows of K and V", "kv heads")
                v_width = both - width
                if out_features is not None:
                    v_width = _divide(out_features, heads, "columns of the output projection", "heads")
                if both != v_width + width:
                    widths["k"] = both - v_width
    else:
        kv_heads, width, v_width = _packed_sizes(layout, totals, out_features, heads, fact)
    if fact.said_by in (SaidBy.FLAG, SaidBy.ROW) and fact.num_kv_heads not in (None, kv_heads):
        raise LayoutError(f"the shapes say {kv_heads} kv heads, not {fact.num_kv_heads}")
    if heads % kv_heads or heads > MAX_HEADS:
        raise LayoutError(f"{heads} heads cannot share {kv_heads} kv heads")
    subheads = dict(layout.subheads)
    if min(widths.values(), default=1) < 1 or (widths and not layout.v_free):
        raise LayoutError(f"heads of Q have {width} rows, those of K {widths['k']} and those of V {v_width}")
    v_head_dim = v_width if v_width != width else None
    geometry = Geometry(heads, kv_heads, width, v_head_dim, widths, subheads, layout.subheads_apart)
    rows_of(layout, geometry, totals)
    return geometry


def _slots(layout: Layout, part: str) -> int:
    """How many times ``head_dim`` a part has of each head, where V is as wide as one sub-head of Q."""
    return dict(layout.subheads).get(part, 1) if layout.v_free else 1


def _packed_sizes(
    layout: Layout, totals: Sequence[int], out_features: int | None, heads: int, fact: HeadFact
) -> tuple[int, int, int]:
    """(kv heads, head_dim, width of V) of tensors whose parts only the number of heads tells apart.

    The output projection, where there is one, has heads * v_head_dim columns.
    """
    total = sum(totals)
    order = [part for stored in layout.weights for part in stored.packing.order]
    parts = [part for part in order if part in HEADED]
    of_heads = sum(part in QUERY_SIDE for part in parts)
    of_kv = len(parts) - of_heads
    v_width = _divide(out_features, heads, "columns of the output projection", "heads") if out_features else None
    kv_heads = {"free": fact.num_kv_heads, "equal": heads, "one": 1}[layout.kv_heads]
    if kv_heads is None and v_width and of_kv and not _says_no_more(layout):
        kv_heads, left = divmod(total - of_heads * heads * v_width, of_kv * v_width)
        kv_heads = kv_heads if not left and kv_heads > 0 and heads % kv_heads == 0 else None
    kv_heads = kv_heads or heads
    if len(parts) < len(order):  # an MLP takes what is left over, so the total tells nothing
        if v_width is None and fact.said_by is SaidBy.ROW:  # the graph of a file, which knows the width too
            v_width = fact.head_dim
        if v_width is None:
            raise LayoutError("the output projection is needed to tell the heads from the MLP")
        return kv_heads, v_width, v_width
    if v_width is None and layout.v_ratio and "v" in parts:
        shares = of_heads * heads + (of_kv - 1 + layout.v_ratio) * kv_heads
        width = _divide(total, shares, "rows", f"heads of {'+'.join(parts)}")
        return kv_heads, width, width * layout.v_ratio
    if v_width is None and fact.head_dim and "v" in parts:
        spare = total - (of_heads * heads + (of_kv - 1) * kv_heads) * fact.head_dim
        return kv_heads, fact.head_dim, _divide(spare, kv_heads, "rows of V", "kv heads")
    if v_width is None or "v" not in parts:
        width = _divide(total, of_heads * heads + of_kv * kv_heads, "rows", f"heads of {'+'.join(parts)}")
        return kv_heads, width, width
    of_v = sum(part in V_SIDE for part in parts)
    others = of_heads * heads + (of_kv - of_v) * kv_heads
    width = _divide(total - of_v * kv_heads * v_width, others, "rows", f"heads of {'+'.join(parts)}")
    if width * (layout.v_ratio or 1) != v_width and not layout.v_free:
        raise LayoutError(f"a head of K would have {width} rows and one of V {v_width}")
    return kv_heads, width, v_width


def _divide(rows: int, count: int, what: str, by: str) -> int:
    if rows % count or rows < count:
        raise LayoutError(f"{rows} {what} cannot be shared out over {count} {by}")
    return rows // count


def possible_heads(part_rows: Mapping[str, int]) -> tuple[int, ...]:
    """Every number of heads with which Q, K and V come out even."""
    q, k, v = (part_rows.get(part, 0) for part in ("q", "k", "v"))
    if not q or q > MAX_HEADS:
        return ()
    return tuple(
        heads
        for heads in range(1, q + 1)
        if q % heads == 0
        and k % (q // heads) == 0
        and (k == 0 or (heads % (k // (q // heads)) == 0 and v % (k // (q // heads)) == 0))
    )
