"""What qkvinspect says of a layer, against the rows that its own library was seen to use (see README.md)."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file

import qkvinspect
from qkvinspect import Attention, Options, Part
from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.explain.snippet import python
from qkvinspect.layouts import LAYOUTS
from qkvinspect.layouts.packing import Geometry, Groups, Packing, split_rows
from tests.batches import batched, each
from tests.conftest import Run
from tests.some import first

CAPTURED = Path(__file__).parent / "captured"
CASES = sorted(path.name.removesuffix(".truth.json") for path in CAPTURED.glob("*.truth.json"))
DECOYS: dict[str, Any] = json.loads((CAPTURED / "decoys.json").read_text())

Heads = tuple[tuple[int, ...], ...]
Split = dict[str, Heads]


@cache
def truth_of(case: str) -> dict[str, Any]:
    return json.loads((CAPTURED / f"{case}.truth.json").read_text())


def heads_of(entry: dict[str, Any]) -> Heads:
    """The rows of each head, written out."""
    return tuple(tuple(row for start, stop in head for row in range(start, stop)) for head in entry["heads"])


def wrong_rows(truth: dict[str, Any], found: dict[str, Part]) -> list[str]:
    """The parts whose rows are not the true ones."""
    return [
        name
        for name in truth["proven"]
        if name not in found
        or found[name].weight.name != truth["parts"][name]["tensor"]
        or tuple(map(tuple, found[name].heads)) != heads_of(truth["parts"][name])
    ]


@cache
def attentions_of(case: str, layout: str = "", *, told: bool = True) -> list[Attention]:
    """What inspection finds at the truth's tensors. Only what nothing in the files tells is given, if that is."""
    truth = truth_of(case)
    heads = (f"{truth['num_heads']}/{truth['num_kv_heads']}",) if told and truth["heads_flag"] else ()
    wanted = set(truth["tensors"])
    with qkvinspect.open(CAPTURED / case / "model.safetensors") as checkpoint:
        report = qkvinspect.inspect(checkpoint, Options(norms=False, heads=() if truth["layout_flag"] else heads))
        mine = [a for a in report.attentions if wanted & {info.name for info in a.weights}]
        if layout and mine:
            options = Options(norms=False, heads=heads, layouts=((mine[0].layer, layout),))
            report = qkvinspect.inspect(checkpoint, options)
            mine = [a for a in report.attentions if wanted & {info.name for info in a.weights}]
    return mine


@batched("case", CASES)
def test_the_rows_are_those_that_the_library_uses(case: str) -> None:
    truth = truth_of(case)
    mine = attentions_of(case, truth["layout_flag"])
    assert mine, f"no attention was found at {truth['tensors']}"
    for attention in mine:
        assert attention.layout is not None, attention.candidates
    found = {part.name: part for a in mine for part in a.parts if part.weight.name in truth["tensors"]}
    assert wrong_rows(truth, found) == []
    for name in truth["proven"]:
        bias = truth["parts"][name]["bias"]
        if bias is not None:
            stored = found[name].bias
            assert stored is not None
            assert stored.name == bias["tensor"]
            assert tuple(map(tuple, found[name].bias_heads)) == heads_of(bias)
    sizes = next(a.heads for a in mine if a.parts)
    assert sizes is not None
    if "q" in truth["proven"]:
        assert sizes.num_heads == truth["num_heads"]
    assert sizes.num_kv_heads == truth["num_kv_heads"]
    assert sizes.width("q" if "q" in truth["proven"] else "k") == truth["head_dim"]
    assert sizes.width("v") == truth["v_head_dim"]


def kind_of(case: str) -> Hashable:
    """The layouts of its attention, and what has to be said of them."""
    truth = truth_of(case)
    found = attentions_of(case, truth["layout_flag"])
    return *(one.layout and one.layout.id for one in found), truth["layout_flag"], truth["heads_flag"]


