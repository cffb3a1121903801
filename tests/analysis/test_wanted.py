"""A column that is asked for alone is what it is among all, and nothing else is reckoned or read for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from qkvinspect.analysis import COLUMNS, Column, analyze, column, layer
from qkvinspect.analysis.grid import NORMS, grid, norms
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

HEADS, KV_HEADS, DIM, LAYERS = 6, 2, 4, 3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    torch.manual_seed(0)
    rows = {"q": HEADS * DIM, "k": KV_HEADS * DIM, "v": KV_HEADS * DIM}
    state = {
        f"model.layers.{layer}.self_attn.{part}_proj.weight": torch.randn(count, HEADS * DIM)
        for layer in range(LAYERS)
        for part, count in {**rows, "o": HEADS * DIM}.items()
    }
    state |= {f"model.layers.{layer}.input_layernorm.weight": torch.rand(HEADS * DIM) for layer in range(LAYERS)}
    path = tmp_path_factory.mktemp("wanted") / "model.pt"
    torch.save(state, path)
    with open_checkpoint(path) as checkpoint:
        yield inspect(checkpoint, Options((f"{HEADS}/{KV_HEADS}",)))


@pytest.mark.parametrize("wanted", COLUMNS, ids=lambda wanted: wanted.key)
def test_one_column(wanted: Column, found: Report) -> None:
    every, alone = analyze(found), analyze(found, columns=[wanted])
    for one, other in zip(every, alone, strict=True):
        assert [wanted.of(head) for head in one.heads] == pytest.approx(
            [wanted.of(head) for head in other.heads], rel=1e-12
        )
        assert len(other.heads) == HEADS
        assert other.parts == ()


def test_what_is_not_asked_for_is_not_read(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    of_parts = layer.of_parts
    monkeypatch.setattr(layer, "of_parts", lambda parts: read.extend(part.name for part in parts) or of_parts(parts))
    monkeypatch.setattr(layer, "of_output", None)
    list(analyze(found, columns=[column("qk_norm"), column("v_norm")]))
    assert Counter(read) == dict.fromkeys("qkv", LAYERS)  # layers are read at the same time


@pytest.mark.parametrize("key", NORMS)
def test_norms_need_no_analysis(key: str, found: Report) -> None:
    measured = norms(found, key, by_query=True)
    reckoned = grid(column(key), analyze(found))
    assert measured.layers == reckoned.layers
    for row, other in zip(measured.rows, reckoned.rows, strict=True):
        assert row == pytest.approx(other, rel=1e-6)


def test_layers_at_the_same_time(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    alone = list(analyze(found))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert list(analyze(found)) == alone
