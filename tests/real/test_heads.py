"""What sample_checkpoints/HEADS.md says of trained checkpoints is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkvinspect.analysis import LayerFigures
from tests.evidence import cases
from tests.real import wheels
from tests.real.heads import figures

PAGE = Path(__file__).parents[2] / "sample_checkpoints" / "HEADS.md"


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[LayerFigures, ...]]:
    with wheels.skipped_offline():
        return {one.label.partition("/")[2]: figures(one) for one in cases.others()}


@pytest.mark.gate
def test_every_checkpoint_is_on_the_page(found: dict[str, tuple[LayerFigures, ...]]) -> None:
    text = PAGE.read_text()
    for label, layers in found.items():
        assert f"/{label}, " in text
        assert layers
        assert {layer.why for layer in layers} == {""}


def test_classifii_has_a_self_attention_that_nothing_trained(found: dict[str, tuple[LayerFigures, ...]]) -> None:
    _, decoder, cross = found["classifii"]
    for head in decoder.heads:
        assert head.logit_bound is not None
        assert head.logit_bound < 1e-6
        assert head.v is not None
        assert head.v.norm > 0.5
    assert max(head.similar_ov.cosine for head in decoder.heads if head.similar_ov) > 0.95
    assert max(head.qk.effective_rank or 0 for head in cross.heads if head.qk) < 1.3


def test_sceptr_finetuned_has_two_layers_of_sceptr(found: dict[str, tuple[LayerFigures, ...]]) -> None:
    before, after = found["SCEPTR"], found["SCEPTR_finetuned"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_the_first_layer_of_sceptr(found: dict[str, tuple[LayerFigures, ...]]) -> None:
    def bound(layer: LayerFigures) -> float:
        return max(head.logit_bound or 0 for head in layer.heads)

    for label, layers in found.items():
        if "SCEPTR" in label:
            assert (bound(layers[0]) > 2 * max(map(bound, layers[1:]))) == (label != "SCEPTR_left_aligned")


def test_the_chains_of_sapiens(found: dict[str, tuple[LayerFigures, ...]]) -> None:
    for layer in found["checkpoint_vl"]:
        assert min(head.qk.effective_rank or 0 for head in layer.heads if head.qk) < 9.1
    for layer in found["checkpoint_vh"]:
        assert min(head.qk.effective_rank or 0 for head in layer.heads if head.qk) > 14