@pytest.mark.parametrize("others", first(1, [False, True]))
def test_what_the_command_exports_are_those_rows(others: bool, tmp_path: Path, run: Run) -> None:
    """The whole command, from the library's file to a file that safetensors reads: every head, bit for bit.

    Of a model of each kind, and with ``-m mass`` of the others.
    """
    some = {kind_of(case): case for case in CASES}.values()
    asked = [case for case in CASES if (case in some) != others]
    assert asked
    each(((case, case, tmp_path, run) for case in asked), exported_as_the_library_uses)


def exported_as_the_library_uses(case: str, tmp_path: Path, run: Run) -> None:
    truth = truth_of(case)
    flags = ["--heads", f"{truth['num_heads']}/{truth['num_kv_heads']}"] if truth["heads_flag"] else []
    mine = attentions_of(case, truth["layout_flag"])
    for attention in mine:
        if truth["layout_flag"]:
            flags += ["--layout", f"{attention.layer}={truth['layout_flag']}"]
        flags += ["--layer", attention.layer or "*"]
    target = tmp_path / "heads.safetensors"
    source = CAPTURED / case / "model.safetensors"
    quick = [] if case in CASES[::16] else ["--no-evidence"]  # what the weights say is asked of a model in sixteen
    result = run("export", "--heads-split", source, "-o", target, "--force", *flags, *quick)
    assert result.code == 0, result.err
    exported, stored = load_file(target), load_file(source)
    origins = {part.name: (attention, part) for attention in mine for part in attention.parts}
    for name in truth["proven"]:
        attention, part = origins[name]
        weight = stored[truth["parts"][name]["tensor"]]
        weight = weight.T if part.orientation == "in_out" else weight.reshape(len(weight), -1)
        for head, rows in enumerate(heads_of(truth["parts"][name])):
            prefix = f"{attention.layer}." if attention.layer else ""
            assert np.array_equal(exported[f"{prefix}{name}_proj.heads.{head}.weight"], weight[list(rows)])


@batched("case", CASES)
def test_the_code_that_explain_prints_slices_those_rows(case: str) -> None:
    """The lines are run as printed, with safetensors' own reader and torch's own slicing."""
    truth = truth_of(case)
    with qkvinspect.open(CAPTURED / case / "model.safetensors") as checkpoint:
        for attention in attentions_of(case, truth["layout_flag"]):
            scope: dict[str, Any] = {"torch": torch, "safetensors": safetensors}
            exec("\n".join(python(attention, checkpoint)), scope)
            for part in attention.parts:
                stored = scope["state"][part.weight.name]
                stored = stored.T if part.orientation == "in_out" else stored.flatten(1)
                rows = [row for head in part.heads for row in head]
                assert torch.equal(scope[part.name].flatten(1), stored[rows])


@batched("case", [case for case in CASES if truth_of(case)["layout_flag"]])
def test_lookalikes_are_not_guessed(case: str) -> None:
    """Without --layout there is no answer, or the right one."""
    truth = truth_of(case)
    for attention in attentions_of(case):
        if attention.layout is not None and attention.heads is not None:
            assert wrong_rows(truth, {part.name: part for part in attention.parts}) == []


@batched("case", [case for case in CASES if truth_of(case)["heads_flag"]])
def test_q_k_and_v_are_right_without_heads(case: str) -> None:
    """Where the number of heads is unknown, Q, K and V are given as a whole, or not at all."""
    truth = truth_of(case)
    for attention in attentions_of(case, told=False):
        for part in attention.parts if not truth["layout_flag"] else ():
            if part.name in truth["proven"] and part.weight.name == truth["parts"][part.name]["tensor"]:
                expected = sorted(row for head in heads_of(truth["parts"][part.name]) for row in head)
                assert sorted(row for head in part.heads for row in head) == expected


def packings(parts: tuple[str, ...]) -> Iterator[Packing]:
    """Every way that some library divides an axis: all orders, repeated in every way, and row by row."""
    groups: tuple[Groups, ...] = ("one", "heads", "kv_heads", 4, 2)
    for order in permutations(parts):
        for group in groups:
            for whole in (
                order,
                ("mlp", *order),
                (*order, "mlp"),
                *((*order[:n], "gate", *order[n:]) for n in range(4)),
            ):
                yield Packing(whole, group)
        yield Packing(order, "heads", slot_innermost=True)


