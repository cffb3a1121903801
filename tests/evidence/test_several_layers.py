"""Several layers weighed at once: of each the same is said as of it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from qkvinspect.inspection.evidence import APART, CHANCE, LIKELY, weigh
from qkvinspect.inspection.evidence.alone import _noise, _shares, as_packed, with_heads
from qkvinspect.inspection.evidence.fit import Fit, fit, know, together
from qkvinspect.inspection.evidence.gram import normal_ranks, normal_scores
from qkvinspect.inspection.evidence.groups import explained, parts_of, score_of, standing
from qkvinspect.inspection.evidence.likelihood import Fitted
from qkvinspect.inspection.evidence.odds import share_of
from qkvinspect.inspection.evidence.sample import Sample, at_once
from qkvinspect.inspection.evidence.ways import Fits, HeadsInOrder
from qkvinspect.inspection.verdict import Verdict, Weighed
from tests.batches import batched

ROWS = 48
COUNTS = (2, 3, 4, 6, 8, 12)
Index = Mapping[str, np.ndarray]


def drawn(seed: int, heads: int, share: int = 1, *, strength: float = 1.5, width: int = 64) -> dict[str, np.ndarray]:
    """Q, K, V and the columns of the output projection, of which the rows of a head share three directions."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for pair in ("qk", "ov"):
        kv_heads = heads // share
        common = rng.normal(size=(kv_heads, 3, width)) * strength
        for part, each in zip(pair, (share, 1), strict=True):
            mixed = rng.normal(size=(kv_heads * each, ROWS // heads, 3)) / 3**0.5
            rows = mixed @ np.repeat(common, each, axis=0)
            found[part] = rows.reshape(-1, width) + rng.normal(size=(len(rows) * ROWS // heads, width))
    return found


def sampled(parts: Mapping[str, np.ndarray], name: str = "", packed: Sequence[np.ndarray] | None = None) -> Sample:
    """A layer's sample: Q, K and V one after the other, or in another order of these rows."""
    rows = np.concatenate([parts[part] for part in "qkv"])
    if packed is not None:
        rows = rows[np.argsort(np.concatenate(packed))]
    every = np.concatenate([rows, parts["o"]]).astype(np.float32)
    scores = normal_scores(every)
    assert scores is not None
    lengths = normal_ranks(np.linalg.norm(every, axis=1))
    return Sample(name, scores, np.zeros(len(scores)), len(rows), lengths, 1)


def index(heads: int, share: int = 1) -> Index:
    """Where the heads of each part are, in blocks."""
    wide, narrow = np.arange(ROWS).reshape(heads, -1), np.arange(ROWS // share).reshape(heads // share, -1)
    return {"q": wide, "k": narrow + ROWS, "v": narrow + ROWS + ROWS // share, "o": wide}


def per_head(heads: int) -> Index:
    """The same parts, of which those of a head lie together."""
    rows = np.arange(3 * ROWS).reshape(heads, 3, -1)
    return {part: rows[:, i] for i, part in enumerate("qkv")} | {"o": np.arange(ROWS).reshape(heads, -1)}


def cut(samples: Sequence[Sample], one: Index) -> list[Fit]:
    return [fit(sample, one) for sample in samples]


def fits_of(samples: Sequence[Sample], share: int = 1) -> Fits:
    return {HeadsInOrder(n): cut(samples, index(n, share)) for n in COUNTS if n % share == 0 and n > share}


def noise(seed: int) -> dict[str, np.ndarray]:
    return drawn(seed, 4, strength=0.0)


def nested(seed: int, heads: int, parts: int) -> dict[str, np.ndarray]:
    """Heads that fall into parts, each as much tied to itself as to the others."""
    whole, finer = drawn(seed, heads), drawn(seed + 100, parts, strength=2.0)
    return {part: whole[part] + finer[part] for part in whole}


STACKS = {
    "alike": [drawn(seed, 6) for seed in range(4)],
    "one with other heads": [drawn(0, 6), drawn(1, 4), drawn(2, 6), drawn(3, 6)],
    "one of half the heads and one of twice": [drawn(0, 6), drawn(1, 3), drawn(2, 12), drawn(3, 6)],
    "noise among them": [drawn(0, 6), noise(1), drawn(2, 6), noise(3)],
    "heads of parts among them": [drawn(0, 3), nested(1, 3, 12), nested(2, 2, 12), nested(3, 6, 12)],
    "faint and clear": [drawn(seed, 6, strength=0.2 + seed / 40) for seed in range(1, 13)],
}


@pytest.fixture(params=STACKS, scope="module")
def stack(request: pytest.FixtureRequest) -> tuple[Fits, list[Fits]]:
    """The fits of layers at once, and of each of them alone."""
    samples = [sampled(parts) for parts in STACKS[request.param]]
    return fits_of(at_once(samples)), [fits_of([one]) for one in samples]


def close(one: Fitted, others: Sequence[Fitted]) -> None:
    """Of each layer what is said of it alone."""
    np.testing.assert_allclose(np.broadcast_to(one.value, len(others)), [other.value for other in others], rtol=1e-9)
    assert {(one.expected, one.variance)} == {(other.expected, other.variance) for other in others}


@pytest.mark.parametrize("share", [1, 2, 3])
@pytest.mark.parametrize("heads", [6, 12])
def test_each_layer_is_fitted_as_if_it_were_alone(share: int, heads: int) -> None:
    samples = [sampled(drawn(seed, 6, share)) for seed in range(3)]
    stacked = at_once(samples)
    assert [one.layers for one in stacked] == [3]
    (every,), alone = cut(stacked, index(heads, share)), cut(samples, index(heads, share))
    assert every.usable
    close(every.fitted, [one.fitted for one in alone])
    close(every.gain(), [one.gain() for one in alone])
    order = np.arange(heads // share) % 2
    close(every.gain(order), [one.gain(order) for one in alone])
    for half in (0, 1):
        close(every.gains_of_halves()[half], [one.gains_of_halves()[half] for one in alone])
    assert score_of([every.gain()]) == pytest.approx(score_of([one.gain() for one in alone]), rel=1e-9)
    for i, one in enumerate(alone):
        assert every.of_layer(i).gain().value == pytest.approx(one.gain().value, rel=1e-9)
        assert every.of_layer(i).fitted.value == pytest.approx(one.fitted.value, rel=1e-9)
    if share == 1:
        orders = np.array([order, order[::-1], np.arange(heads) // (heads // 2)])
        np.testing.assert_allclose(alone[0].gains(orders), [alone[0].gain(one).score for one in orders])
        np.testing.assert_allclose(every.gains(orders), [one.gains(orders) for one in alone], rtol=1e-9, atol=1e-7)
        close(every.parted(2), [one.parted(2) for one in alone])


def of_other_widths(heads: int) -> Index:
    """As many heads of each part, V's four times as wide as Q's: what is counted has the same shape, not the sizes."""
    ends = (0, ROWS // 2, ROWS, 3 * ROWS)
    return {part: np.arange(*ends[i : i + 2]).reshape(heads, -1) for i, part in enumerate("qkv")}


def without_out(one: Index) -> Index:
    return {part: one[part] for part in "qkv"}


@pytest.mark.parametrize("layers", [1, 3])
def test_hypotheses_worked_out_together_are_worth_what_each_is_alone(layers: int) -> None:
    (sample,) = at_once([sampled(drawn(seed, 6)) for seed in range(layers)])
    blocks, mixed = without_out(index(6)), without_out(per_head(6))
    indices = [of_other_widths(6), blocks, mixed, index(12), of_other_widths(12), per_head(12), index(3)]
    worked_out, alone = ([fit(sample, one) for one in indices] for _ in range(2))
    know(worked_out)
    assert sum("fitted" in vars(one) for one in worked_out) == 4  # six heads and twelve of one width, in two orders
    for one, own in zip(worked_out, alone, strict=True):
        assert one.usable is own.usable
        for said, expected in ((one.fitted, own.fitted), (one.gain(), own.gain())):
            np.testing.assert_allclose(said.value, expected.value, rtol=1e-9)
            assert np.shape(said.value) == (() if layers == 1 else (layers,))
            assert (said.expected, said.variance) == (expected.expected, expected.variance)


@pytest.mark.parametrize("share", [1, 2, 3])
def test_all_layers_under_one_law_are_the_same_however_they_were_put_together(share: int) -> None:
    samples = [sampled(drawn(seed, 6, share)) for seed in range(5)]
    alone = together(cut(samples, index(6, share)))
    assert alone is not None
    for stacked in (at_once(samples), [*at_once(samples[:2]), samples[2], *at_once(samples[3:])]):
        every = together(cut(stacked, index(6, share)))
        assert every is not None
        assert every.layers == 1
        assert every.fitted.value == pytest.approx(alone.fitted.value, rel=1e-9)
        assert every.fitted.expected == pytest.approx(alone.fitted.expected, rel=1e-9)
        assert every.gain().value == pytest.approx(alone.gain().value, rel=1e-9)
        assert every.gain().variance == pytest.approx(alone.gain().variance, rel=1e-9)


def test_layers_of_another_form_are_not_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, same, shared = sampled(drawn(0, 6)), sampled(drawn(1, 6)), sampled(drawn(2, 6, 2))
    assert [found.layers for found in at_once([one, same, shared, shared, one])] == [2, 2, 1]
    monkeypatch.setattr("qkvinspect.inspection.evidence.sample._ROOM", 2 * one.scores.size)
    assert [found.layers for found in at_once([one] * 5)] == [2, 2, 1]


def is_clear(own: Verdict) -> bool:
    """Far above noise, and with no multiple near it, of whose heads groups could pass for these."""
    best = own.best
    finer = [one.score for one in own.weighed if one.num_heads > best.num_heads and one.num_heads % best.num_heads == 0]
    return best.score > 3 * own.noise and max(finer, default=0.0) < 0.3 * best.score


@batched("said", [3, 4, 6, 12])
def test_the_heads_of_each_layer_are_those_that_it_has_alone(stack: tuple[Fits, list[Fits]], said: int) -> None:
    """None is claimed that the layer alone does not have, and of clear ones all are."""
    fits, each = stack
    best = Weighed("", said, 1.0)
    found = with_heads(fits, best, APART).tolist()
    for one, claimed in zip(each, found, strict=True):
        own = weigh._heads(one, ("",))
        sure = own.confidence > APART and own.parted is None and own.best.num_heads == said
        assert sure or not claimed
        assert claimed or not (sure and is_clear(own))
    for chance in (CHANCE, LIKELY):
        alone = [with_heads(one, best, APART, chance).tolist() for one in each]
        assert [[one] for one in with_heads(fits, best, APART, chance).tolist()] == alone


def test_layers_of_other_heads_and_noise_are_not_said_to_have_those_of_their_stack() -> None:
    parts = [drawn(0, 6), drawn(1, 4), noise(2), drawn(3, 6), drawn(4, 12), drawn(5, 3)]
    fits = fits_of(at_once([sampled(one) for one in parts]))
    assert with_heads(fits, Weighed("", 6, 1.0), APART).tolist() == [True, False, False, True, False, False]
    assert with_heads(fits, Weighed("", 4, 1.0), APART).tolist() == [False, True, False, False, False, False]


def test_the_odds_of_each_layer_are_those_that_it_has_alone() -> None:
    rng = np.random.default_rng(0)
    top, *others = rng.normal(size=(4, 200)) * 10
    expected = [share_of(one, rest) for one, *rest in zip(top, *others, strict=True)]
    np.testing.assert_allclose(_shares(top, others), expected)
    fits = fits_of([*at_once([sampled(drawn(seed, 6)) for seed in range(3)]), sampled(drawn(3, 6))])
    np.testing.assert_allclose(_noise(fits, CHANCE), [weigh._noise(weigh._only(fits, i)) for i in range(4)])


def test_nothing_is_said_of_layers_that_noise_may_look_like() -> None:
    """The rarer it must be, the fewer are left, however sure these heads are beside others."""
    fits = fits_of(at_once([sampled(drawn(seed, 6, strength=0.25 + seed / 100)) for seed in range(20)]))
    gains = np.asarray(fits[HeadsInOrder(6)][0].gain().score)
    claimed = [with_heads(fits, Weighed("", 6, 1.0), APART, chance) for chance in (LIKELY, CHANCE, 1e-12)]
    for found, chance in zip(claimed, (LIKELY, CHANCE, 1e-12), strict=True):
        assert (gains[found] > _noise(fits, chance)[found]).all()
    assert claimed[0].sum() > claimed[1].sum() > claimed[2].sum() > 0


PACKINGS = {"in blocks": index, "per head": per_head}


def packed(parts: Mapping[str, np.ndarray], how: str, heads: int) -> Sample:
    return sampled(parts, packed=[PACKINGS[how](heads)[part].ravel() for part in "qkv"])


def packings_of(samples: Sequence[Sample]) -> dict[str, Fits]:
    some = (2, 3, 4, 6, 12)
    return {label: {HeadsInOrder(n): cut(samples, of(n)) for n in some} for label, of in PACKINGS.items()}


LAYERS = [("in blocks", drawn(0, 6)), ("per head", drawn(1, 6)), ("in blocks", noise(2)), ("in blocks", drawn(3, 6)),
          ("in blocks", drawn(4, 4)), ("per head", drawn(5, 3)),
          *(("in blocks", drawn(10 + i, 6, strength=i / 8)) for i in range(1, 6)),
          *(("in blocks", drawn(20 + i, 6, strength=i / 40)) for i in range(20))]  # fmt: skip


@pytest.mark.parametrize("said", PACKINGS)
def test_the_packing_of_each_layer_is_the_one_that_it_has_alone(said: str) -> None:
    samples = [packed(parts, how, 6) for how, parts in LAYERS]
    fits = packings_of(at_once(samples))
    own = [
        weigh._packings(((label, weigh._only(of, i)) for label, of in fits.items()), (str(i),))
        for i in range(len(samples))
    ]
    for sure in (0.0, 0.99, APART):
        found = as_packed(fits, Weighed(said, 6, 1.0), sure).tolist()
        assert found == [one.best.label == said and (not sure or one.confidence > sure) for one in own]
    assert found[:3] == [said == "in blocks", said == "per head", False]


def test_packings_of_the_same_rows_are_no_rivals() -> None:
    """As where another name means the same packing."""
    fits = packings_of(at_once([packed(drawn(seed, 6), "per head", 6) for seed in range(3)]))
    fits["under another name"] = fits["per head"]
    assert as_packed(fits, Weighed("per head", 6, 1.0), APART).all()
    assert not as_packed(fits, Weighed("in blocks", 6, 1.0)).any()


@batched("best", [2, 3, 4, 6])
def test_heads_stand_where_neither_groups_nor_parts_explain_them(stack: tuple[Fits, list[Fits]], best: int) -> None:
    """As of each layer alone where these heads are the likeliest."""
    every = {one.number: of for one, of in stack[0].items()}
    found = standing(best, {n: np.asarray(of[0].gain().score) for n, of in every.items()}, every).tolist()
    for stands, fits in zip(found, stack[1], strict=True):
        own = {one.number: of for one, of in fits.items()}
        scores = {n: float(of[0].gain().score) for n, of in own.items()}
        top = scores[best]
        likeliest = {best: top} | {n: min(score, top) for n, score in scores.items() if n != best}
        alone = parts_of(best, top, own) is None and best not in explained(likeliest, own)
        finer = max(score for n, score in scores.items() if n > best and n % best == 0)
        assert alone or not stands or top <= 0  # where it is not clear, False
        assert stands or not alone or finer > 0.3 * top
