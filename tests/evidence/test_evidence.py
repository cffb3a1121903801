"""What the weights say is right wherever they say anything; on noise they say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from qkvinspect.checkpoint import Config
from qkvinspect.findings import AGAINST_WEIGHTS
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.evidence.blocksums import CutProducts, Products, Whole
from qkvinspect.inspection.evidence.fit import fit
from qkvinspect.inspection.evidence.gram import normal_scores
from qkvinspect.inspection.evidence.sample import Sample
from qkvinspect.inspection.evidence.weigh import weigh_heads
from qkvinspect.inspection.report import Report
from qkvinspect.layouts.packing import Groups, Packing
from tests.evidence import cases, towers
from tests.real import wheels
from tests.some import crossed, every_value, first, spread

KINDS = (
    "sceptr/SCEPTR",
    "sceptr/SCEPTR_CDR3_only_MLM_only",
    "sceptr/SCEPTR_large",
    "anarcii/tcr_4_1_128_512",
    "sapiens/checkpoint_vl",
    "rxnmapper/albert_heads_8_uspto_all_1310k",
)
FAINT = ("sceptr/SCEPTR_tiny", "soltrannet/soltrannet_aqsol_trained")
"""Sure enough to tell, at most; not to contradict."""

CLAIMED = "config:config.json:num_attention_heads"

HEADS = {"sceptr": 8, "anarcii": 4, "sapiens": 8, "rxnmapper": 8, "soltrannet": 2}


@pytest.fixture(scope="module")
def others() -> dict[str, cases.Trained]:
    with wheels.skipped_offline():
        return {one.label: one for one in cases.others()}


def answers(report: Report) -> set[tuple[int | None, str]]:
    return {(a.heads.num_heads if a.heads else None, a.heads_from) for a in report.attentions}


def against(report: Report) -> set[str]:
    return {finding.code for finding in report.findings if finding.code in AGAINST_WEIGHTS}


@pytest.mark.parametrize("some", first(1, [True, False]))
def test_heads_of_checkpoints_trained_by_others(others, some: bool) -> None:
    """One of each kind, and the two weakest; ``-m mass`` asks the others."""
    asked = {label: one for label, one in others.items() if (label in (*KINDS, *FAINT)) == some}
    wrong = {}
    for label, one in asked.items():
        report = cases.weigh(one.path)
        if answers(report) != {(HEADS[label.partition("/")[0]], "weights")} or against(report):
            wrong[label] = answers(report), against(report)
    assert not wrong
    assert (len(asked), len(others)) == (8 if some else 18, 26)


@pytest.mark.parametrize("turn", first(1, [0, 1]))
@pytest.mark.gate
def test_a_wrong_config_is_contradicted_and_a_right_one_never(others, turn: int) -> None:
    """table.py asks all of them; these are one of each kind, and the two weakest, with one config each by turns."""
    wrong = {}
    for number, label in enumerate((*KINDS, *FAINT)):
        one, twice = others[label], (number + turn) % 2
        said = against(cases.weigh(one.path, claim=one.heads * (1 + twice)))
        if said != ({"heads-against-weights"} if twice and label not in FAINT else set()):
            wrong[label] = said
    assert not wrong


def test_the_finding_names_both_numbers(others) -> None:
    report = cases.weigh(others["sceptr/SCEPTR"].path, claim=16)
    finding, *others = [f for f in report.findings if f.code == "heads-against-weights"]
    assert [f.message for f in others] == [finding.message] * 2  # one for each of the three layers
    assert "config:config.json:num_attention_heads says 16 heads, the weights say 8 (99.99 % sure" in finding.message
    assert finding.severity == "warning"


PACKINGS = cases.packings(8, 64)
"""Of SCEPTR_small, whose heads are 8 of 8."""


def ways(name: str) -> tuple[object, ...]:
    return PACKINGS[name].order, PACKINGS[name].groups, PACKINGS[name].slot_innermost


@pytest.mark.parametrize("name", every_value(PACKINGS, ways))
def test_every_packing_is_recognised(others, tmp_path: Path, name: str) -> None:
    """Each order and each way of grouping in every run; ``-m mass`` has each with each."""
    one = others["sceptr/SCEPTR_small"]
    cases.pack(cases.layers(one.path), PACKINGS[name], one.heads, tmp_path / "packed.safetensors")
    report = cases.weigh(tmp_path / "packed.safetensors")
    evidence = report.attentions[0].evidence
    assert evidence
    assert evidence.packings
    assert (evidence.packings.best.label, evidence.packings.decided) == (name, True)
    assert evidence.packings.best.num_heads == one.heads
    assert against(report) == (set() if name == "q, k, v in blocks" else {"packing-against-weights"})


def test_every_packing_of_the_formula_is_one_of_them(others) -> None:
    layers = cases.layers(others["sceptr/SCEPTR_small"].path)
    assert cases.packings(8, layers[0].out.shape[1]) == PACKINGS
    assert len(PACKINGS) == 24


@pytest.mark.parametrize("groups", ["one", "heads"])
def test_the_weights_settle_what_the_names_of_a_packed_tensor_leave_open(
    others, tmp_path: Path, groups: Groups
) -> None:
    one = others["sceptr/SCEPTR_small"]
    layers = cases.layers(one.path)
    cases.pack(layers, Packing(("q", "k", "v"), groups), one.heads, tmp_path / "mha.safetensors")
    names = {"in_proj_weight": "queries_keys_values.weight", "in_proj_bias": "queries_keys_values.bias"}
    tensors: dict[str, np.ndarray] = {}
    for name, value in load_arrays(tmp_path / "mha.safetensors").items():
        layer, _, leaf = name.partition(".self_attn.")
        tensors[f"{layer}.attention.{names.get(leaf, leaf)}"] = value
    save_arrays(tensors, tmp_path / "packed.safetensors")
    found = cases.weigh(tmp_path / "packed.safetensors").attentions
    assert {a.candidates[0] for a in found} == {"pattern-blocks" if groups == "one" else "pattern-per-head"}
    assert {a.layout_from for a in found} == {"weights"}
    assert {a.heads.num_heads for a in found if a.heads} == {one.heads}


def test_all_packings_are_weighed_where_the_evidence_is_asked_for(others, tmp_path: Path) -> None:
    """Also those that a glance at some rows refutes."""
    one = others["sapiens/checkpoint_vl"]
    layers = cases.layers(one.path)
    packings = cases.packings(one.heads, layers[0].out.shape[1])
    cases.pack(layers, packings["q, k, v in blocks"], one.heads, tmp_path / "packed.safetensors")
    (found, *_) = cases.weigh(tmp_path / "packed.safetensors", claim=one.heads, thorough=True).attentions
    assert found.evidence is not None
    assert found.evidence.packings is not None
    labels = {label for said in found.evidence.packings.weighed for label in (said.label, said.same_rows)}
    assert labels >= packings.keys()


@crossed(label=["sceptr/SCEPTR_small", "anarcii/tcr_4_1_128_512"], groups=["one", "kv_heads", 2, 4], said=[True, False])
def test_cut_from_a_tensor_of_another_packing(others, tmp_path: Path, label: str, groups: Groups, said: bool) -> None:
    """Rows of all three in each of Q, K and V are told for what they are, and no number of heads with them."""
    one = others[label]
    packing = Packing(("q", "k", "v"), groups=groups)
    cases.cut(cases.layers(one.path)[:2], packing, one.heads, one.heads, tmp_path / "cut.safetensors")
    claim = one.heads if said else None
    report = cases.weigh(tmp_path / "cut.safetensors", claim=claim)
    assert against(report) == (set() if groups == "one" else {"packing-against-weights"})
    if groups != "one":
        assert {a.heads_from for a in report.attentions} == ({"unknown"} if claim is None else {CLAIMED})
        words = "per kv head" if groups in ("kv_heads", one.heads) else f"in {groups} groups"
        finding = next(finding for finding in report.findings if finding.code in AGAINST_WEIGHTS)
        assert f"cut from a tensor that is packed q, k, v {words}" in finding.message


@pytest.mark.gate
def test_swapped_and_turned_projections(others, tmp_path: Path) -> None:
    one = others["sceptr/SCEPTR"]
    layers = cases.layers(one.path)[:2]
    path = tmp_path / "apart.safetensors"
    for roles, expected in (("qkv", set()), ("qvk", {"packing-against-weights"}), ("vkq", {"packing-against-weights"})):
        cases.apart(layers, path, roles=roles)
        assert against(cases.weigh(path)) == expected
        assert against(cases.weigh(path, claim=8)) == expected
    cases.apart(layers, path, roles="kqv")  # Q for K cannot be told: attention uses only their product
    assert against(cases.weigh(path)) == set()
    cases.apart(layers, path, turned=True)
    assert against(cases.weigh(path)) == {"orientation-against-weights"}
    assert answers(cases.weigh(path)) == {(None, "unknown")}


@pytest.mark.gate
def test_layers_of_two_modules_are_not_one_stack(others, tmp_path: Path) -> None:
    """Of one shape, without numbers in their names: each has its own heads, and a right --heads is no error."""
    four, eight = (cases.layers(others[label].path)[0] for label in ("anarcii/classifii", "sapiens/checkpoint_vh"))
    names = {"encoder.layer.self_attn": (eight, 8), "layer.self_attn": (four, 4)}
    tensors = {}
    for name, (layer, _) in names.items():
        tensors |= towers.stored(name, layer, fused=True)
    save_arrays(tensors, tmp_path / "two.safetensors")
    report = cases.weigh(tmp_path / "two.safetensors")
    assert {one.layer: one.heads and one.heads.num_heads for one in report.attentions} == {
        name: heads for name, (_, heads) in names.items()
    }
    report = cases.weigh(tmp_path / "two.safetensors", claim=8)
    findings = [finding for finding in report.findings if finding.code in AGAINST_WEIGHTS]
    assert [(finding.code, finding.layer) for finding in findings] == [("heads-against-weights", "layer.self_attn")]
    assert "says 8 heads, the weights say 4" in findings[0].message


def test_layers_of_one_stack_that_contradict_each_other(others, tmp_path: Path) -> None:
    """Names and shapes make a stack of them, what they say of themselves does not."""
    four, eight = (cases.layers(others[label].path)[0] for label in ("anarcii/classifii", "sapiens/checkpoint_vh"))
    tensors = {}
    for number, layer in enumerate([four, eight, four]):
        tensors |= towers.stored(f"model.layers.{number}.self_attn", layer, fused=False)
    save_arrays(tensors, tmp_path / "mixed.safetensors")
    report = cases.weigh(tmp_path / "mixed.safetensors")
    assert [one.heads and one.heads.num_heads for one in report.attentions] == [4, 8, 4]


@pytest.mark.parametrize(
    ("heads", "denying"),
    [pytest.param(["4", "8", "8", "8"], [], marks=pytest.mark.gate), (["4", "4", "8", "4"], [0, 1, 3])],
)
def test_few_layers_of_a_stack_do_not_contradict_what_is_known_of_all(
    others, tmp_path: Path, heads: list[str], denying: list[int]
) -> None:
    """One layer whose heads look like half as many is no error of the config where the others bear it out."""
    layers = {"4": cases.layers(others["anarcii/classifii"].path)[0]}
    layers["8"] = cases.layers(others["sapiens/checkpoint_vh"].path)[0]
    tensors = {}
    for number, which in enumerate(heads):
        tensors |= towers.stored(f"model.layers.{number}.self_attn", layers[which], fused=False)
    save_arrays(tensors, tmp_path / "mixed.safetensors")
    report = cases.weigh(tmp_path / "mixed.safetensors", claim=8, thorough=True)
    said = [finding.layer for finding in report.findings if finding.code == "heads-against-weights"]
    assert said == [f"model.layers.{number}.self_attn" for number in denying]


@pytest.mark.mass
def test_two_hundred_pairs_of_towers(tmp_path: Path) -> None:
    """RESULTS.md has the figures; 0 wrong."""
    with wheels.skipped_offline():
        both = towers.towers(list(cases.others((*cases.OTHERS, *cases.LARGE))))
    count = towers.Count()
    for pair in towers.pairs(both, 200):
        assert towers.judge(pair, tmp_path / "towers.safetensors", count) == []
    assert count.decided > 10 * count.undetermined
    assert count.contradicted > 100


@pytest.mark.parametrize("seeds", first(1, [(*range(0, 1000, 200), 108, 213, 740, 975, 988), range(0, 1000, 40)]))
def test_random_weights_say_nothing(tmp_path: Path, seeds: Sequence[int]) -> None:
    """All 1,000 are weighed by table.py; here one in 200, and orthogonal ones that were once taken for trained."""
    claims = []
    for seed in seeds:
        label, tensors = cases.untrained(seed)
        save_file(tensors, tmp_path / "random.safetensors")
        report = cases.weigh(tmp_path / "random.safetensors")
        if answers(report) != {(None, "unknown")} or against(report):
            claims.append(label)
    assert not claims


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), spread(2, [(9, 3, 8), (12, 4, 8), (14, 2, 8), (25, 5, 4)]))
def test_the_number_of_a_config_is_always_weighed(tmp_path: Path, heads: int, kv_heads: int, head_dim: int) -> None:
    """Nine heads over three do not divide the rows of a fused tensor, which are those of fifteen."""
    random = np.random.default_rng(heads)
    width, rows = heads * head_dim, (heads + 2 * kv_heads) * head_dim
    layer = "model.layers.0.self_attn"
    tensors = {f"{layer}.qkv_proj.weight": (rows, width), f"{layer}.o_proj.weight": (width, width)}
    save_arrays({name: random.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}, tmp_path / "m")
    config = Config("config:config.json", {"num_attention_heads": heads, "num_key_value_heads": kv_heads})
    with open_checkpoint(tmp_path / "m") as checkpoint:
        report = inspect(replace(checkpoint, configs=(config,)), Options(norms=False, evidence="thorough"))
    (attention,) = report.attentions
    assert attention.evidence
    assert attention.evidence.heads
    assert heads in {one.num_heads for one in attention.evidence.heads.weighed}
    assert not against(report)


def index(heads: int, width: int) -> dict[str, np.ndarray]:
    size = heads * width
    places = {
        part: start + np.arange(size).reshape(heads, width)
        for part, start in zip("qkv", (0, size, 2 * size), strict=True)
    }
    return places | {"o": np.arange(size).reshape(heads, width)}


def sample(rows: np.ndarray) -> Sample:
    """Q, K, V and the columns of the output projection, as many of each."""
    scores = normal_scores(rows.astype(np.float32))
    assert scores is not None
    return Sample("", scores, np.zeros(len(rows)), len(rows) // 4 * 3, np.zeros(len(rows)), 1)


@pytest.mark.parametrize("width", spread(2, [4, 8, 16]))
def test_the_gain_is_chi_square_on_noise(width: int) -> None:
    """Its mean is 0 and its variance twice its degrees of freedom: what the threshold rests on."""
    generator = np.random.default_rng(width)
    gains = []
    for _ in range(100):
        one = fit(sample(generator.standard_normal((128, 24))), index(32 // width, width))
        gains.append(one.gain())
    scores = [one.value - one.expected for one in gains]
    assert np.mean(scores) == pytest.approx(0, abs=1.5)
    assert np.var(scores) == pytest.approx(gains[0].variance, rel=0.3)
    assert gains[0].variance == pytest.approx(44, rel=0.5)  # 22 degrees of freedom, more where entries are few


def test_rows_of_trained_weights_in_another_order_are_noise(others) -> None:
    """The heads are in the order of the rows and in nothing else: with rows shuffled, the same for every part, nothing
    is left of them, whatever else training did to the weights."""
    generator = np.random.default_rng(0)
    layers = cases.layers(others["anarcii/classifii"].path)
    for layer in layers:
        order = generator.permutation(128)
        shuffled = sample(np.concatenate([*(layer.weights[part][order] for part in "qkv"), layer.out.T[order]]))
        for heads in (2, 4, 8, 16, 32):
            gain = fit(shuffled, index(heads, 128 // heads)).gain()
            assert gain.value - gain.expected < 35


@pytest.mark.parametrize(
    "rows",
    [
        np.eye(16),
        np.eye(16) + 0.05,
        np.ones((16, 8)),
        np.zeros((16, 8)),
        np.full((16, 8), np.nan),
        np.full((16, 8), np.inf),
    ],
    ids=["orthogonal", "identity", "alike", "zero", "nan", "infinite"],
)
def test_rows_that_say_nothing(rows) -> None:
    assert normal_scores(rows.astype(np.float32)) is None


def test_nothing_to_weigh() -> None:
    assert weigh_heads({}, []) is None


@pytest.mark.parametrize("width", [2, 3, 4, 6])
@pytest.mark.parametrize("order", ["runs", "rows one by one", "runs that begin anywhere"])
def test_sums_that_packings_share_are_those_of_the_matrix_cut_out(width: int, order: str) -> None:
    generator = np.random.default_rng(width)
    scores = generator.standard_normal((48, 48)).astype(np.float32)
    scores += scores.T
    runs = np.arange(48).reshape(-1, width)
    if order == "rows one by one":
        runs = runs.reshape(width, -1).T
    elif order == "runs that begin anywhere":
        runs = (runs[:-1] + 1).reshape(-1, width)
    chosen = generator.permutation(len(runs))
    rows, others = runs[chosen[:4]].ravel(), runs[chosen[4:6]].ravel()
    whole = Whole(scores)
    for shared, cut in (
        (CutProducts(whole, rows, others), Products(scores[np.ix_(rows, others)])),
        (
            CutProducts(whole, others, others, rows[: len(others)]),
            Products(scores[np.ix_(others, others)], scores[np.ix_(rows[: len(others)], rows[: len(others)])]),
        ),
    ):
        assert np.allclose(shared.add_up(width, width), cut.add_up(width, width), rtol=1e-6, atol=1e-5)
        assert np.array_equal(shared.at(np.arange(3), np.arange(3)), cut.at(np.arange(3), np.arange(3)))
