"""What qkvinspect says of a layer, against the rows that its own library was seen to use (see README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import qkvinspect
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError
from qkvinspect.model import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.packing import Geometry, Groups, Packing, split_rows

CAPTURED = Path(__file__).parent / "captured"
CASES = sorted(path.parent.name for path in CAPTURED.glob("*/truth.json"))
DECOYS: dict[str, Any] = json.loads((CAPTURED / "decoys.json").read_text())

Heads = tuple[tuple[int, ...], ...]
Split = dict[str, Heads]


def truth_of(case: str) -> dict[str, Any]:
    return json.loads((CAPTURED / case / "truth.json").read_text())


def heads_of(entry: dict[str, Any]) -> Heads:
    """The rows of each head, written out."""
    return tuple(tuple(row for start, stop in head for row in range(start, stop)) for head in entry["heads"])


def options_of(truth: dict[str, Any]) -> qkvinspect.Options:
    """Only what neither the names, nor the config, nor the shapes can tell is given."""
    flag = f"{truth['num_heads']}/{truth['num_kv_heads']}"
    layout = truth["id"].partition(".")[0]
    return qkvinspect.Options(
        norms=False,
        heads=(flag,) if truth["heads_flag"] else (),
        layouts=(("*", layout),) if truth["layout_flag"] else (),
    )


@pytest.mark.parametrize("case", CASES)
def test_the_rows_are_those_that_the_library_uses(case: str) -> None:
    truth = truth_of(case)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(qkvinspect.open(CAPTURED / case / "model.safetensors"))
        options = options_of(truth)
        plain = qkvinspect.inspect(checkpoint, qkvinspect.Options(norms=False, heads=options.heads))
        wanted = set(truth["tensors"])
        mine = [a for a in plain.attentions if wanted & {info.name for info in a.weights}]
        assert mine, f"no attention was found at {sorted(wanted)}"
        if options.layouts:
            options = qkvinspect.Options(norms=False, heads=options.heads, layouts=((mine[0].layer, options.layouts[0][1]),))
            plain = qkvinspect.inspect(checkpoint, options)
            mine = [a for a in plain.attentions if wanted & {info.name for info in a.weights}]
        found = {part.name: part for a in mine for part in a.parts if part.weight.name in wanted}
        for attention in mine:
            assert attention.layout is not None, attention.candidates
        for name in truth["proven"]:
            expected = truth["parts"][name]
            assert name in found, f"{name} is missing"
            part = found[name]
            assert part.weight.name == expected["tensor"]
            assert tuple(map(tuple, part.heads)) == heads_of(expected)
            if expected["bias"] is not None:
                assert part.bias is not None
                assert part.bias.name == expected["bias"]["tensor"]
                assert tuple(map(tuple, part.bias_heads)) == heads_of(expected["bias"])
        sizes = next(a.heads for a in mine if a.parts)
        assert sizes is not None
        assert len(found["v"].heads) == truth["num_kv_heads"]
        if "q" in truth["proven"]:
            assert sizes.num_heads == len(truth["parts"]["q"]["heads"])
        assert (sizes.head_dim, sizes.width("v")) == (truth["head_dim"], truth["v_head_dim"])


def packings(parts: str) -> Iterator[Packing]:
    """Every way that some library divides an axis: all orders, repeated in every way, and row by row."""
    groups: tuple[Groups, ...] = ("one", "heads", "kv_heads", 4, 2)
    for order in permutations(parts):
        for group in groups:
            yield Packing(order, group)
        yield Packing(order, "heads", slot_innermost=True)


def split(packing: Packing, geometry: Geometry, total: int) -> Split | None:
    try:
        rows = split_rows(packing, geometry, total)
    except LayoutError:
        return None
    return {part: tuple(tuple(run) for run in heads) for part, heads in rows.items()}


def coincide(one: Packing, other: Packing, geometry: Geometry) -> bool:
    """Whether two packings are the same by arithmetic: as many groups, or one head where that makes no difference."""

    def order(packing: Packing) -> tuple[tuple[str, ...], int, bool]:
        count = {"one": 1, "heads": geometry.num_heads, "kv_heads": geometry.num_kv_heads}.get(
            str(packing.groups), packing.groups if isinstance(packing.groups, int) else 0
        )
        return packing.order, count, packing.slot_innermost and geometry.head_dim > 1

    return order(one) == order(other)


@pytest.mark.parametrize("case", CASES)
def test_no_other_packing_gives_these_rows(case: str) -> None:
    """Of all packings that fill the tensor, those that give the true rows are one and the same division."""
    truth = truth_of(case)
    geometry = Geometry(truth["num_heads"], truth["num_kv_heads"], truth["head_dim"], truth["v_head_dim"])
    by_tensor: dict[str, Split] = {}
    for name, entry in truth["parts"].items():
        by_tensor.setdefault(entry["tensor"], {})[name] = heads_of(entry)
    for tensor, parts in by_tensor.items():
        if len(parts) == 1:
            continue
        total = truth["total"][tensor]
        right: list[Packing] = []
        for packing in packings("".join(parts)):
            rows = split(packing, geometry, total)
            if rows is None:
                continue
            if rows == parts:
                right.append(packing)
            else:
                assert any(rows[name] != heads for name, heads in parts.items())
        for packing in right:
            assert coincide(packing, right[0], geometry), (packing, right[0])


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

    def close(self) -> None: ...


_NOWHERE = Region(_Nothing(), 0, 1 << 40)


@pytest.mark.parametrize("decoy", sorted(DECOYS))
@pytest.mark.parametrize("with_config", [True, False])
def test_what_is_no_attention_is_not_reported(decoy: str, with_config: bool) -> None:
    entry = DECOYS[decoy]
    tensors = {name: _tensor(name, dtype, shape) for name, (dtype, shape) in entry["tensors"].items()}
    configs = (Config("config:config.json", entry["config"]),) if with_config and entry["config"] else ()
    checkpoint = Checkpoint("decoy", "safetensors", 0, tensors, configs=configs)
    report = qkvinspect.inspect(checkpoint, qkvinspect.Options(norms=False))
    assert [(a.layer, a.candidates) for a in report.attentions] == []