def split(packing: Packing, geometry: Geometry, total: int) -> Split | None:
    try:
        rows = split_rows(packing, geometry, total)
    except LayoutError:
        return None
    return {part: tuple(tuple(run) for run in heads) for part, heads in rows.items() if part in ("q", "k", "v")}


def same(one: Packing, other: Packing, geometry: Geometry) -> bool:
    """Whether two packings are one division by arithmetic: of the same parts, as many times."""

    def count(packing: Packing) -> int:
        match packing.groups:
            case "one":
                return 1
            case "heads":
                return geometry.num_heads
            case "kv_heads":
                return geometry.num_kv_heads
            case int(groups):
                return groups

    def parts(packing: Packing) -> list[str]:
        return ["other" if part in ("gate", "mlp") else part for part in packing.order]

    return (parts(one), count(one), one.slot_innermost) == (parts(other), count(other), other.slot_innermost)


@batched("case", CASES)
def test_no_other_packing_gives_these_rows(case: str) -> None:
    """Of all packings that fill the tensor, those that give the true rows are one and the same division.

    Grouped with as many kv heads as heads is per head, grouped with one kv head is blocked, and so on: ``same``.
    """
    truth = truth_of(case)
    geometry = Geometry(truth["num_heads"], truth["num_kv_heads"], truth["head_dim"], truth["v_head_dim"])
    by_tensor: dict[str, Split] = {}
    for name, entry in truth["parts"].items():
        by_tensor.setdefault(entry["tensor"], {})[name] = heads_of(entry)
    for tensor, parts in by_tensor.items():
        if len(parts) == 1 or truth["subheads"] > 1:
            continue
        fitting = [(p, split(p, geometry, truth["total"][tensor])) for p in packings(tuple(parts))]
        right = [packing for packing, rows in fitting if rows == parts]
        assert right, "no packing can say this"
        assert all(same(packing, right[0], geometry) for packing in right), right


def _tensor(name: str, dtype: str, shape: list[int]) -> TensorInfo:
    return TensorInfo(name, DTYPES[dtype], tuple(shape), contiguous_strides(tuple(shape)), _NOWHERE)


class _Nothing:
    name, size = "decoy", 0

    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError("a decoy was read")

    def relative(self, name: str) -> _Nothing:
        raise AssertionError(name)

    def siblings(self) -> tuple[str, ...]:
        return ()

    def check(self) -> None:
        pass

    def close(self) -> None: ...


_NOWHERE = Region(_Nothing(), 0, 1 << 40)


@batched("decoy", sorted(DECOYS))
@pytest.mark.parametrize("with_config", [True, False])
def test_what_is_no_attention_is_not_reported(decoy: str, with_config: bool) -> None:
    entry = DECOYS[decoy]
    report = _report({**entry, "config": entry["config"] if with_config else None})
    assert [(a.layer, a.candidates) for a in report.attentions] == []


def _report(entry: dict[str, Any]) -> qkvinspect.Report:
    tensors = {name: _tensor(name, dtype, shape) for name, (dtype, shape) in entry["tensors"].items()}
    configs = (Config("config:config.json", entry["config"]),) if entry["config"] else ()
    return qkvinspect.inspect(
        Checkpoint("family", "safetensors", 0, tensors, configs=configs, sorted_names=True), Options(norms=False)
    )


def test_every_row_that_says_proven_was_shown_on_a_library() -> None:
    """Here, or with the names that libraries write (tests/families), or in test_adapters_and_wrappers."""
    shown = {"torch-ao-mha"}
    for case in CASES:
        truth = truth_of(case)
        found = attentions_of(case, truth["layout_flag"])
        shown |= {attention.layout.id for attention in found if attention.layout}
    for path in (CAPTURED.parent.parent / "families").glob("*.json"):
        found = _report(json.loads(path.read_text())).attentions
        shown |= {attention.layout.id for attention in found if attention.layout}
    assert {layout.id for layout in LAYOUTS if layout.proof == "proven"} <= shown
