"""Split then pack, and convert there and back: the same bytes, for every layout and any geometry."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from qkvinspect.errors import LayoutError
from qkvinspect.export import How, Plan, Target, convert_whole, pack_whole, split_whole, write
from qkvinspect.export.naming import tensor_in
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.layouts import LAYOUTS, Layout, by_id
from qkvinspect.layouts.packing import HEADED, Geometry, Packing
from tests.some import every_value, tried

ODD = {"timm-efficientformer": (1, 4), "stable-audio3": (2, 1), "ultralytics-psa": (1, 2)}
"""Layouts that want a head of V in a fixed proportion to one of K: (K, V)."""


def form(layout: Layout) -> tuple[Hashable, ...]:
    """What a layout is but for the names of its tensors."""
    weights = tuple((one.packing, one.orientation) for one in layout.weights)
    biases = tuple(one.packing for one in layout.biases)
    sizes = layout.ndim, layout.kv_heads, tuple(layout.subheads), layout.v_ratio
    out = bool(layout.out), layout.out_orientation
    return weights, biases, *out, len(layout.siblings), len(layout.settled_by), *sizes


def every_layout() -> Iterator[Any]:
    for layout in LAYOUTS:
        held = {part for stored in layout.weights for part in stored.packing.parts}
        if layout.q_rows is not None or held == {"q", "k"}:  # one row has no heads; without V nothing is packed again
            continue
        if layout.rewritten_by and (layout.paired or layout.by_fours):  # made of nothing else: test_undo_permute.py
            continue
        if layout.subheads_apart and "v" in dict(layout.subheads):  # the file's own sizes tell: diff/test_llama_cpp.py
            continue
        yield pytest.param(layout, id=layout.id)


EVERY = every_value(every_layout(), form)
"""All that a layout may be in every run; what is put together of that otherwise, or has other names, in a mass run."""


MLP = 6
SAFE = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@st.composite
def geometries(draw: Any, layout: Layout) -> Geometry:
    """The first, which is all that hypothesis tries in every run, has several heads of several numbers."""
    turned = LAYOUTS.index(layout) % 2
    kv_heads = draw(st.sampled_from((3 - turned, 2 + turned, 1)))
    share = draw(st.sampled_from((2 + turned, 3 - turned, 1))) if layout.kv_heads != "equal" else 1
    if layout.kv_heads == "one":
        kv_heads = 1
    heads = kv_heads * share
    groups = next((s.packing.groups for s in layout.weights if isinstance(s.packing.groups, int)), 1)
    dim = 2 * draw(st.sampled_from((4 - turned, 3 + turned, 2, 1)))
    k, v = ODD.get(layout.id, (1, 1))
    return Geometry(
        heads * groups, kv_heads * groups, dim * k, dim * v if k != v else None, subheads=dict(layout.subheads)
    )


def rows(packing: Packing, sizes: Geometry) -> int:
    return sum(sizes.heads(p) * sizes.width(p) if p in HEADED else MLP for p in packing.order)


def state_of(layout: Layout, sizes: Geometry) -> dict[str, torch.Tensor]:
    """A module as the layout stores it, with what must stand beside it."""
    end = ".".join(part.split("|")[0].replace("#", "3") for part in layout.layer.split(".")) if layout.layer else "x"
    layer, width = f"m.0.{end}", sizes.num_heads * sizes.head_dim
    state: dict[str, torch.Tensor] = {}
    for stored in layout.weights:
        count = rows(stored.packing, sizes)
        shape = {
            "out_in": (count, width, *(1,) * ((layout.ndim or 2) - 2)),
            "in_out": (width, count),
            "in_heads_dim": (width, sizes.heads(stored.packing.order[0]), sizes.head_dim),
        }[stored.orientation]
        state[tensor_in(layer, stored.key)] = torch.randn(shape)
    for stored in layout.biases:
        state[tensor_in(layer, stored.key)] = torch.randn(rows(stored.packing, sizes))
    if layout.out:
        shape = (width, sizes.num_heads * sizes.width("v"))
        shape = shape if layout.out_orientation == "out_in" else shape[::-1]
        state[tensor_in(layer, layout.out[0])] = torch.randn(shape)
    for key in (*layout.siblings, *layout.settled_by):
        if not key.startswith("//"):
            state.setdefault(tensor_in(layer, key), torch.randn(sizes.head_dim, sizes.head_dim))
    return state | {"m.0.other.weight": torch.randn(3, 5)}


def rewritten(
    source: Path, target: Path, layout: Layout | None, heads: str | None, plan: Callable[[Report], Plan]
) -> None:
    forced = (("*", layout.id),) if layout else ()
    with open_checkpoint(source) as checkpoint:
        report = inspect(checkpoint, Options(heads=(heads,) if heads else (), layouts=forced, norms=False))
        write(report, plan(report).pieces, target, How(force=True, verify=True))


def flag(target: Target) -> str:
    return f"{target.heads}/{target.kv_heads}"


def read(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("layout", EVERY)
@tried(given(data=st.data()), 1, 4, **SAFE)
def test_split_then_pack(tmp_path: Path, layout: Layout, data: st.DataObject) -> None:
    sizes = data.draw(geometries(layout))
    state = state_of(layout, sizes)
    target = Target(layout, sizes.num_heads, sizes.num_kv_heads)
    torch.save(state, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", layout, flag(target), partial(split_whole, names="hf"))
    rewritten(tmp_path / "b.pt", tmp_path / "c.pt", None, None, partial(pack_whole, target=target))
    again = read(tmp_path / "c.pt")
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(again[name].flatten(), tensor.flatten()), name


@pytest.mark.parametrize("layout", EVERY)
@tried(given(data=st.data()), 1, 4, **SAFE)
def test_there_and_back(tmp_path: Path, layout: Layout, data: st.DataObject) -> None:
    """Through layouts of other kinds that can hold it; at least one can, but for a few that are alone.

    Each goes through two of them, and each of them is gone through by many.
    """
    through = ("bert", "gpt2", "torch-mha", "megatron-core", "megatron-v1", "bloom", "codegen", "xlnet", "phi3", "mla")
    first = LAYOUTS.index(layout) % len(through)
    sizes = data.draw(geometries(layout))
    state = state_of(layout, sizes)
    back = Target(layout, sizes.num_heads, sizes.num_kv_heads, zero_bias=True)
    torch.save(state, tmp_path / "a.pt")
    held = 0
    for other in map(by_id, (*through[first:], *through[:first])):
        if held == 2:
            break
        there = replace(back, layout=other)
        try:
            rewritten(tmp_path / "a.pt", tmp_path / "b.pt", layout, flag(back), partial(convert_whole, target=there))
        except LayoutError:
            continue
        held += 1
        rewritten(tmp_path / "b.pt", tmp_path / "c.pt", other, flag(back), partial(convert_whole, target=back))
        again = [tensor.flatten() for tensor in read(tmp_path / "c.pt").values() if tensor.any()]
        assert sorted(t.numpy().tobytes() for t in again) == sorted(t.numpy().tobytes() for t in state.values())
    parts = set().union(*(stored.packing.parts for stored in layout.weights))
    assert held or parts != {"q", "k", "v"} or layout.subheads or layout.v_ratio
