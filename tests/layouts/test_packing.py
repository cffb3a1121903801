"""The packing formula: every row belongs to exactly one head of one part, whatever the packing."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvinspect.errors import LayoutError
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, QKV, Geometry, Packing, describe, merge, slots_of, split_rows

ORDERS = st.permutations(["q", "k", "v"]).map(tuple)
GEOMETRIES = st.builds(
    lambda kv, share, d, dv: Geometry(kv * share, kv, d, dv),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.none() | st.integers(1, 5),
)


def total(geometry: Geometry) -> int:
    return sum(geometry.heads(part) * geometry.width(part) for part in "qkv")


@given(GEOMETRIES, ORDERS, st.sampled_from(["one", "kv_heads"]))
def test_every_row_belongs_to_one_head_of_one_part(geometry: Geometry, order: tuple[str, ...], groups: str) -> None:
    rows = split_rows(Packing(order, groups), geometry, total(geometry))
    assert {part: len(heads) for part, heads in rows.items()} == {part: geometry.heads(part) for part in "qkv"}
    assert {len(run) for part, heads in rows.items() for run in heads if part == "v"} == {geometry.width("v")}
    assert sorted(chain.from_iterable(chain.from_iterable(rows.values()))) == list(range(total(geometry)))


@given(st.integers(1, 6), st.integers(1, 5))
def test_packings_equal_the_reshapes_that_define_them(heads: int, dim: int) -> None:
    """Against numpy's reshape, as the libraries write it: [3, H, d], [H, 3, d], [H, d, 3] and the other three."""
    index = np.arange(3 * heads * dim)
    geometry = Geometry(heads, heads, dim)
    reference = {
        QKV: index.reshape(3, heads, dim),
        PER_HEAD: index.reshape(heads, 3, dim).transpose(1, 0, 2),
        Packing(("q", "k", "v"), "heads", slot_innermost=True): index.reshape(heads, dim, 3).transpose(2, 0, 1),
        Packing(("q", "k", "v"), "rows"): index.reshape(dim, 3, heads).transpose(1, 2, 0),
        Packing(("q", "k", "v"), "rows", slot_innermost=True): index.reshape(dim, heads, 3).transpose(2, 1, 0),
        Packing(("q", "k", "v"), heads_innermost=True): index.reshape(3, dim, heads).transpose(0, 2, 1),
    }
    for packing, expected in reference.items():
        rows = split_rows(packing, geometry, index.size)
        assert [[list(run) for run in rows[part]] for part in "qkv"] == expected.tolist()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_grouped_equals_its_reshape(kv: int, share: int, dim: int) -> None:
    index = np.arange(kv * (share + 2) * dim).reshape(kv, share + 2, dim)
    rows = split_rows(GROUPED, Geometry(kv * share, kv, dim), index.size)
    assert [list(run) for run in rows["q"]] == index[:, :share].reshape(-1, dim).tolist()
    assert [list(run) for run in rows["k"]] == index[:, share].tolist()
    assert [list(run) for run in rows["v"]] == index[:, share + 1].tolist()


def test_grouped_is_per_head_without_sharing_and_blocked_with_one_kv_head() -> None:
    assert split_rows(GROUPED, Geometry(4, 4, 2), 24) == split_rows(PER_HEAD, Geometry(4, 4, 2), 24)
    assert split_rows(GROUPED, Geometry(4, 1, 2), 12) == split_rows(QKV, Geometry(4, 1, 2), 12)


def test_four_shards_of_q_v_k() -> None:
    """CodeGen: [4, (q, v, k), H/4, d]."""
    index = np.arange(4 * 3 * 2 * 3).reshape(4, 3, 2, 3)
    rows = split_rows(Packing(("q", "v", "k"), 4), Geometry(8, 8, 3), index.size)
    for slot, part in enumerate("qvk"):
        assert [list(run) for run in rows[part]] == index[:, slot].reshape(8, 3).tolist()


def test_rows_that_are_not_attention_take_what_is_left() -> None:
    geometry = Geometry(2, 2, 3)
    assert split_rows(Packing(("q", "k", "v", "mlp")), geometry, 28)["mlp"] == (range(18, 28),)
    assert split_rows(Packing(("mlp", "q", "k", "v")), geometry, 28)["q"] == (range(10, 13), range(13, 16))
    gated = split_rows(Packing(("q", "gate"), "heads"), geometry, 12)
    assert gated == {"q": (range(3), range(6, 9)), "gate": (range(3, 6), range(9, 12))}


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_rows_that_are_not_attention_in_groups(groups: int, each: int, dim: int, other: int) -> None:
    """[groups, H/groups * d of each part and the rows of the MLP], down to a single row of it."""
    sizes = [each * dim, each * dim, each * dim, other]
    index = np.arange(groups * sum(sizes)).reshape(groups, sum(sizes))
    rows = split_rows(Packing(("q", "k", "v", "mlp"), groups), Geometry(groups * each, groups * each, dim), index.size)
    q, k, v, mlp = np.split(index, np.cumsum(sizes)[:-1], axis=1)
    for part, expected in (("q", q), ("k", k), ("v", v)):
        assert [list(run) for run in rows[part]] == expected.reshape(-1, dim).tolist()
    assert [list(run) for run in rows["mlp"]] == mlp.tolist()


