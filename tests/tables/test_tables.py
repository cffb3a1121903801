"""The tables of heads: their form, what they say of known models, and the libraries as the oracle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkvinspect.inspection.facts import tables
from qkvinspect.inspection.facts.tables import open_clip_heads, timm_heads, timm_kv_heads
from tests.batches import batched
from tests.tables.folding import fold

FOLDER = Path(tables.__file__).parent


def _rows(library: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{library}.json").read_text())["rows"]


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_a_table_is_small_and_names_each_model_once(library: str) -> None:
    text = (FOLDER / f"{library}.json").read_text()
    assert len(text) < 60_000
    assert re.match(rf'{{"source": "{library} \d+\.\d+\.\d+", "rows": \[\n', text)
    models = [model for row in _rows(library) for model in row["models"]]
    assert len(models) == len(set(models)) > 100
    assert len({json.dumps({**row, "models": []}) for row in _rows(library)}) == len(_rows(library))


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_every_answer_is_a_number_a_list_by_one_number_or_a_timm_architecture(library: str) -> None:
    architectures = {model for row in _rows("timm") for model in row["models"]}
    for row in _rows(library):
        assert row.keys() <= {"models", "heads", "kv_heads"}
        for pattern, answer in (row["heads"] | row.get("kv_heads", {})).items():
            assert re.fullmatch(r"(?:\w+|\*|#)(?:\.(?:\w+|\*|#))*", pattern)
            if isinstance(answer, str):
                assert library == "open_clip"
                assert answer in architectures
                continue
            assert pattern.count("#") == isinstance(answer, list)
            numbers = answer if isinstance(answer, list) else [answer]
            assert all(type(number) is int and number >= 0 for number in numbers)
            assert any(numbers) or not {"*", "#"} & set(pattern)


@batched(
    "architecture layer heads",
    [
        ("vit_base_patch16_224", "blocks.0.attn", 12),
        ("vit_base_patch16_224", "blocks.11.attn", 12),
        ("vit_large_patch16_224", "blocks.0.attn", 16),
        ("vit_base_patch16_224_in21k", "blocks.0.attn", 12),  # a name that timm gave up
        ("deit_tiny_patch16_224", "blocks.0.attn", 3),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.1.attn", 3),
        ("swin_tiny_patch4_window7_224", "layers.1.blocks.0.attn", 6),
        ("swin_tiny_patch4_window7_224", "layers.2.blocks.5.attn", 12),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.attn", 24),
        ("coatnet_0_rw_224", "stages.2.blocks.0.attn", 6),  # as wide as what it is given, half of what follows
        ("coatnet_0_rw_224", "stages.2.blocks.1.attn", 12),
        ("coatnet_0_rw_224", "stages.3.blocks.0.attn", 12),
        ("coatnet_0_rw_224", "stages.3.blocks.1.attn", 24),
        ("maxvit_tiny_tf_224", "stages.0.blocks.0.attn_block.attn", 2),
        ("maxvit_tiny_tf_224", "stages.3.blocks.1.attn_grid.attn", 16),
        ("hiera_base_224", "blocks.0.attn", 1),
        ("hiera_base_224", "blocks.23.attn", 8),
        ("pvt_v2_b2", "stages.2.blocks.0.attn", 5),
        ("vit_base_patch16_siglip_224", "attn_pool", 12),
        ("vit_pe_core_base_patch16_224", "attn_pool", 8),
        ("vit_pe_core_base_patch16_224", "blocks.0.attn", 12),
        ("levit_128", "stages.0.blocks.0.attn.qkv", 4),
        ("levit_128", "stages.1.downsample.attn_downsample", 8),
        ("mobilenetv4_hybrid_medium", "blocks.2.4.attn", 4),
        ("efficientvit_m0", "stages.0.blocks.0.mixer.m.attn.qkvs.3", 1),  # a projection for every head
        ("efficientvit_b0", "stages.2.blocks.1.context_module.main", 4),  # 64 channels, 16 a head
        ("shvit_s1", "stages.1.blocks.0.mixer.m.qkv", 1),
        ("csatv2", "stages.0.1.attn.attn", 1),
        ("resnet50_clip", "head", 32),
        ("vit_base_patch16_xp_224", "blocks.0", 12),
    ],
)
def test_known_heads_of_timm(architecture: str, layer: str, heads: int) -> None:
    assert timm_heads(architecture, layer) == heads


@batched(
    "model layer heads",
    [
        ("ViT-B-32", "visual.transformer.resblocks.0.attn", 12),
        ("ViT-B-32", "transformer.resblocks.0.attn", 8),
        ("ViT-B/32", "transformer.resblocks.11.attn", 8),
        ("ViT-H-14", "visual.transformer.resblocks.31.attn", 16),
        ("ViT-g-14", "visual.transformer.resblocks.0.attn", 16),  # 88 wide, not 64
        ("RN50", "visual.attnpool", 32),
        ("RN50x4", "visual.attnpool", 40),
        ("coca_ViT-B-32", "visual.attn_pool.attn", 8),
        ("coca_ViT-B-32", "text_decoder.cross_attn.0.attn", 8),
        ("EVA02-B-16", "visual.trunk.blocks.0.attn", 12),
        ("EVA02-B-16", "text.transformer.resblocks.0.attn", 8),
        ("EVA02-L-14", "visual.trunk.blocks.0.attn", 16),
        ("ViT-SO400M-14-SigLIP", "visual.trunk.attn_pool", 16),
        ("MobileCLIP-S1", "visual.trunk.stages.3.blocks.0.token_mixer", 16),
        ("xlm-roberta-large-ViT-H-14", "text.transformer.encoder.layer.0.attention.self", 16),
        ("mt5-xl-ViT-H-14", "text.transformer.block.0.layer.0.SelfAttention", 32),
        ("nllb-clip-base", "text.transformer.layers.0.self_attn", 16),
    ],
)
def test_known_heads_of_open_clip(model: str, layer: str, heads: int) -> None:
    assert open_clip_heads(model, layer) == heads


@pytest.mark.parametrize(
    "architecture",
    ["vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224", "hf_hub:timm/vit_base_patch16_224.a"],
)
@pytest.mark.parametrize(
    "layer", ["blocks.3.attn", "module.model.blocks.3.attn", "visual.trunk.blocks.3.attn", "timm_model.blocks.3.attn"]
)
def test_tags_owners_and_wrappers_are_seen_through(architecture: str, layer: str) -> None:
    assert timm_heads(architecture, layer) == 12


def test_the_names_that_features_only_flattens_are_known() -> None:
    assert timm_heads("swin_tiny_patch4_window7_224", "_backbone.layers_2.blocks.0.attn") == 12


def test_multi_query_attention_and_grouped_attention_have_fewer_kv_heads() -> None:
    assert timm_kv_heads("mobilenetv4_hybrid_medium", "blocks.2.4.attn") == 1
    assert timm_kv_heads("lamhalobotnet50ts_256", "stages.1.1.self_attn") == 1  # a lambda layer
    assert timm_kv_heads("lamhalobotnet50ts_256", "stages.2.1.self_attn") is None  # this stage is a halo
    assert timm_kv_heads("vit_large_patch16_sapiens2", "blocks.8.attn") == 8
    assert timm_kv_heads("vit_large_patch16_sapiens2", "blocks.7.attn") is None
    assert timm_kv_heads("vit_base_patch16_224", "blocks.0.attn") is None


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("no_such_model", "blocks.0.attn"),
        ("resnet50", "layer1.0"),
        ("", "blocks.0.attn"),
        ("vit_base_patch16_224", ""),
        ("vit_base_patch16_224", "text_model.blocks.0.attn"),
        ("vit_base_patch16_224", "decoder.layers.0.attn"),
        ("swin_tiny_patch4_window7_224", "layers.4.blocks.0.attn"),  # there are four stages
        ("coatnet_0_rw_224", "stages.0.blocks.0.attn"),  # convolutions
        ("swin_tiny_patch4_window7_224", "layers.99999999999999999999.blocks.0.attn"),
    ],
)
def test_what_the_table_does_not_hold_is_unknown(architecture: str, layer: str) -> None:
    assert timm_heads(architecture, layer) is None


def test_a_tower_saved_alone_is_known_only_where_both_towers_agree() -> None:
    assert open_clip_heads("EVA02-B-16", "trunk.blocks.0.attn") == 12
    assert open_clip_heads("coca_ViT-B-32", "transformer.resblocks.0.attn") is None  # 8 in text, 12 in visual
    assert open_clip_heads("ViT-B-32", "text.transformer.resblocks.0.attn") == 8
    assert open_clip_heads("no-such-model", "transformer.resblocks.0.attn") is None


_PLACES = st.dictionaries(
    st.tuples(
        st.sampled_from(["stages.{}.blocks.{}.attn", "blocks.{}.{}", "pool{}.{}"]), st.tuples(*2 * [st.integers(0, 6)])
    ),
    st.integers(0, 4),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_PLACES)
@pytest.mark.gate
def test_folding_loses_no_number(places: dict[tuple[str, tuple[int, int]], int]) -> None:
    numbers = {template.format(*at): number for (template, at), number in places.items()}
    folded: dict[str, object] = dict(fold(numbers))
    assert {path: tables._look_up(folded, path) for path in numbers} == {p: n or None for p, n in numbers.items()}


def _sample(rows: list[dict[str, Any]], step: int) -> list[str]:
    """The first model of every few rows: each has another answer, and most another kind of attention."""
    return [row["models"][0] for row in rows[::step]]


def _agrees_with_timm(architecture: str) -> None:
    from tests.tables.generate_timm import build

    found = build(architecture)
    assert {path: timm_heads(architecture, path) for path in found} == {p: h.num_heads for p, h in found.items()}
    assert {path: timm_kv_heads(architecture, path) for path in found} == {p: h.kv_heads for p, h in found.items()}


def _installed(library: str) -> None:
    from tests.tables.modules import library as prepare

    prepare()
    pytest.importorskip(library)


@pytest.mark.parametrize("architecture", _sample(_rows("timm"), 8))
def test_the_table_agrees_with_timm(architecture: str) -> None:
    _installed("timm")
    _agrees_with_timm(architecture)


@pytest.mark.parametrize("model", _sample(_rows("open_clip"), 4))
def test_the_table_agrees_with_open_clip(model: str) -> None:
    _installed("open_clip")
    from tests.tables.generate_open_clip import build

    found = build(model)
    assert {path: open_clip_heads(model, path) for path in found} == found


@pytest.mark.slow
def test_the_table_agrees_with_all_of_timm() -> None:
    _installed("timm")
    import timm

    listed = {model for row in _rows("timm") for model in row["models"]}
    for architecture in timm.list_models():
        _agrees_with_timm(architecture)
        listed.discard(architecture)
    from tests.tables.generate_timm import deprecated

    assert listed <= deprecated().keys()
