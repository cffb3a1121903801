"""Verdicts and pairs of heads on models whose making is known."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from qkvinspect.lineage.kinship import KIN
from tests.lineage import kinds
from tests.lineage.compare import compared, kinship, rightly_paired
from tests.lineage.tiny import Model, Recipe
from tests.some import crossed

RECIPES = {"learned": Recipe(layers=2), "rotary": Recipe(positions="rotary", norm="rms", kv_heads=3, layers=2)}
UNTRAINED = ("heads pruned", "layer pruned", "int8", "Q4", "NF4", "permuted", "rotated", "rescaled", "packed")


@pytest.fixture(scope="module", params=["rotary", pytest.param("learned", marks=pytest.mark.mass)])
def model(request: pytest.FixtureRequest) -> Model:
    torch.set_num_threads(1)
    return Model(RECIPES[request.param], 1)


def nudged(model: Model, share: float, seed: int) -> Model:
    """A model after a walk of its own."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in other.parameters():
            one.add_(torch.randn(one.shape, generator=generator), alpha=share * one.std(correction=0).item())
    return other


def saved(model: Model, folder: Path) -> Path:
    return kinds.make(model, 0, (), 0).save(folder)


@crossed(recipe=[*RECIPES.values()], kind=UNTRAINED)
def test_what_was_made_of_a_model_is_found_and_its_heads_are_paired(recipe: Recipe, kind: str, tmp_path: Path) -> None:
    model = Model(recipe, 1)
    made = kinds.make(model, 0, (kind,), 3)
    found = kinship(saved(model, tmp_path / "a"), made.save(tmp_path / "b"))
    assert found.kin
    assert found.test is not None
    assert found.test.p_value < KIN
    right, heads = rightly_paired(found, made)
    assert right == heads


@crossed(recipe=[*RECIPES.values()], kind=["permuted", "rotated", "rescaled", "packed"])
def test_what_changes_no_output_moves_no_head(recipe: Recipe, kind: str, tmp_path: Path) -> None:
    model = Model(recipe, 1)
    made = kinds.make(model, 0, (kind,), 3)
    found = kinship(saved(model, tmp_path / "a"), made.save(tmp_path / "b"))
    assert found.verdict == ("identical" if kind == "packed" else "derived")
    assert found.descendant is None
    assert all(head.moved is not None and head.moved < 1e-5 for head in found.heads)


def test_what_was_cut_off_is_named_and_tells_which_came_first(model: Model, tmp_path: Path) -> None:
    made = kinds.make(model, 0, ("heads pruned", "layer pruned", "rotated"), 3)
    found = kinship(saved(model, tmp_path / "a"), made.save(tmp_path / "b"))
    assert (found.verdict, found.descendant) == ("derived", "b")
    kept = {(layer, head) for layer, heads in made.origins for head in heads}
    layers = {layer for layer, _ in made.origins}
    gone = {(layer, head) for layer in layers for head in range(6)} - kept
    named = {
        (int((layer.a or "").split(".")[2]), head.a)
        for layer in found.layers
        for head in layer.heads
        if head.fate == "removed"
    }
    assert named == gone
    assert found.count("removed")[0] == model.recipe.layers - len(layers)
    back = kinship(tmp_path / "b", tmp_path / "a")
    assert (back.verdict, back.descendant) == ("derived", "a")
    assert back.count("added") == found.count("removed")


def test_a_layer_that_stands_twice_is_a_copy(model: Model, tmp_path: Path) -> None:
    made = kinds.make(model, 0, (), 0)
    a = made.save(tmp_path / "a")
    made.attention.insert(2, {name: value.clone() for name, value in made.attention[1].items()})
    made.origins.insert(2, made.origins[1])
    found = kinship(a, made.save(tmp_path / "b"))
    (copied,) = (layer for layer in found.layers if layer.fate == "copied")
    assert (copied.a, copied.like) == (None, "model.layers.1.self_attn")
    assert found.count("removed") == found.count("added") == (0, 0)


def test_models_of_other_seeds_are_unrelated(model: Model, tmp_path: Path) -> None:
    other = Model(model.recipe, 2)
    found = kinship(saved(model, tmp_path / "a"), saved(other, tmp_path / "b"))
    assert found.verdict == "unrelated"
    assert found.layers == ()


def test_one_that_only_moved_is_kin_and_no_more_is_said(model: Model, tmp_path: Path) -> None:
    found = kinship(saved(model, tmp_path / "a"), saved(nudged(model, 0.1, 1), tmp_path / "b"))
    assert (found.verdict, found.descendant) == ("kin", None)
    assert found.answers("kin")
    assert not found.answers("derived")