def test_how_many_rows_there_should_be_is_said() -> None:
    with pytest.raises(LayoutError, match="expected 72 rows for 8 heads x 3") as refused:
        split_rows(Packing(("q", "v", "k"), 4), Geometry(8, 8, 3), 73)
    assert "73 rows" in str(refused.value)


def test_shared_parts_appear_under_both_names() -> None:
    rows = split_rows(Packing(("kv",)), Geometry(4, 2, 3), 6)
    assert rows["k"] == rows["v"] == (range(3), range(3, 6))
    assert Packing(("kv",)).parts == {"k", "v"}


@pytest.mark.parametrize(
    ("packing", "geometry", "rows"),
    [
        (QKV, Geometry(2, 2, 3), 19),
        (Packing(("q", "v", "k"), 4), Geometry(6, 6, 2), 36),
        (Packing(("q", "k", "v", "mlp")), Geometry(2, 2, 3), 18),
        (Packing(("q", "k"), "heads", slot_innermost=True), Geometry(2, 2, 3, widths={"k": 1}), 8),
    ],
)
def test_what_does_not_fit_is_refused(packing: Packing, geometry: Geometry, rows: int) -> None:
    with pytest.raises(LayoutError):
        split_rows(packing, geometry, rows)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_merge_keeps_every_row_in_order(cuts: list[int]) -> None:
    edges = sorted({0, *cuts, 31})
    runs = [range(a, b) for a, b in pairwise(edges)]
    assert merge(runs) == (range(31),)
    assert list(chain.from_iterable(merge(runs[::-1]))) == list(chain.from_iterable(runs[::-1]))


def test_slots_are_listed_in_order() -> None:
    assert slots_of(GROUPED, Geometry(4, 2, 8), 64) == (2, [("q", 2, 8), ("k", 1, 8), ("v", 1, 8)])


STEPPED = st.lists(st.builds(lambda start, count, step: range(start, start + count * step, step),
                             st.integers(0, 20), st.integers(0, 5), st.integers(1, 3)), max_size=6)  # fmt: skip


@given(STEPPED)
def test_joined_runs_are_the_same_rows_in_the_same_order(runs: list[range]) -> None:
    assert list(chain.from_iterable(merge(runs))) == list(chain.from_iterable(runs))


@given(st.integers(2, 6), st.integers(2, 5))
def test_rows_of_the_slot_innermost_packing_are_never_joined(heads: int, dim: int) -> None:
    """[H, d, 3]: a head's rows end where the next head's begin, and K and V lie between them."""
    packing = Packing(("q", "k", "v"), groups="heads", slot_innermost=True)
    rows = split_rows(packing, Geometry(heads, heads, dim, None), 3 * heads * dim)
    index = np.arange(3 * heads * dim).reshape(heads, dim, 3)
    for slot, part in enumerate("qkv"):
        assert list(chain.from_iterable(merge(rows[part]))) == list(index[:, :, slot].ravel())


def test_heads_share_kv_heads_in_runs() -> None:
    """As transformers' repeat_kv and torch's enable_gqa do: query heads of one kv head are neighbours."""
    grouped = Geometry(12, 4, 8)
    assert [grouped.kv_head(head) for head in range(12)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [Geometry(6, 6, 8).kv_head(head) for head in range(6)] == list(range(6))
    assert {Geometry(6, 1, 8).kv_head(head) for head in range(6)} == {0}
    assert [grouped.partner("q", head) for head in range(12)] == list(range(12))
    assert [grouped.partner("v", head) for head in range(12)] == [grouped.kv_head(head) for head in range(12)]
    twice = Geometry(2, 2, 8, subheads={"q": 2, "k": 2})  # differential attention: each head has two of Q and K
    assert [twice.partner("k", head) for head in range(4)] == [0, 1, 2, 3]
    assert [twice.partner("v", head) for head in range(4)] == [0, 0, 1, 1]
    apart = Geometry(2, 2, 8, subheads={"q": 2, "k": 2}, subheads_apart=True)  # [q1; q2]: the second ones come after
    assert [apart.partner("k", head) for head in range(4)] == [0, 1, 2, 3]
    assert [apart.partner("v", head) for head in range(4)] == [0, 1, 0, 1]


def test_sizes_in_words() -> None:
    assert describe(Geometry(8, 8, 64)) == "8 heads x 64"
    assert describe(Geometry(8, 2, 64)) == "8 heads over 2 kv heads x 64"
    assert describe(Geometry(8, 1, 64)) == "8 heads over 1 kv head x 64"
    assert describe(Geometry(1, 1, 64)) == "1 head x 64"


def test_a_width_of_v_is_that_of_v_and_of_nothing_else() -> None:
    geometry = Geometry(4, 2, 8, 6)
    assert [geometry.width(part) for part in ("q", "k", "v")] == [8, 8, 6]
