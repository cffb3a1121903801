"""Small samples that are looked at first: they say what the long way says, and nothing where they do not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, Report, asking, each_alone, inspect, weighing
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.match import Asked, find_attentions
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.split import unsplit
from qkvinspect.inspection.verdict import Evidence, Verdict
from qkvinspect.layouts import LAYOUTS, Layout
from qkvinspect.layouts.packing import Geometry, Groups, Packing, split_rows
from qkvinspect.weights.encodings import weights_of

Parts = dict[str, np.ndarray]
INPUTS = 96


def layer(seed: int, heads: int, width: int, *, tied: bool = True) -> Parts:
    """Q, K and V, and the output projection's columns: rows of a head share three directions.

    Args:
        tied: whether rows of Q are as alike as those of K, and those of V as the output's: training leaves them so.
    """
    rng = np.random.default_rng(seed)
    found: Parts = {}
    for pair in ("qk", "vo"):
        mixed = rng.normal(size=(heads, width, 3)) / 2
        for part in pair:
            own = mixed if tied else rng.normal(size=mixed.shape) / 2
            rows = own @ rng.normal(size=(heads, 3, INPUTS)) + rng.normal(size=(heads, width, INPUTS)) / 2
            found[part] = rows.reshape(-1, INPUTS).astype(np.float32)
    return found


def padded(parts: Parts, heads: int, width: int) -> Parts:
    """Each head with a few more rows that are 0."""
    more = ((0, 0), (0, width - len(parts["q"]) // heads), (0, 0))
    return {part: np.pad(rows.reshape(heads, -1, INPUTS), more).reshape(-1, INPUTS) for part, rows in parts.items()}


def more(parts: Parts, rows: int) -> Parts:
    """With heads that are 0 after the others."""
    return {part: np.pad(own, ((0, rows - len(own)), (0, 0))) for part, own in parts.items()}


Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Stores layers apart, or in one tensor a layer, under names that do not tell the heads."""

    def stored(layers: Sequence[Parts], heads: int = 0, groups: Groups | None = None) -> Path:
        tensors: Parts = {}
        for number, parts in enumerate(layers):
            name, count = f"layers.{number}.self_attn", len(parts["q"])
            if groups is None:
                tensors |= {f"{name}.{part}_proj.weight": parts[part] for part in "qkv"}
                tensors[f"{name}.o_proj.weight"] = np.ascontiguousarray(parts["o"].T)
                continue
            rows = split_rows(Packing(("q", "k", "v"), groups), Geometry(heads, heads, count // heads), 3 * count)
            fused = np.zeros((3 * count, INPUTS), np.float32)
            for part, runs in rows.items():
                fused[[row for run in runs for row in run]] = parts[part]
            tensors |= {f"{name}.in_proj_weight": fused, f"{name}.out_proj.weight": np.ascontiguousarray(parts["o"].T)}
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.safetensors"
        save_file(tensors, path)
        return path

    return stored


def asked(path: Path) -> Report:
    with open_checkpoint(path) as checkpoint:
        return inspect(checkpoint, Options(norms=False, evidence="wanted"))


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Hypotheses]]:
    with ExitStack() as files:

        def read(path: Path) -> Hypotheses:
            names = Names(weights_of(files.enter_context(open_checkpoint(path))))
            matches = find_attentions(names, LAYOUTS, (), Asked()).matches
            return Hypotheses(matches, unsplit(matches[0]), names)

        yield read


Opened = Callable[[Path], Hypotheses]


def glimpse(of: Hypotheses) -> Evidence | None:
    return asking.glimpsed(of, of.matches[0].candidates[0].layout)


def told(report: Report) -> list[object]:
    return [(one.heads, one.layout and one.layout.id) for one in report.attentions] + [
        (finding.code, finding.layer) for finding in report.findings
    ]