def test_a_third_checkpoint_that_lies_between_is_named_and_decides_nothing(model: Model, tmp_path: Path) -> None:
    one, other = nudged(model, 0.1, 1), nudged(model, 0.2, 2)
    paths = [saved(each, tmp_path / name) for name, each in (("a", one), ("b", model), ("c", other))]
    found = compared(*paths, saved(Model(model.recipe, 9), tmp_path / "stranger"))
    verdicts = {(pair.a, pair.b): pair.verdict for pair in found.kinships}
    assert verdicts[0, 1] == verdicts[1, 2] == verdicts[0, 2] == "kin"
    assert next(pair.why for pair in found.kinships if (pair.a, pair.b) == (0, 2)).startswith("B lies between them")
    assert {verdicts[place, 3] for place in range(3)} == {"unrelated"}
    assert {frozenset((join.a, join.b)) for join in found.joins} == {frozenset((0, 1)), frozenset((1, 2))}


def test_three_of_an_ancestor_that_is_not_there_are_not_said_to_be_derived(model: Model, tmp_path: Path) -> None:
    paths = [saved(nudged(model, 0.2, seed), tmp_path / str(seed)) for seed in range(3)]
    assert {pair.verdict for pair in compared(*paths).kinships} == {"kin"}


def test_a_stream_in_another_basis_is_undetermined(tmp_path: Path) -> None:
    model = Model(Recipe(positions="rotary", norm="rms"), 1)
    made = kinds.make(model, 0, (), 0)
    a = made.save(tmp_path / "a")
    turn = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(0)))[0]
    for weights in made.attention:
        weights |= {name: weights[name] @ turn.T for name in (kinds.Q, kinds.K, kinds.V)}
        weights[kinds.OUT] = turn @ weights[kinds.OUT]
    found = kinship(a, made.save(tmp_path / "b"))
    assert found.verdict == "undetermined"
    assert "same spectra" in found.why


def test_units_that_fixed_positions_number_are_not_tested(tmp_path: Path) -> None:
    """Neighbours of a model that was fed sinusoids do alike."""
    models = [Model(Recipe(), seed) for seed in (1, 2)]
    wave = torch.sin(torch.arange(48) / 4)[None]
    for model in models:
        with torch.no_grad():
            for layer in model.layers:
                for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    part.weight += 0.5 * part.weight[:, :1] * wave
    found = kinship(saved(models[0], tmp_path / "a"), saved(models[1], tmp_path / "b"))
    assert found.tested == "inner"
    assert not found.kin
    tuned = kinship(tmp_path / "a", saved(nudged(models[0], 0.2, 0), tmp_path / "c"))
    assert (tuned.verdict, tuned.tested) == ("kin", "inner")


LLAMA_CPP = Path(__file__).parents[1] / "diff" / "llama_cpp"


@pytest.mark.parametrize("name", ["llama", "gptneox", "internlm2", "falcon-groups", "gpt2", "qwen3next"])
def test_what_llama_cpp_converted_is_the_same_model(name: str) -> None:
    """Renamed, unpacked, transposed, its rows in another order: no head moved."""
    found = kinship(LLAMA_CPP / name, LLAMA_CPP / f"{name}.gguf")
    assert found.verdict in ("identical", "derived")
    assert all(head.fate == "kept" and head.a == head.b and (head.moved or 0) < 1e-6 for head in found.heads)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "falcon-groups"])
def test_what_llama_cpp_rounded_to_codes_was_made_of_the_original(name: str) -> None:
    found = kinship(LLAMA_CPP / name, LLAMA_CPP / f"{name}-q8_0.gguf")
    assert (found.verdict, found.descendant) == ("derived", "b")
    assert all(0.001 < (head.moved or 0) < 0.02 for head in found.heads)


def test_streams_of_other_widths_cannot_be_compared(model: Model, tmp_path: Path) -> None:
    other = Model(Recipe(width=60), 1)
    found = kinship(saved(model, tmp_path / "a"), saved(other, tmp_path / "b"))
    assert found.verdict == "undetermined"
    assert "48 and 60 units wide" in found.why


def test_too_few_units_prove_nothing(tmp_path: Path) -> None:
    model = Model(Recipe(width=8, heads=2, kv_heads=2), 1)
    found = kinship(saved(model, tmp_path / "a"), saved(model, tmp_path / "b"))
    assert found.verdict == "undetermined"
    assert "too few" in found.why


def test_a_layer_with_values_that_are_not_finite_is_left_out(model: Model, tmp_path: Path) -> None:
    made = kinds.make(model, 0, (), 0)
    a = made.save(tmp_path / "a")
    made.attention[1][kinds.Q][0, 0] = float("nan")
    found = compared(a, made.save(tmp_path / "b"))
    assert found.left_out[1] == (("model.layers.1.self_attn", "it has values that are not finite"),)
    assert found.kinships[0].kin
