"""What is read of a layer to be weighed, what follows from it, and when an answer is withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.evidence import WORK, layers_within, rotary, unless_apart, weigh
from qkvinspect.inspection.evidence.fit import fit
from qkvinspect.inspection.evidence.gram import normal_scores
from qkvinspect.inspection.evidence.index import index_of, source_of
from qkvinspect.inspection.evidence.profile import profile
from qkvinspect.inspection.evidence.rotary import Pairing, pairings
from qkvinspect.inspection.evidence.rotary_order import _best, weigh_orders
from qkvinspect.inspection.evidence.sample import Sample, take
from qkvinspect.inspection.evidence.ways import HeadsInOrder
from qkvinspect.inspection.notices import about_evidence
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.verdict import Evidence, Verdict, Weighed

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(0)


Opened = Callable[..., Attention]


@pytest.fixture
def attention(tmp_path: Path) -> Iterator[Opened]:
    """Makes a file of one layer, and gives the layer; two underscores in a keyword are a dot."""
    with ExitStack() as open_files:

        def made(heads: str, **tensors: torch.Tensor) -> Attention:
            file = tmp_path / f"{len([*tmp_path.iterdir()])}.safetensors"
            state = {f"layers.0.{name.replace('__', '.')}": value.contiguous() for name, value in tensors.items()}
            save_file(state, file)
            checkpoint = open_files.enter_context(open_checkpoint(str(file)))
            (found,) = inspect(checkpoint, Options(heads=(heads,), norms=False, evidence="never")).attentions
            return found

        yield made


def sample_of(attention: Attention, stride: int = 1) -> Sample | None:
    source = source_of(attention)
    assert source is not None
    return take(source, stride)


def projections(width: int, inputs: int, seed: int = 0) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    names = (f"self_attn__{part}_proj__weight" for part in "qkv")
    return {name: torch.randn(width, inputs, generator=made) for name in names}


def test_columns_are_read_as_the_rows_of_the_transposed_matrix(attention: Opened) -> None:
    made = torch.Generator().manual_seed(0)
    fused, out = torch.randn(96, 32, generator=made), torch.randn(32, 32, generator=made)
    fused_bias = torch.randn(96, generator=made)
    rows = {"self_attn__in_proj_weight": fused, "self_attn__in_proj_bias": fused_bias}
    linear = attention("4", **rows, self_attn__out_proj__weight=out)
    columns = {"attn__c_attn__weight": fused.T, "attn__c_attn__bias": fused_bias, "attn__c_proj__weight": out.T}
    turned = attention("4", **columns)
    for stride in (1, 2):
        found = [sample_of(one, stride) for one in (linear, turned)]
        assert found[0] is not None
        assert found[1] is not None
        np.testing.assert_array_equal(found[0].scores, found[1].scores)
        np.testing.assert_array_equal(found[0].lengths, found[1].lengths)
        assert found[0].columns == found[1].columns == 96 // stride


def test_rows_of_several_widths_are_compared_within_their_own(attention: Opened) -> None:
    made = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(32, 48, generator=made) for name in projections(32, 48)}
    tensors["self_attn__q_proj__weight"] = torch.randn(32, 64, generator=made)
    found = sample_of(attention("4", **tensors))
    assert found is not None
    q, k, v = (np.pad(value.numpy(), ((0, 0), (0, 1))) for value in (tensors[name] for name in projections(32, 48)))
    assert found.scores.shape == (96, 96)
    np.testing.assert_array_equal(found.scores[:32, :32], normal_scores(q))
    np.testing.assert_array_equal(found.scores[32:, 32:], normal_scores(np.concatenate([k, v])))
    assert not found.scores[:32, 32:].any()


def test_an_orthogonal_matrix_says_nothing_and_a_random_one_may(attention: Opened) -> None:
    tensors = projections(32, 64)
    assert sample_of(attention("4", **tensors)) is not None
    torch.nn.init.orthogonal_(tensors["self_attn__k_proj__weight"])
    assert sample_of(attention("4", **tensors)) is None


@pytest.mark.parametrize(("stride", "rows"), [(1, 8), (2, 4), (4, 2), (8, None)])
def test_two_rows_of_a_head_are_enough(stride: int, rows: int | None, attention: Opened) -> None:
    index = index_of(attention("4", **projections(32, 64)), stride)
    assert (None if index is None else index["v"].shape) == (None if rows is None else (4, rows))
    if index is not None and rows is not None:
        assert index["v"].ravel().tolist() == list(range(64 // stride, 96 // stride))


def symmetric(rng: Rng, size: int) -> np.ndarray:
    values = rng.normal(size=(size, size))
    values = (values + values.T) / 2**0.5
    np.fill_diagonal(values, 0)
    return values


def sampled(rng: Rng, scores: np.ndarray, columns: int | None = None) -> Sample:
    return Sample("", scores, np.zeros(len(scores)), columns, rng.normal(size=len(scores)), 1)


@pytest.mark.parametrize(
    ("width", "expected"),
    [(2, []), (4, [4]), (6, [6]), (8, [8, 4]), (12, [12, 6]), (16, [16, 8, 4]), (64, [64, 32, 16])],
)
def test_a_whole_head_or_its_first_half_or_quarter_may_be_turned(width: int, expected: list[int]) -> None:
    """A pair of pairs at least, of which each row is in one."""
    found = pairings(width)
    assert [*found] == [
        Pairing(turn, None if rows == width else rows) for rows in expected for turn in ("halves", "neighbours")
    ]
    for pairing, (first, second) in found.items():
        assert sorted([*first, *second]) == list(range(pairing.first or width))
        apart = {"halves": (pairing.first or width) // 2, "neighbours": 1}[pairing.turn]
        assert set(second - first) == {apart}


@pytest.mark.parametrize("pairing", pairings(16), ids=lambda pairing: pairing.label)
def test_rows_that_turn_together_are_found(rng: Rng, pairing: Pairing) -> None:
    heads, width = 8, 16
    first, second = pairings(width)[pairing]
    scores = symmetric(rng, 2 * heads * width)
    for q in range(0, heads * width, width):
        k = heads * width + q
        tie = 4 * rng.normal(size=len(first))
        scores[q + first, k + second] += tie
        scores[q + second, k + first] -= tie
    index = {part: np.arange(heads * width).reshape(heads, width) + at * heads * width for at, part in enumerate("qk")}
    found = rotary.score([sampled(rng, scores)], index)
    assert max(found, key=found.__getitem__) == pairing
    assert found[pairing] > rotary.ENOUGH
    assert all(found[one] < found[pairing] - rotary.AHEAD for one in found if one.turn != pairing.turn)


@pytest.mark.parametrize("drawn", ["vo", "o"])
def test_ties_are_drawn_over_three_heads_in_two_dozen_steps(drawn: str, rng: Rng) -> None:
    heads, width = 8, 16
    head = np.arange(heads * width) // width
    ties = 2 * rng.normal(size=(len(head), len(head))) * (head[:, None] == head)
    columns = symmetric(rng, 2 * len(head))  # of a row of V and of its column of the output projection
    columns[: len(head), : len(head)] += ties + ties.T
    columns[len(head) :, len(head) :] += ties + ties.T
    scores = symmetric(rng, 3 * len(head))  # what comes first is Q, which no head is seen in
    scores[len(head) :, len(head) :] = columns
    rows = np.arange(len(head)).reshape(heads, width)
    parts = {"v": rows + len(head), "o": rows}
    found = profile([sampled(rng, scores, 2 * len(head))], {part: parts[part] for part in drawn})
    assert [distance for distance, _ in found] == list(range(1, 3 * width, 2))
    assert min(tie for distance, tie in found if distance < width // 2) > 0.2
    assert max(tie for distance, tie in found if distance > width) < 0.1


def verdict(scores: dict[int, float], confidence: float, *layers: str, parted: int | None = None) -> Verdict:
    weighed = tuple(Weighed("", heads, score) for heads, score in scores.items())
    return Verdict(weighed, layers, 10.0, confidence, confidence > 0.99, parted=parted)


SAID = verdict({8: 100.0, 4: 50.0}, 0.999, "a", "b")


def test_an_answer_is_withdrawn_where_a_layer_alone_contradicts_it() -> None:
    same, other = verdict({8: 50.0}, 0.95, "a"), verdict({4: 50.0, 8: 1.0}, 0.95, "b")
    assert unless_apart(SAID, [same, same]) == SAID
    found = unless_apart(SAID, [same, other])
    assert not found.decided
    assert found.weighed == SAID.weighed
    assert found.apart == (("b", other.best),)
    assert unless_apart(SAID, [same, verdict({4: 50.0, 8: 1.0}, 0.5, "b")]).apart


def test_an_answer_is_withdrawn_where_layers_that_are_not_sure_prefer_another_together() -> None:
    """By eight, which is less than what one of them says."""
    one = verdict({4: 7.0, 8: 2.0}, 0.5, "b")
    assert unless_apart(SAID, [one]) == SAID
    found = unless_apart(SAID, [one, one])
    assert not found.decided
    assert found.apart == (("b", one.best), ("b", one.best))
    assert unless_apart(SAID, [one, one, verdict({8: 10.0, 4: 3.0}, 0.5, "a")]) == SAID


@pytest.mark.parametrize("decided", [False, True])
def test_of_an_answer_that_was_withdrawn_nothing_is_said(decided: bool, attention: Opened) -> None:
    layer = attention("8", **projections(32, 64))
    said = replace(verdict({4: 100.0, 8: 50.0}, 0.9999, layer.layer), decided=decided)
    codes = [finding.code for finding in about_evidence(layer, Evidence(said), "")]
    assert codes == ["heads-against-weights"] * decided


@pytest.mark.parametrize("heads", [("4",), ()])
def test_every_number_that_divides_the_rows_is_weighed(heads: tuple[str, ...], tmp_path: Path) -> None:
    """Whether one is known or none."""
    tensors = {name.replace("__", "."): value for name, value in projections(48, 64).items()}
    save_file({f"layers.0.{name}": value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with open_checkpoint(str(tmp_path / "model.safetensors")) as checkpoint:
        (found,) = inspect(checkpoint, Options(heads=heads, norms=False, evidence="thorough")).attentions
    assert found.evidence is not None
    assert found.evidence.heads is not None
    assert {one.num_heads for one in found.evidence.heads.weighed} == {2, 3, 4, 6, 8, 12, 16, 24}


def test_heads_of_one_row_cannot_be_compared_and_are_left_as_they_are_known(tmp_path: Path) -> None:
    tensors = {name.replace("__", "."): value for name, value in projections(32, 64).items()}
    save_file({f"layers.0.{name}": value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 32, "head_dim": 1}')
    with open_checkpoint(str(tmp_path / "model.safetensors")) as checkpoint:
        report = inspect(checkpoint, Options(norms=False))
    assert [one.heads.num_heads for one in report.attentions if one.heads] == [32]
    assert not report.findings


@pytest.mark.parametrize(("heads", "agrees"), [(4, True), (2, True), (3, False), (8, False), (16, False)])
def test_heads_that_fall_into_parts_speak_for_more_heads(heads: int, agrees: bool) -> None:
    own = verdict({heads: 50.0}, 0.999, "a", parted=64)
    assert (unless_apart(SAID, [own]) == SAID) == agrees


def test_noise_is_that_of_chi_square_over_both_views_of_all_hypotheses(rng: Rng) -> None:
    samples = [sampled(rng, symmetric(rng, 96)) for _ in range(40)]
    fits = {heads: [fit(one, {"q": np.arange(96).reshape(heads, -1)}) for one in samples] for heads in (4, 8, 12)}
    freedom = max(sum(one.gain().variance for one in of) for of in fits.values()) / 2
    expected = stats.chi2.isf(1e-5 / 2 / len(fits), freedom) - freedom
    assert freedom > 60
    assert weigh._noise(fits) == pytest.approx(expected, rel=8e-3)


def test_packings_of_other_rows_are_others_however_near_their_scores(rng: Rng) -> None:
    sample = sampled(rng, symmetric(rng, 48))
    fits = {str(seed): {HeadsInOrder(4): [fit(sample, cut_at_random(seed))]} for seed in range(40)}
    scores = sorted(next(iter(one.values()))[0].fitted.value for one in fits.values())
    assert min(np.diff(scores)) < 0.1
    found = weigh._packings((fits | {"0 again": fits["0"]}).items(), ("a",))
    assert sorted(one.label for one in found.weighed) == sorted(fits)
    assert [(one.label, one.same_rows) for one in found.weighed if one.same_rows] == [("0", "0 again")]


def cut_at_random(seed: int) -> dict[str, np.ndarray]:
    rows = np.random.default_rng(seed).permutation(48).reshape(3, 4, 4)
    return dict(zip("qkv", rows, strict=True))


def test_two_million_similarities_are_computed_for_a_question() -> None:
    """Of 1,024 rows, those of the output projection among them, two layers."""
    assert layers_within([256, 256, 256], WORK) == 2
    assert layers_within([128, 128, 128], WORK) == 8
    assert layers_within([4096], WORK) == 1


def test_one_head_of_one_layer_tells_the_order_of_its_rows_by_their_norms(attention: Opened) -> None:
    tensors = projections(32, 64)
    turns = torch.arange(16).repeat(2) / 16  # in halves, how fast a row turns
    norms = torch.exp(2 * turns - 3 * turns**2)
    for part, order in (("q", torch.arange(32)), ("k", torch.arange(32).reshape(2, 16).T.ravel())):
        name = f"self_attn__{part}_proj__weight"
        tensors[name] = (tensors[name] / tensors[name].norm(dim=1, keepdim=True) * norms[:, None])[order]
    found = weigh_orders([attention("1", **tensors)])
    assert found is not None
    assert (found.q, found.k) == ("halves", "neighbours")
    assert found.decided


@pytest.mark.parametrize(("ahead", "k"), [(3.5, "halves"), (4.5, "with the heads of Q")])
def test_k_alone_permuted_by_the_heads_of_q_must_be_four_ahead(ahead: float, k: str) -> None:
    """That is half of what decides, so that evidence and not this does."""
    norms = {("halves", "halves"): 60.0, ("halves", "with the heads of Q"): 60.0}
    found = _best({("halves", "halves"): 0.0, ("halves", "with the heads of Q"): ahead}, norms)
    assert (found.q, found.k) == ("halves", k)
    assert found.ahead == pytest.approx(0.5)
    both = _best({("neighbours", "neighbours"): 0.0, ("neighbours", "with the heads of Q"): 0.5},
                 {("neighbours", "neighbours"): 60.0, ("neighbours", "with the heads of Q"): 60.0})  # fmt: skip
    assert both.k == "with the heads of Q"


@pytest.mark.parametrize(("confidence", "said"), [(0.9937, []), (0.9995, ["orientation-against-weights"])])
def test_one_layer_of_many_may_look_turned(confidence: float, said: list[str]) -> None:
    """Of 1,500 layers of random numbers the surest looks turned with 99.37 %."""
    attention: Any = SimpleNamespace(layer="layers.682.self_attn")
    evidence: Any = SimpleNamespace(turned=SimpleNamespace(confidence=confidence))
    assert [finding.code for finding in about_evidence(attention, evidence, "")] == said


def packed_by_heads(width: int, heads: int, seed: int) -> dict[str, torch.Tensor]:
    """A layer whose every head has Q, K and V in rows of its own, and ties its rows by an eighth as many directions."""
    random = torch.Generator().manual_seed(seed)
    rows = width // heads

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    def tied() -> list[torch.Tensor]:
        common = drawn(heads, rows, rows // 8) / (rows // 8) ** 0.5
        return [(drawn(heads, rows, width) + common @ drawn(heads, rows // 8, width)) / width**0.5 for _ in "12"]

    (q, k), (v, out) = tied(), tied()
    return {
        "query_key_value.weight": torch.cat([q, k, v], 1).reshape(3 * width, width),
        "dense.weight": out.reshape(width, width).T.contiguous(),
    }


@pytest.mark.parametrize(
    "heads", [(2,), (4,), *(pytest.param(heads, marks=pytest.mark.gate) for heads in [(8, 8), (8, 8, 2)])], ids=str
)
@pytest.mark.parametrize("claimed", [False, True])
def test_heads_are_compared_where_each_number_puts_the_parts_into_other_rows(
    heads: tuple[int, ...], claimed: bool, tmp_path: Path
) -> None:
    """Parts in wrong rows gain much by heads, and are less likely all the same."""
    layers = {f"layers.{i}.attention.": packed_by_heads(128, number, i) for i, number in enumerate(heads)}
    save_file(
        {start + name: value for start, layer in layers.items() for name, value in layer.items()},
        tmp_path / "m.safetensors",
    )
    with open_checkpoint(str(tmp_path / "m.safetensors")) as checkpoint:
        report = inspect(checkpoint, Options(heads=("2",) if claimed else (), evidence="wanted"))
    told = [layer.heads.num_heads if layer.heads else None for layer in report.attentions]
    against = [finding.code for finding in report.findings if finding.severity == "warning"]
    assert (told, len(against)) == (([2] * len(heads), sum(n != 2 for n in heads)) if claimed else ([*heads], 0))