@pytest.mark.parametrize(
    ("heads", "width", "groups", "strides"),
    [
        (8, 16, None, (2, 1)),
        (4, 32, None, (2, 1)),
        pytest.param(16, 12, None, (2, 1), marks=pytest.mark.gate),
        (16, 32, "one", (8, 2)),
    ],
)
def test_a_glimpse_says_of_clear_heads_what_the_long_way_says(
    heads: int,
    width: int,
    groups: Groups | None,
    strides: tuple[int, int],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = store([layer(seed, heads, width) for seed in range(3)], heads, groups)
    glimpsed = asked(path)
    monkeypatch.setattr(weighing, "glimpsed", lambda *_: None)
    at_length = asked(path)
    assert (stride(glimpsed), stride(at_length)) == strides
    assert told(glimpsed) == told(at_length)
    assert [one.heads and one.heads.num_heads for one in glimpsed.attentions] == [heads] * 3


def stride(report: Report) -> int:
    """One row in how many was weighed."""
    (found,) = {one.evidence.heads.stride for one in report.attentions if one.evidence and one.evidence.heads}
    return found


@pytest.mark.parametrize(
    ("layers", "heads", "claimed"),
    [
        ([padded(layer(seed, 8, 12), 8, 16) for seed in range(2)], 8, False),
        pytest.param([more(layer(seed, 8, 16), 12 * 16) for seed in range(2)], 12, False, marks=pytest.mark.gate),
        ([padded(layer(seed, 12, 12), 12, 16) for seed in range(2)], 12, False),
        ([more(layer(seed, 6, 32), 8 * 32) for seed in range(2)], 8, True),
    ],
    ids=["12 rows in 16", "8 heads in 12", "12 heads of 12 rows in 16", "6 heads in 8"],
)
def test_of_padded_heads_nothing_wrong_is_claimed(
    layers: Sequence[Parts], heads: int, claimed: bool, store: Store, opened: Opened
) -> None:
    path = store(layers)
    said = glimpse(opened(path))
    assert (said and said.heads and said.heads.best.num_heads) == (heads if claimed else None)
    assert {one.heads.num_heads for one in asked(path).attentions if one.heads} <= {heads}


def test_nothing_is_claimed_where_a_sample_does_not_show_all_numbers_of_heads(store: Store, opened: Opened) -> None:
    """Of heads of three rows every other row is sampled, so that 32 of six rows would seem the best."""
    of = opened(store([layer(seed, 64, 3) for seed in range(2)]))
    own = of.variants(lambda match: match.candidates[0].layout, of.counts())
    assert [n for n in own if not asking.seen(own, n, 2)] == [3, 6, 12, 24, 32, 48, 64, 96]
    assert glimpse(of) is None


@pytest.mark.parametrize(("heads", "expected"), [(2, True), (4, True), (8, True), (16, True), (32, False)])
def test_much_larger_multiples_need_not_be_shown(heads: int, expected: bool, store: Store, opened: Opened) -> None:
    """Every fourth of 128 rows does not show 64 heads of two rows, nor 32 of four."""
    of = opened(store([layer(0, 8, 16)]))
    own = of.variants(lambda match: match.candidates[0].layout, of.counts())
    assert sorted(own) == [2, 4, 8, 16, 32, 64]
    assert asking.seen(own, heads, 2) == expected


def test_where_two_packings_tie_nothing_is_claimed(store: Store, opened: Opened) -> None:
    """Q is no more like K than like V: any order of the three explains these weights as well."""
    path = store([layer(seed, 8, 16, tied=False) for seed in range(3)])
    assert glimpse(opened(path)) is None
    path = store([layer(seed, 8, 16) for seed in range(3)])
    assert glimpse(opened(path)) is not None


def test_nothing_is_claimed_of_another_packing_than_the_declared(store: Store, opened: Opened) -> None:
    assert glimpse(opened(store([layer(seed, 16, 32) for seed in range(3)], 16, "heads"))) is None


def test_a_packing_that_no_small_sample_shows_is_not_refuted(store: Store, opened: Opened) -> None:
    """All rows of 384 may lie row by row, of which every other one has no heads; of 1,536 no sample shows that."""
    assert glimpse(opened(store([layer(seed, 8, 16) for seed in range(3)], 8, "one"))) is None


def test_all_rows_that_are_weighed_are_no_glimpse(store: Store, opened: Opened) -> None:
    assert glimpse(opened(store([layer(seed, 8, 12) for seed in range(3)]))) is None


@pytest.mark.parametrize("noise", [1, 3])
def test_noise_is_no_head(noise: int, store: Store, opened: Opened) -> None:
    """Where one layer of three is noise, the others tell; where all are, none does."""
    layers = [layer(seed, 8, 16) for seed in range(3)]
    for seed in range(noise):
        drawn = np.random.default_rng(seed).normal(size=(4, 128, INPUTS)).astype(np.float32)
        layers[seed] = dict(zip("qkvo", drawn, strict=True))
    said = glimpse(opened(store(layers)))
    assert (said is None) == (noise == 3)


@pytest.mark.parametrize("behind", [3000.0, 4000.0])
def test_every_other_packing_must_be_far_behind(
    behind: float, store: Store, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one of these is by 3,326."""
    monkeypatch.setattr(asking, "_REFUTED", behind)
    said = glimpse(opened(store([layer(seed, 8, 16) for seed in range(3)])))
    assert (said is None) == (behind == 4000.0)


@pytest.mark.parametrize("other", ["heads", "packing"])
def test_nothing_is_claimed_where_a_layer_contradicts_the_others(other: str, store: Store, opened: Opened) -> None:
    layers = [layer(seed, 8, 16) for seed in range(4)]
    last = layers[-1]
    layers[-1] = layer(3, 4, 32) if other == "heads" else last | {"q": last["v"], "v": last["q"]}
    assert glimpse(opened(store(layers))) is None


def swapped(parts: Parts) -> Parts:
    return parts | {"q": parts["v"], "v": parts["q"]}


ODD = {
    "half as many heads": (layer(23, 4, 128), False),
    "twice as many": (layer(23, 16, 32), False),
    "none in Q and K": (layer(23, 8, 64) | {"q": layer(5, 512, 1)["q"], "k": layer(6, 512, 1)["k"]}, False),
    "as many, Q and V swapped": (swapped(layer(23, 8, 64)), True),
}
"""A layer among others of 8 heads, and whether its weights have these."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.gate
def test_one_layer_of_many_is_weighed_by_its_own_rows(odd: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few heads of Q and K are sure of the others alone; what is then said is what larger samples of each say."""
    one, alike = ODD[odd]
    path = store([*(layer(seed, 8, 64) for seed in range(3)), one, layer(7, 8, 64)])
    left: dict[int, int] = {}
    real = each_alone._not_sure

    def noted(layout: Layout, said: Verdict, layers: Sequence[Hypotheses], share: int, *how: Any) -> list[Hypotheses]:
        found = real(layout, said, layers, share, *how)
        left.setdefault(share, len(found))
        return found

    monkeypatch.setattr(each_alone, "_not_sure", noted)
    briefly = asked(path)
    assert left.get(4, 0) == (not alike)
    monkeypatch.setattr(each_alone, "_GLANCES", ())
    assert told(asked(path)) == told(briefly)
    assert {heads.num_heads for one in briefly.attentions if (heads := one.heads)} >= {8}


SQUARE, FUSED = (8, 12, None), (8, 16, "one")
"""Heads, their width, and how they are stored: Q, K and V as square matrices apart, or in one tensor."""


def turned(parts: Parts) -> Parts:
    return {part: np.ascontiguousarray(rows.T) for part, rows in parts.items()}


def without_heads(seed: int, rows: int) -> Parts:
    drawn = np.random.default_rng(seed).normal(size=(4, rows, INPUTS)).astype(np.float32)
    return dict(zip("qkvo", drawn, strict=True))


def each(path: Path, heads: int) -> Report:
    with open_checkpoint(path) as checkpoint:
        return inspect(checkpoint, Options(heads=str(heads), norms=False, evidence="each"))


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many layers are weighed each time: from small samples, at length, and by all rules, as a stack is."""
    found: dict[str, list[int]] = {"briefly": [], "at length": [], "by all rules": []}

    def noting(how: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(of: Hypotheses, *rest: Any, **options: Any) -> Any:
            found[how].append(len(of.matches))
            return real(of, *rest, **options)

        return noted

    monkeypatch.setattr(each_alone, "confirmed", noting("briefly", each_alone.confirmed))
    monkeypatch.setattr(each_alone, "_at_length", noting("at length", each_alone._at_length))
    monkeypatch.setattr(weighing, "weigh", noting("by all rules", weighing.weigh))
    return found


def test_known_heads_of_many_layers_are_looked_at_together(store: Store, weighed: dict[str, list[int]]) -> None:
    heads, width, groups = SQUARE
    report = each(store([layer(seed, heads, width) for seed in range(40)], heads, groups), heads)
    assert not report.findings
    assert weighed["briefly"] == [32, 8]
    assert not weighed["at length"]
    assert min(weighed["by all rules"]) > 1


@pytest.mark.parametrize(("form", "at_once"), [(SQUARE, [7, 5]), (FUSED, [4, 4, 4])])
def test_layers_without_heads_are_weighed_once_at_length(
    form: Any, at_once: list[int], store: Store, weighed: dict[str, list[int]]
) -> None:
    """As many at once as there is room for."""
    heads, width, groups = form
    layers = [without_heads(seed, heads * width) for seed in range(12)]
    report = each(store(layers, heads, groups), heads)
    assert not report.findings
    assert weighed["briefly"] == [12]
    assert weighed["at length"] == at_once
    assert 1 not in weighed["by all rules"]


@pytest.mark.parametrize("others", ["of the same heads", "without heads"])
@pytest.mark.parametrize(
    ("form", "wrong", "code"),
    [(SQUARE, turned, "orientation-against-weights"), (FUSED, swapped, "packing-against-weights")],
)
def test_one_wrong_layer_among_many_is_told(
    form: Any, wrong: Callable[[Parts], Parts], code: str, others: str, store: Store
) -> None:
    """Where the others have no heads, the stack says nothing, and only its own weights tell."""
    heads, width, groups = form
    layers = [layer(seed, heads, width) for seed in range(6)]
    if others == "without heads":
        layers = [without_heads(seed, heads * width) for seed in range(6)]
    layers[4] = wrong(layer(4, heads, width))
    report = each(store(layers, heads, groups), heads)
    assert [(finding.code, finding.layer) for finding in report.findings] == [(code, "layers.4.self_attn")]
