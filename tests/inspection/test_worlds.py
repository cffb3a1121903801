"""Names and decoys that were collected after the detector was there, and every name that a fault was found by."""

from __future__ import annotations

import pytest

from tests.batches import batched
from tests.inspection.conventions import E
from tests.inspection.test_patterns import report
from tests.inspection.worlds import DECOYS, FOUND, SAID, Shape


@batched("shapes layers", FOUND)
def test_it_is_found_under_other_names(shapes: dict[str, Shape], layers: tuple[str, ...]) -> None:
    found = report(shapes).attentions
    assert tuple(attention.layer for attention in found) == layers
    for attention in found:
        stored = {info.name for info in attention.weights}
        assert stored <= set(shapes)
        if attention.found_by == "pattern" and len(stored) == 3 and attention.layout is not None:
            letters = {part.name: part.weight.name for part in attention.parts}
            assert set(letters) == {"q", "k", "v"}
            assert len(set(letters.values())) == 3


@pytest.mark.parametrize("shapes", SAID.values(), ids=SAID)
def test_what_cannot_be_cut_is_not_passed_over(shapes: dict[str, Shape]) -> None:
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert len(told.account.unrecognised) == 1
    assert told.account.unrecognised[0].suggestion.startswith("[[layout]]")


@batched("shapes", DECOYS)
def test_what_is_none_is_not_found(shapes: dict[str, Shape]) -> None:
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert told.account.unrecognised == ()


def test_a_gated_graph_convolution_and_attention_have_the_same_names() -> None:
    """ResGatedGraphConv's lin_skip never has a bias; TransformerConv's has one where its other matrices do."""
    names = [f"convs.0.lin_{word}.weight" for word in ("key", "query", "value", "skip")]
    attention = dict.fromkeys(names, (E, E)) | {name.replace("weight", "bias"): (E,) for name in names}
    assert len(report(attention).attentions) == 1
    del attention["convs.0.lin_skip.bias"]
    assert report(attention).attentions == ()


def test_a_layer_that_lost_a_projection_is_said_with_a_row_of_its_own() -> None:
    shapes = {f"b.{i}.mixer.{name}.weight": (E, E) for i in range(2) for name in ("qry", "key", "val", "unify")}
    del shapes["b.1.mixer.key.weight"]
    told = report(shapes)
    assert [found.layer for found in told.attentions] == ["b.0.mixer"]
    assert told.account is not None
    (said,) = told.account.unrecognised
    assert "q and v alone" in said.why
    assert 'layer = "b.1.mixer"' in said.suggestion


def test_averages_without_dots_are_said() -> None:
    """LitEma of latent-diffusion takes the dots out of names, since those of buffers may have none."""
    names = [f"layers.{i}.self_attn.{part}_proj.weight" for i in range(2) for part in "qkv"]
    shapes = dict.fromkeys(names, (E, E)) | {f"model_ema.{name.replace('.', '')}": (E, E) for name in names}
    told = report(shapes)
    assert len(told.attentions) == 2
    assert told.account is not None
    assert not told.account.unrecognised
    (said,) = told.account.copies
    assert (said.module, said.of, len(said.tensors)) == ("model_ema", names[0], 6)
    alone = report({name: shape for name, shape in shapes.items() if name not in names[:3]})
    assert alone.account is not None
    (left,) = alone.account.unrecognised
    assert (left.module, len(left.tensors)) == ("model_ema", 3)
