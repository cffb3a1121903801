"""Mappings that serve as keys: equal and hashed by their items, cut off from what they were made of."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from qkvinspect.layouts import LAYOUTS
from qkvinspect.layouts.frozen_mapping import frozen
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import QKV, Geometry
from tests.some import tried

ITEMS = st.dictionaries(st.text("ab", max_size=2), st.integers(0, 3), max_size=4)


@tried(given(one=ITEMS, other=ITEMS), 30, 300, suppress_health_check=[HealthCheck.too_slow])
def test_equal_as_the_dictionaries_are(one: dict[str, int], other: dict[str, int]) -> None:
    a, b = frozen(one), frozen(other)
    assert (a == b) == (one == other)
    assert a == one
    assert one == a
    assert hash(a) == hash(frozen(dict(reversed(one.items()))))
    assert {key: a[key] for key in a} == one
    assert repr(a) == repr(one)


def test_cut_off_from_what_it_was_made_of() -> None:
    items = {"q": 2}
    geometry = Geometry(2, 2, 4, subheads=items)
    items["q"] = 4
    assert geometry.heads("q") == 4
    assert geometry == Geometry(2, 2, 4, subheads={"q": 2})
    assert frozen(geometry.subheads) is geometry.subheads
    with pytest.raises(TypeError):
        geometry.subheads["q"] = 1


def test_layouts_and_geometries_are_keys() -> None:
    def layout(value: object) -> Layout:
        return Layout("x", "x", (StoredWeight("qkv.weight", QKV),), "x", "source", flags={"new": (value,), "old": (1,)})

    assert {layout(True): "found"}[layout(True)] == "found"
    assert layout(True) != layout(False)
    assert len(set(LAYOUTS)) == len(LAYOUTS)
    sizes = {Geometry(4, 2, 8, widths={"k": 4, "v": 6}): "found"}
    assert sizes[Geometry(4, 2, 8, widths={"v": 6, "k": 4})] == "found"
    assert Geometry(4, 2, 8, widths={"k": 5, "v": 6}) not in sizes
