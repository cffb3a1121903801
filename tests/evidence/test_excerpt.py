"""A few heads of Q and K: which rows these are, that they are read and no others, and when they tell enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import NormalDist
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, alternatives, inspect
from qkvinspect.inspection.evidence import Excerpt, odds, sample, sampled_rows, samples_of, stride_for
from qkvinspect.inspection.evidence.gram import normal_scores
from qkvinspect.inspection.evidence.ways import HeadsInOrder, Variants, every_way
from qkvinspect.inspection.hypotheses import _in_rows_of
from qkvinspect.inspection.report import Attention
from qkvinspect.weights.weight import Weight, plain
from tests.weights.test_reading import stored

ROWS = INPUTS = 96


class Layers:
    """Makes a file of one layer, Q, K and V in one tensor or apart, and gives it divided into so many heads."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder, self._files = folder, files
        drawn = torch.Generator().manual_seed(0)
        self.parts = {part: torch.randn(ROWS, INPUTS, generator=drawn) for part in "qkv"}
        self.bias = torch.randn(3 * ROWS, generator=drawn)

    def made(self, heads: str, *, fused: bool = True, kv_rows: int = ROWS) -> Attention:
        path = self._folder / f"{len([*self._folder.iterdir()])}.safetensors"
        if fused:
            tensors = {"in_proj_weight": torch.cat([*self.parts.values()]), "in_proj_bias": self.bias}
        else:
            rows = {"q": ROWS, "k": kv_rows, "v": kv_rows}
            tensors = {f"{part}_proj.weight": value[: rows[part]].clone() for part, value in self.parts.items()}
        save_file({f"layers.0.self_attn.{name}": value for name, value in tensors.items()}, path)
        checkpoint = self._files.enter_context(open_checkpoint(path))
        (found,) = inspect(checkpoint, Options(heads=(heads,), norms=False, evidence="none")).attentions
        return found

    def variants(self, counts: Sequence[int], *, fused: bool = True) -> Variants:
        return {count: self.made(str(count), fused=fused) for count in counts}


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    with ExitStack() as files:
        yield Layers(tmp_path, files)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_runs_of_what_a_stride_leaves(step: int, orientation: str) -> None:
    value = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))
    weight = plain(stored(value if orientation == "out_in" else value.T.contiguous()))
    runs = [range(1, 3), range(5, 8)]
    found = sampled_rows.read(weight, orientation, step, runs=runs)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, value[::step][[1, 2, 5, 6, 7]].numpy())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("share", "stride"), [(1, 1), (2, 1), (4, 2)])
def test_it_holds_the_first_heads_of_q_and_k_with_their_biases(
    share: int, stride: int, fused: bool, layers: Layers
) -> None:
    layer = layers.made("8", fused=fused)
    (found,) = samples_of([layer], ROWS * 2 // share // stride, None, Excerpt("qk", share))
    assert found.stride == stride
    rows = [torch.arange(0, ROWS // share, stride) + start for start in (0, ROWS)]
    values = torch.cat([*layers.parts.values()])[torch.cat(rows)]
    bias = layers.bias[torch.cat(rows)] if fused else torch.zeros(len(values))
    expected = normal_scores(torch.cat([values, bias[:, None]], 1).numpy())
    np.testing.assert_array_equal(found.scores, expected)
    (fits,) = every_way({8: layer}, [found]).values()
    assert [(one.kv_heads, len(one.terms)) for one in fits] == [(8 // share, 2)]


def test_nothing_else_is_read(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layers.made("8", fused=False)
    read: list[str] = []
    real = sampled_rows.read

    def noted(weight: Weight, *asked: object, **how: object) -> object:
        read.append(weight.name.split(".")[-2])
        return real(weight, *asked, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(sample, "read", noted)
    assert samples_of([layer], 64, None, Excerpt("qk", 2))
    assert read == ["q_proj", "k_proj"]


@pytest.mark.parametrize(
    ("heads", "share", "tells"),
    [
        (8, 4, True),  # 4 and 2 heads would be one in these rows, which is none
        (8, 8, False),  # one head alone is none
        (12, 2, True),  # 3 heads are groups of 6 and 12, of which 6 would be likelier
        (12, 4, False),  # 6 heads have no whole number of heads in these rows
        (6, 2, False),  # nor have 3, and nothing between 3 and 6 would stand out for them
        (6, 1, True),
    ],
)
def test_where_it_would_not_show_another_number_of_heads_it_does_not_tell(
    heads: int, share: int, tells: bool, layers: Layers
) -> None:
    counts = {8: (2, 4, 8, 16, 32), 12: (3, 4, 6, 8, 12, 24), 6: (2, 3, 6, 12)}[heads]
    assert Excerpt("qk", share).tells(layers.variants(counts), heads, 1) == tells


def test_heads_that_share_kv_heads_are_not_cut_short(layers: Layers) -> None:
    own = {8: layers.made("8/4", fused=False, kv_rows=ROWS // 2)}
    assert Excerpt("qk").tells(own, 8, 1)
    assert not Excerpt("qk", 2).tells(own, 8, 1)
    assert samples_of([own[8]], 1280, None, Excerpt("qk", 2)) == []


def test_heads_by_turns_lie_in_other_rows_for_each_number(layers: Layers) -> None:
    own = layers.variants((4, 8))
    assert own[8].layout is not None
    by_turns = alternatives.packings(own[8].layout)["q, k, v per head"]
    turned = {count: one for count, cut in own.items() if (one := _in_rows_of(cut, by_turns)) is not None}
    rows = Excerpt("qk", 4).rows(turned[8], 1)
    assert rows is not None
    assert rows.tolist() == [*range(24), *range(36, 60)]
    assert Excerpt("qk", 4).tells({8: turned[8]}, 8, 1)
    assert not Excerpt("qk", 2).tells(turned, 8, 1)
    (found,) = samples_of([turned[8]], 1280, None, Excerpt("qk", 4))
    assert found.places is not None
    assert np.flatnonzero(found.places >= 0).tolist() == rows.tolist()
    assert every_way(turned, [found]).keys() == {HeadsInOrder(8)}


def test_its_stride_is_that_of_its_own_rows(layers: Layers) -> None:
    layer = layers.made("8")
    assert [stride_for(layer, 48, None, one) for one in (None, Excerpt("qk"), Excerpt("qk", 4))] == [8, 4, 1]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("chance", [1e-12, 1e-5, 0.025, 0.3, 0.5, 0.975, 1 - 1e-6])
def test_quantiles_with_and_without_what_the_library_computes_them_with(
    chance: float, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr(odds, "import_module", ModuleType)
    assert odds.normal_quantile(chance) == pytest.approx(NormalDist().inv_cdf(chance), rel=1e-12, abs=1e-15)
