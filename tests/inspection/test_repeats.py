"""Blocks of a stack that are alike are told from the first of them: the report is that of looking at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.fast_dataclass import replace as fast_replace
from qkvinspect.formats import open_checkpoint, plain_header
from qkvinspect.inspection import Options, inspect, match
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.norms_of_layers import norms_of
from qkvinspect.inspection.renamed import Renamed
from qkvinspect.inspection.repeated import RepeatedAttention
from qkvinspect.inspection.repeats import Repeats
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.tensor_table import TensorTable
from tests.batches import batched
from tests.conftest import Run
from tests.inspection.conventions import CONVENTIONS
from tests.inspection.repositories import DECOYS
from tests.some import first

Shapes = dict[str, tuple[int, ...]]


def checkpoint(shapes: Shapes, config: dict[str, object] | None = None) -> Checkpoint:
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], shape, contiguous_strides(shape), Region(None, 0, 0))  # pyright: ignore
        for name, shape in shapes.items()
    }
    configs = (Config("config:config.json", config),) if config else ()
    return Checkpoint("model", "test", 0, tensors, configs=configs)


def _none_is_alike(names: Names, *, compare: bool) -> Repeats:
    assert isinstance(compare, bool)
    return Repeats(names, compare=False)


def both(made: Checkpoint, options: Options) -> tuple[Any, Any]:
    """What is told with blocks that repeat another, and by looking at each."""
    repeated = inspect(made, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match, "Repeats", _none_is_alike)
        each = inspect(made, options)
    return (repeated.to_dict(tensors=True), repeated.attentions), (each.to_dict(tensors=True), each.attentions)


def stacked(shapes: Shapes, count: int, stack: str = "net.blocks") -> Shapes:
    return {f"{stack}.{number}.{name}": shape for number in range(count) for name, shape in shapes.items()}


LAYER: Shapes = {
    "self_attn.in_proj_weight": (192, 64),
    "self_attn.in_proj_bias": (192,),
    "self_attn.out_proj.weight": (64, 64),
    "self_attn.out_proj.bias": (64,),
    "linear1.weight": (256, 64),
}
MODULES: dict[str, Shapes] = {**{one.seen: {**one.tensors, **one.beside} for one in CONVENTIONS}, **DECOYS}


@batched("shapes", MODULES)
def test_a_stack_of_any_modules_is_told_as_each_of_them_is(shapes: Shapes) -> None:
    made = checkpoint(stacked(shapes, 3), {"num_attention_heads": 4})
    one, other = both(made, Options(norms=False))
    assert one == other
    assert len(Repeats(Names(inspect(made, Options(norms=False)).weights)).firsts) <= len(shapes)


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(stacked({"weight": (64, 64)}, 4, "attn.linears"), id="matrices of one module"),
        pytest.param(stacked({"weight": (64, 64)}, 4, "linears"), id="matrices of the model"),
        pytest.param(
            {f"{part}.{head}.weight": (16, 64) for part in ("query", "key", "value") for head in range(4)},
            id="one matrix a head",
        ),
        pytest.param(
            stacked({f"{part}.weight": (16, 64) for part in ("query", "key", "value")}, 4, "heads"), id="heads of one"
        ),
        pytest.param({**stacked(LAYER, 3), **stacked({**LAYER, "norm.weight": (64,)}, 5, "net.blocks.9")}, id="nested"),
        pytest.param({**stacked(LAYER, 6), "net.blocks.3.linear1.weight": (128, 64)}, id="one that differs"),
        pytest.param({**stacked(LAYER, 6), "net.in_proj_weight": (192, 64)}, id="one beside the stack"),
        pytest.param(
            {**stacked(LAYER, 4), **stacked({"self_attn.q_proj_weight": (64, 64)}, 4)}, id="rows that supersede others"
        ),
        pytest.param(stacked({**LAYER, "self_attn.kv_strange.weight": (77, 64)}, 5), id="some left over"),
    ],
)
def test_lists_that_are_no_stacks_are_looked_at_as_a_whole(shapes: Shapes) -> None:
    one, other = both(checkpoint(shapes), Options(norms=False))
    assert one == other


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"num_attention_heads": [4, 8, 4, 8]}, Options(norms=False)),
        ({"num_attention_heads": 7}, Options(norms=False)),
        ({}, Options(norms=False)),
        ({"blocks": {"2": {"num_heads": 8}}, "num_heads": 4}, Options(norms=False)),
        ({"num_heads": 4}, Options(heads=("8", "*.3.*=2"), norms=False)),
        ({"num_heads": 4}, Options(heads="8", norms=False)),
        ({"num_heads": 4}, Options(layers="*.2.*", norms=False)),
        ({"num_heads": 4}, Options(layouts=(("*.2.*", "torch-mha"),), norms=False)),
    ],
)
def test_what_goes_by_a_layer_s_number_or_name_is_asked_for_each(config: dict[str, object], options: Options) -> None:
    one, other = both(checkpoint(stacked(LAYER, 4), config), options)
    assert one == other


def test_only_one_block_of_a_stack_is_looked_at() -> None:
    names = Names(inspect(checkpoint(stacked(LAYER, 50)), Options(norms=False)).weights)
    assert set(Repeats(names).firsts) == set(stacked(LAYER, 1))


def test_heads_that_each_module_holds_are_named_after_it() -> None:
    """As a pickled nn.Module has them."""
    plain = checkpoint(stacked(LAYER, 4))
    held = {f"net.blocks.{number}.self_attn": {"num_heads": 4} for number in range(4)}
    repeated, each = both(replace(plain, modules=held), Options(norms=False))
    assert repeated == each
    assert [one.heads_from for one in repeated[1]] == [f"checkpoint:{name}.num_heads" for name in held]


BESIDE: Shapes = {
    "net.norm.weight": (64,),
    "net.blocks.2.more.weight": (64, 64),
    "net.self_attn.query.weight": (64, 64),
}


@pytest.mark.parametrize("turn", first(1, [0, 1]))
@batched("number shapes", {name: (number, shapes) for number, (name, shapes) in enumerate(MODULES.items())})
@pytest.mark.gate
def test_a_table_of_blocks_is_told_as_one_of_names_is(number: int, shapes: Shapes, turn: int, tmp_path: Path) -> None:
    """Of a file whose layers are held by the layer, the report is that of one whose tensors are held one by one.

    Every other one has more beside its blocks; with ``-m mass`` the others have.
    """
    beside = BESIDE if (number + turn) % 2 else {}
    third = stacked({"a.up.weight": (64, 64), **shapes, "z.weight": (64,)}, 3, "third.layers")
    every = {**stacked(shapes, 5), **beside, **stacked(shapes, 2, "other.11.layers"), **third}
    save_file({name: torch.ones(shape) for name, shape in every.items()}, tmp_path / "m.safetensors")
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):
            with open_checkpoint(tmp_path / "m.safetensors") as made:
                assert isinstance(made.tensors, TensorTable)
                assert bool(made.tensors.blocks) is not bool(told)
                found = inspect(made, Options())
                named = [(one.layer, one.tensor_names) for one in found.attentions]
                told.append((found.to_dict(tensors=True), named, found.account and found.account.groups()))
            patch.setattr(plain_header, "is_of_stack", lambda *_: False)
    assert told[0] == told[1]


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """A stack with a layer that holds NaN, one of zeros, one that is larger, and one of other numbers than the rest."""
    chance = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=chance)
        for layers, stack in ((7, "net.blocks"), (3, "other.layers"))
        for name, shape in stacked(
            {name: tuple(n // 4 for n in shape) for name, shape in LAYER.items()}, layers, stack
        ).items()
    }
    state["net.blocks.2.self_attn.in_proj_weight"][17, 3] = torch.nan
    state["net.blocks.3.self_attn.in_proj_weight"].zero_()
    state["net.blocks.5.self_attn.in_proj_weight"] = torch.randn(192, 64, generator=chance)
    state["net.blocks.5.self_attn.in_proj_bias"] = torch.randn(192, generator=chance)
    state["net.blocks.6.self_attn.in_proj_bias"][1] = torch.inf
    save_file(state, folder / "m.safetensors")
    torch.save(state, folder / "m.pt")
    return state


@pytest.mark.parametrize("heads", ["4", ""])
def test_norms_of_layers_that_repeat_one_are_those_of_each_alone(heads: str, tmp_path: Path) -> None:
    """Those of .pt, which has no table of tensors, are streamed one by one."""
    trained(tmp_path)
    options = Options(heads=heads or ())
    found: list[Any] = []
    for name in ("m.safetensors", "m.pt"):
        with open_checkpoint(tmp_path / name) as opened:
            report = inspect(opened, options)
        found.append([(one.layer, [_numbers(part) for part in one.parts]) for one in report.attentions])
        counted = {one.layer: sum(odd for part in one.parts for odd in _numbers(part)[1]) for one in report.attentions}
        assert {layer: count for layer, count in counted.items() if count} == {
            "net.blocks.2.self_attn": 1,
            "net.blocks.6.self_attn": 1,
        }
    assert sorted(found[0]) == sorted(found[1])


def _numbers(part: Part) -> tuple[list[str], list[int]]:
    measures = [one for one in (part.measured, part.bias_measured, *part.head_measures) if one is not None]
    return [repr(one.norm) for one in measures], [one.nonfinite for one in measures[:2]]


def test_a_layer_that_repeats_one_is_an_attention_module_like_any_other(tmp_path: Path) -> None:
    trained(tmp_path)
    with open_checkpoint(tmp_path / "m.safetensors") as opened:
        report = inspect(opened, Options(heads="4"))
        again = inspect(opened, Options(heads="4"))
    one, other = report.attentions[1], again.attentions[1]
    assert isinstance(one, RepeatedAttention)
    assert one.tensor_names == {name for name in one.tensors.values() if name}
    every = [*report.attentions, replace(one), one, one, *report.attentions[::-1]]
    for names in (["q", "k", "v"], ["v"]):
        assert norms_of(every, names) == norms_of([*map(replace, every)], names)
    assert norms_of([one], ["v"]).columns == [[one.parts[2].measured.norm], [one.parts[2].bias_measured.norm]]  # pyright: ignore
    assert (one, repr(one)) == (other, repr(other))
    assert replace(one) == one == fast_replace(one)
    assert type(replace(one)) is type(fast_replace(one, layer="x")) is Attention
    assert fast_replace(one, layer="x").parts == one.parts
    assert one != report.attentions[3]
    assert not hasattr(one, "nothing_of_the_kind")


def test_layers_are_not_made_before_more_than_their_norms_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Of a hundred thousand layers that would take most of the time."""
    made: list[str] = []
    real = Renamed.attention

    def attention(self: Renamed, one: Attention) -> Attention:
        made.append(one.layer)
        return real(self, one)

    monkeypatch.setattr(Renamed, "attention", attention)
    state = {f"layers.{n}.self_attn.in_proj_weight": torch.ones(48, 16) for n in range(40)}
    save_file(state, tmp_path / "m.safetensors")
    said = run("show", tmp_path / "m.safetensors", "--no-evidence", "--heads", "4")
    assert said.code == 0
    assert len(said.out.splitlines()) > 40
    assert len(made) < 3
