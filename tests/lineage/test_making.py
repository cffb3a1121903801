"""*Derived* is said only where one file holds nothing new against the other; of all other kin no direction is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qkvinspect.lineage import Lineage
from tests.lineage import kinds
from tests.lineage.compare import compared, kinship
from tests.lineage.test_kinship import nudged, saved
from tests.lineage.tiny import Model, Recipe, trained
from tests.long import long

RECIPES = {"learned": Recipe(layers=2), "rotary": Recipe(positions="rotary", norm="rms", kv_heads=3, layers=2)}
State = dict[str, Tensor]
QUICK = "--no-evidence"


@pytest.fixture(scope="module", params=["rotary", pytest.param("learned", marks=pytest.mark.mass)])
def model(request: pytest.FixtureRequest) -> Model:
    torch.set_num_threads(1)
    return Model(RECIPES[request.param], 1)


def changed(how: Callable[[State], State], before: Path, folder: Path) -> Path:
    """Another file with the same config."""
    folder.mkdir()
    state = {name: value.contiguous() for name, value in how(load_file(before / "model.safetensors")).items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text((before / "config.json").read_text())
    return folder


def as_dtype(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: value.to(dtype) for name, value in state.items()}


@pytest.mark.parametrize("share", [0.2, 1e-3, 1e-5])
def test_two_that_were_trained_from_a_third_are_kin_however_near(model: Model, share: float, tmp_path: Path) -> None:
    paths = [saved(nudged(model, share, seed), tmp_path / str(seed)) for seed in range(3)]
    found = compared(*paths)
    assert {(one.verdict, one.descendant) for one in found.kinships} == {("kin", None)}


@pytest.fixture(scope="module")
def hardly_moved(model: Model) -> Model:
    other = copy.deepcopy(model)
    trained(other, steps=20, rate=1e-7)
    return other


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.gate), torch.bfloat16])
def test_training_that_hardly_moved_anything_is_no_rounding(
    model: Model, hardly_moved: Model, dtype: torch.dtype, tmp_path: Path
) -> None:
    other = hardly_moved
    a, b = saved(model, tmp_path / "a"), saved(other, tmp_path / "b")
    rounded = changed(as_dtype(dtype), b, tmp_path / "c")
    for pair in ((a, rounded), (rounded, a)):
        assert kinship(*pair).verdict == "kin"


def sibling(model: Model, seed: int, folder: Path) -> Path:
    return saved(nudged(model, 0.1, seed), folder)


def ladder(model: Model, folder: Path) -> dict[str, Path]:
    """A parent, two children and a grandchild of the first, and a stranger."""
    child = nudged(model, 0.1, 1)
    return {
        "parent": saved(model, folder / "parent"),
        "child": saved(child, folder / "child"),
        "other": sibling(model, 2, folder / "other"),
        "grandchild": saved(nudged(child, 0.1, 3), folder / "grandchild"),
        "stranger": saved(Model(model.recipe, 9), folder / "stranger"),
    }


def verdicts(found: Lineage) -> dict[tuple[int, int], tuple[str, str | None]]:
    return {(one.a, one.b): (one.verdict, one.descendant) for one in found.kinships}


def test_the_parent_that_is_given_decides(model: Model, tmp_path: Path) -> None:
    paths = ladder(model, tmp_path)
    found = compared(*paths.values(), base=True)
    said = verdicts(found)
    assert said[0, 1] == said[0, 2] == said[0, 3] == ("derived", "b")
    assert said[1, 2] == said[2, 3] == ("common ancestor", None)
    assert said[1, 3] == ("kin", None)  # it may have parted a little before the child
    whys = {(one.a, one.b): one.why for one in found.kinships}
    assert whys[1, 3].startswith("D was made from B, or from something between")
    assert {said[place, 4][0] for place in range(4)} == {"unrelated"}


def test_what_two_were_demonstrably_made_of_is_their_ancestor(model: Model, tmp_path: Path) -> None:
    paths = [kinds.make(model, 0, some, 3).save(tmp_path / str(len(some))) for some in ((), ("int8",))]
    pruned = kinds.make(model, 0, ("heads pruned", "rotated"), 3).save(tmp_path / "pruned")
    found = compared(*paths, pruned)
    assert verdicts(found) == {
        (0, 1): ("derived", "b"), (0, 2): ("derived", "b"), (1, 2): ("common ancestor", None),
    }  # fmt: skip


DERIVED: dict[str, tuple[tuple[str, ...], bool]] = {
    "heads pruned": (("heads pruned",), True),
    "layer pruned": (("layer pruned",), True),
    "int8, decoded again": (("int8",), True),
    "Q4": (("Q4",), True),
    "NF4": (("NF4",), True),
    "int8 and heads in another order": (("int8", "permuted"), True),
    "pruned and turned": (("heads pruned", "rotated", "rescaled"), True),
    "heads in another order": (("permuted",), False),
    "turned": (("rotated", "rescaled", "packed"), False),
}
"""Ways to make one model of another, and whether they tell which came first."""

LONG = {"NF4", "Q4", "int8 and heads in another order"}
"""Those of the gate: other codes are made and told in the same way."""


@pytest.mark.parametrize("name", long(LONG.__contains__, DERIVED))
def test_what_holds_nothing_new_is_derived_whatever_the_order_of_the_two(
    model: Model, name: str, tmp_path: Path
) -> None:
    some, told = DERIVED[name]
    a, b = saved(model, tmp_path / "a"), kinds.make(model, 0, some, 3).save(tmp_path / "b")
    there, back = kinship(a, b), kinship(b, a)
    assert (there.verdict, there.descendant) == ("derived", "b" if told else None)
    assert (back.verdict, back.descendant) == ("derived", "a" if told else None)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (torch.bfloat16, torch.float32, ("identical", None)),
        (torch.bfloat16, torch.float16, ("derived", None)),
        (torch.float32, torch.bfloat16, ("derived", "b")),
        (torch.float32, torch.float16, ("derived", "b")),
    ],
)
def test_another_dtype_is_the_same_or_rounded(
    model: Model, first: torch.dtype, second: torch.dtype, said: tuple[str, str | None], tmp_path: Path
) -> None:
    a = changed(as_dtype(first), saved(model, tmp_path / "start"), tmp_path / "a")
    b = changed(as_dtype(second), a, tmp_path / "b")
    found = kinship(a, b)
    assert (found.verdict, found.descendant) == said


def test_a_sibling_that_was_rounded_to_codes_is_kin(model: Model, tmp_path: Path) -> None:
    other = kinds.make(nudged(model, 0.02, 5), 0, ("Q4",), 3).save(tmp_path / "b")
    assert kinship(saved(model, tmp_path / "a"), other).verdict == "kin"


def test_a_merged_adapter_is_kin_permuted_or_not(model: Model, tmp_path: Path) -> None:
    made = kinds.make(model, 0, (), 0)
    a = made.save(tmp_path / "a")
    generator = torch.Generator().manual_seed(1)
    for weights in made.attention:
        for name in (kinds.Q, kinds.V):
            rows, cols = weights[name].shape
            low = torch.randn(rows, 4, generator=generator) @ torch.randn(4, cols, generator=generator)
            weights[name] = weights[name] + 0.02 * low
    b = made.save(tmp_path / "b")
    kinds.permuted(made, generator)
    for other in (b, made.save(tmp_path / "c")):
        found = kinship(a, other)
        assert (found.verdict, found.descendant) == ("kin", None)


def without_words(state: State) -> State:
    return {name: value[::2] if "embed_tokens" in name else value for name, value in state.items()}


def with_classifier(state: State) -> State:
    return {**state, "classifier.weight": torch.ones(3, 48)}


def with_mlp_trained(state: State) -> State:
    return {name: value + 0.01 * torch.randn(value.shape) if "mlp" in name else value for name, value in state.items()}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (without_words, ("derived", None)),
        (with_mlp_trained, ("kin", None)),
        (with_classifier, ("derived", None)),  # without it nothing is new; which was first is not told
    ],
)
def test_what_lies_beside_attention_counts_too(
    model: Model, how: Callable[[State], State], said: tuple[str, str | None], tmp_path: Path
) -> None:
    a = saved(model, tmp_path / "a")
    b = changed(how, a, tmp_path / "b")
    for pair in ((a, b), (b, a)):
        found = kinship(*pair)
        assert (found.verdict, found.descendant) == said


def test_a_head_that_was_set_to_zero_is_derived_both_ways(model: Model, tmp_path: Path) -> None:
    made = kinds.make(model, 0, (), 0)
    a = made.save(tmp_path / "a")
    made.attention[1][kinds.OUT][:, 16:24] = 0
    b = made.save(tmp_path / "b")
    there, back = kinship(a, b), kinship(b, a)
    assert (there.verdict, there.descendant) == ("derived", "b")
    assert (back.verdict, back.descendant) == ("derived", "a")


def test_identical_is_said_of_all_values_alone(model: Model, tmp_path: Path) -> None:
    a = saved(model, tmp_path / "a")
    copied = changed(lambda state: state, a, tmp_path / "b")
    assert kinship(a, copied).verdict == "identical"

    def one_off(state: State) -> State:
        state["model.lm_head.weight"][7, 7] += 1
        return state

    assert kinship(a, changed(one_off, a, tmp_path / "c")).verdict != "identical"


@pytest.mark.gate
def test_the_base_of_the_command_line_becomes_the_first(model: Model, tmp_path: Path, run) -> None:
    paths = ladder(model, tmp_path)
    result = run("lineage", paths["child"], paths["other"], "--base", paths["parent"], "--format", "json", QUICK)
    found = json.loads(result.out)
    assert found["base"] == 0
    assert [pair["verdict"] for pair in found["pairs"]] == ["derived", "derived", "common ancestor"]
    expect = (QUICK, "--base", paths["parent"], "--expect")
    assert run("lineage", paths["child"], paths["other"], *expect, "common-ancestor").code == 0
    assert run("lineage", paths["child"], paths["other"], *expect, "derived").code == 1
    assert run("lineage", paths["child"], *expect, "derived").code == 0


def test_an_adapter_and_what_it_was_merged_into_are_the_same(model: Model, tmp_path: Path, run) -> None:
    base = saved(model, tmp_path / "base")
    state, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(1)
    low: State = {}
    for name in [name for name in state if name.endswith(("q_proj.weight", "v_proj.weight"))]:
        rows, cols = state[name].shape
        b, a = torch.randn(rows, 4, generator=generator), torch.randn(4, cols, generator=generator) / 50
        low |= {f"base_model.model.{name.replace('weight', f'lora_{side}.weight')}": value
                for side, value in (("A", a), ("B", b))}  # fmt: skip
        state[name] = state[name] + 2 * b @ a
    merged = changed(lambda _: state, base, tmp_path / "merged")
    (tmp_path / "adapter").mkdir()
    save_file(low, tmp_path / "adapter/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    result = run("lineage", merged, tmp_path / "adapter", "--base", base, "--format", "json", QUICK)
    assert result.code == 0, result.err
    pairs = [(pair["verdict"], pair["descendant"]) for pair in json.loads(result.out)["pairs"]]
    assert pairs == [("derived", "b"), ("derived", "b"), ("derived", None)]


@pytest.mark.parametrize("how", ["sizes", "directions"])
def test_strangers_that_read_the_same_inputs_are_no_kin(how: str, tmp_path: Path) -> None:
    """Embeddings that both were given tell units apart by their sizes, or by what goes with what."""
    generator = torch.Generator().manual_seed(4)
    sizes, words = torch.randn(48, generator=generator).exp(), torch.randn(6, 48, generator=generator)
    paths: list[Path] = []
    for seed in (1, 2):
        made = kinds.make(Model(RECIPES["rotary"], seed), 0, (), 0)
        for weights in made.attention:
            for name in (kinds.Q, kinds.K, kinds.V):
                rows = weights[name]
                taught = torch.randn(len(rows), 6, generator=generator) @ words * 0.05
                weights[name] = rows * sizes if how == "sizes" else rows + taught
        paths.append(made.save(tmp_path / str(seed)))
    found = kinship(*paths)
    assert not found.kin, found
