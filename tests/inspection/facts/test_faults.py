"""Heads of a whole model are not put on fewer rows, nor those of one part on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pytest

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.json_values import row_ranges
from qkvinspect.inspection.report import Attention, Report
from tests.batches import batched

Shapes = Mapping[str, tuple[int, ...]]


def report(shapes: Shapes, *configs: Config) -> Report:
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], s, contiguous_strides(s), Region(None, 0, 0))  # pyright: ignore
        for name, s in shapes.items()
    }
    return inspect(Checkpoint("model", "test", 0, tensors, configs=configs, modules={}), Options(norms=False))


def config(**values: object) -> Config:
    return Config("config:config.json", values)


def sizes(attention: Attention) -> tuple[int, int, int] | None:
    heads = attention.heads
    return (heads.num_heads, heads.num_kv_heads, heads.width("q")) if heads else None


def all_sizes(found: Report) -> list[tuple[int, int, int] | None]:
    return [sizes(attention) for attention in found.attentions]


def codes(found: Report) -> set[str]:
    return {str(finding.code) for finding in found.findings}


def separate(layer: str, q: int, kv: int, cols: int, names: Sequence[str] = ("q_proj", "k_proj", "v_proj")) -> Shapes:
    return {f"{layer}.{name}.weight": (rows, cols) for name, rows in zip(names, (q, kv, kv), strict=True)}


def bert(layer: str, rows: int, cols: int) -> Shapes:
    return separate(f"{layer}.attention.self", rows, rows, cols, ("query", "key", "value"))


MEGATRON = {
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "kv_channels": 32,
    "hidden_size": 256,
    "group_query_attention": True,
}


@pytest.mark.parametrize("said", [{"tensor_model_parallel_size": 2}, {}])
def test_a_rank_of_megatron_holds_its_share(said: dict[str, int]) -> None:
    """With and without its args' word for how many ranks there are: kv_channels leave one answer."""
    shapes = {
        "decoder.layers.0.self_attention.linear_qkv.weight": (256, 256),
        "decoder.layers.0.self_attention.linear_proj.weight": (256, 128),
    }
    found = report(shapes, Config("checkpoint:args", MEGATRON | said, inside=True))
    (attention,) = found.attentions
    assert sizes(attention) == (4, 2, 32)
    rows = {part.name: row_ranges(part.rows) for part in attention.parts}
    assert rows == {"q": [[0, 64], [128, 192]], "k": [[64, 96], [192, 224]], "v": [[96, 128], [224, 256]]}
    assert "heads-fewer" in codes(found)


def test_a_head_dim_that_does_not_fill_the_rows_is_no_reason_for_narrower_heads() -> None:
    found = report(separate("a", 128, 128, 256), config(head_dim=32, num_attention_heads=8, hidden_size=256))
    assert all_sizes(found) == [(4, 4, 32)]
    assert "heads-fewer" in codes(found)
    (said,) = map(str, found.attentions[0].weighed_facts)
    assert said.startswith("config:config.json:num_attention_heads says 8 heads")
    assert "used: the share of one of 2 ranks, or what pruning left" in said


def test_facts_that_were_not_used_are_shown_with_the_reason() -> None:
    shapes = {**separate("a", 128, 128, 128), "a.q_norm.weight": (32,)}
    found = report(shapes, config(num_attention_heads=2), Config("config:other.json", {"num_attention_heads": 4}))
    assert all_sizes(found) == [(4, 4, 32)]
    assert tuple(map(str, found.attentions[0].weighed_facts)) == (
        "config:config.json:num_attention_heads says 2 heads: not used: tensor:a.q_norm.weight fixes 4",
        "config:other.json:num_attention_heads says 4 heads: used",
        "tensor:a.q_norm.weight says head_dim 32: agrees",
    )


def test_without_a_head_dim_fewer_rows_leave_it_open_and_both_numbers_are_shown() -> None:
    found = report(separate("a", 128, 128, 256), config(num_attention_heads=8, hidden_size=256))
    assert all_sizes(found) == [None]
    (text,) = [f.message for f in found.findings if f.code == "heads-do-not-fit"]
    assert "8 heads" in text
    assert "4 heads of 32 rows" in text


def test_pruned_heads_are_left_out() -> None:
    shapes = {**bert("bert.encoder.layer.0", 384, 384), **bert("bert.encoder.layer.1", 192, 384)}
    pruned = {"1": [0, 2, 3, 5, 8, 11]}
    found = report(shapes, config(model_type="bert", hidden_size=384, num_attention_heads=12, pruned_heads=pruned))
    assert all_sizes(found) == [(12, 12, 32), (6, 6, 32)]


@batched("left", range(1, 12))
def test_any_number_of_heads_may_have_been_pruned(left: int) -> None:
    pruned = {"0": list(range(12 - left))}
    found = report(
        bert("encoder.layer.0", 32 * left, 384),
        config(model_type="bert", hidden_size=384, num_attention_heads=12, pruned_heads=pruned),
    )
    assert all_sizes(found) == [(left, left, 32)]


@batched("ranks kv_heads", product([1, 2, 4, 8], [1, 2, 8]))
@pytest.mark.parametrize("said", [True, False])
def test_the_share_of_a_rank(ranks: int, kv_heads: int, said: bool) -> None:
    """Where there are more ranks than kv heads, each holds a copy of one."""
    share = max(1, kv_heads // ranks)
    shapes = {
        **separate("model.layers.0.self_attn", 64 * 8 // ranks, 64 * share, 512),
        "model.layers.0.self_attn.o_proj.weight": (512, 64 * 8 // ranks),
    }
    values: dict[str, object] = {"num_attention_heads": 8, "num_key_value_heads": kv_heads, "hidden_size": 512}
    values |= {"tensor_parallel_size": ranks} if said else {"head_dim": 64}
    assert all_sizes(report(shapes, config(**values))) == [(8 // ranks, share, 64)]


def test_each_tower_has_its_own_heads() -> None:
    """open_clip's vision towers have heads of 64 rows where the config does not say; text_cfg speaks of the text."""
    shapes = {
        "visual.transformer.resblocks.0.attn.in_proj_weight": (2304, 768),
        "visual.transformer.resblocks.0.attn.out_proj.weight": (768, 768),
        "transformer.resblocks.0.attn.in_proj_weight": (1536, 512),
        "transformer.resblocks.0.attn.out_proj.weight": (512, 512),
    }
    cfg = {"embed_dim": 512, "vision_cfg": {"layers": 12, "width": 768}, "text_cfg": {"width": 512, "heads": 8}}
    found = report(shapes, Config("config:open_clip_config.json", {"model_cfg": cfg}))
    assert all_sizes(found) == [(12, 12, 64), (8, 8, 64)]


@pytest.mark.parametrize(
    "key", ["decoder_num_attention_heads", "num_decoder_attention_heads", "decoder_attention_heads"]
)
def test_a_decoder_has_its_own_key(key: str) -> None:
    shapes = {
        **separate("encoder.layers.0.self_attn", 64, 64, 64),
        **separate("decoder.layers.0.self_attn", 64, 64, 64),
    }
    found = report(shapes, config(**{"num_attention_heads": 4, key: 8, "hidden_size": 64}))
    assert all_sizes(found) == [(4, 4, 16), (8, 8, 8)]


def test_a_predictor_has_its_own_key() -> None:
    shapes = {**bert("encoder.layer.0", 64, 64), **bert("predictor.layer.0", 64, 64)}
    found = report(shapes, config(num_attention_heads=4, pred_num_attention_heads=8, hidden_size=64))
    assert all_sizes(found) == [(4, 4, 16), (8, 8, 8)]


def test_a_tensor_that_fixes_the_width_of_a_head_outranks_the_config_of_another_part() -> None:
    shapes = {
        "image_encoder.blocks.0.attn.qkv.weight": (2304, 768),
        "image_encoder.blocks.0.attn.proj.weight": (768, 768),
        "image_encoder.blocks.0.attn.rel_pos_h": (27, 64),
    }
    found = report(shapes, config(num_attention_heads=8))
    assert all_sizes(found) == [(12, 12, 64)]
    assert found.attentions[0].heads_from == "tensor:image_encoder.blocks.0.attn.rel_pos_h"


def unet(block: str, channels: int) -> Shapes:
    name = f"{block}.attentions.0.transformer_blocks.0.attn1"
    return {
        **separate(name, channels, channels, channels, ("to_q", "to_k", "to_v")),
        f"{name}.to_out.0.weight": (channels, channels),
    }


def test_the_blocks_up_of_a_unet_take_the_list_from_behind() -> None:
    shapes = {
        **unet("down_blocks.1", 640),
        **unet("mid_block", 1280),
        **unet("up_blocks.0", 1280),
        **unet("up_blocks.1", 640),
    }
    found = report(shapes, config(_class_name="UNet2DConditionModel", attention_head_dim=[5, 10, 20]))
    assert all_sizes(found) == [(10, 10, 64), (20, 20, 64), (20, 20, 64), (10, 10, 64)]


@pytest.mark.parametrize(
    ("name", "key", "up"),
    [
        ("UNet2DConditionModel", "attention_head_dim", 10),
        ("StableCascadeUNet", "num_attention_heads", 10),
        ("ClassOfTomorrow", "num_attention_heads", None),
    ],
)
def test_a_list_for_the_way_up_is_not_taken_as_it_stands(name: str, key: str, up: int | None) -> None:
    shapes = {**unet("down_blocks.0", 640), **unet("down_blocks.1", 640)}
    shapes |= {**unet("up_blocks.0", 640), **unet("up_blocks.1", 640)}
    found = report(shapes, config(_class_name=name, **{key: [5, 10]}))
    heads = [attention.heads and attention.heads.num_heads for attention in found.attentions]
    assert heads == [5, 10, up, up and 5]


@pytest.mark.parametrize(
    ("name", "heads"),
    [("UNet2DConditionModel", 8), ("ControlNetModel", 8), ("SparseControlNetModel", 8), ("UNet3DConditionModel", 80)],
)
def test_attention_head_dim_is_what_each_class_of_diffusers_makes_of_it(name: str, heads: int) -> None:
    found = report(unet("down_blocks.0", 640), config(_class_name=name, attention_head_dim=8, num_attention_heads=None))
    assert all_sizes(found) == [(heads, heads, 640 // heads)]


def test_a_key_of_cross_attention_says_nothing_of_self_attention() -> None:
    """Sana: two keys, and widths that are the same."""
    shapes = {**separate("blocks.0.attn1", 64, 64, 64), **separate("blocks.0.attn2", 64, 64, 64)}
    values = {"num_attention_heads": 8, "num_cross_attention_heads": 2, "cross_attention_dim": 64}
    assert all_sizes(report(shapes, config(**values))) == [(8, 8, 8), (2, 2, 32)]


def test_the_text_of_hunyuan_dit_is_pooled_with_heads_of_its_own() -> None:
    shapes = separate("time_extra_emb.pooler", 64, 64, 64)
    found = report(shapes, config(_class_name="HunyuanDiT2DModel", num_attention_heads=16))
    assert all_sizes(found) == [(8, 8, 8)]


@pytest.mark.parametrize(
    ("depths", "block", "heads"),
    [([1, 2, 7, 2], 0, 1), ([1, 2, 7, 2], 2, 2), ([1, 2, 7, 2], 9, 4), ([1, 2, 7, 2], 11, 8)],
)
def test_stages_of_layers_that_are_counted_through(depths: list[int], block: int, heads: int) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(sum(depths)):
        shapes |= separate(f"blocks.{index}.attn", 96, 96, 96)
    found = report(shapes, config(num_attention_heads_per_stage=[1, 2, 4, 8], blocks_per_stage=depths))
    assert sizes(found.attentions[block]) == (heads, heads, 96 // heads)


def test_digits_in_a_model_s_own_name_are_not_a_stage() -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, heads in enumerate((2, 4)):
        shapes |= separate(f"swin2net.layers.{index}.attn", 16 * heads, 16 * heads, 16 * heads)
    found = report(shapes, config(num_heads=[2, 4]))
    assert all_sizes(found) == [(2, 2, 16), (4, 4, 16)]


def test_a_tower_saved_alone_knows_its_own_keys() -> None:
    found = report(separate("layers.0.self_attn", 320, 320, 320), config(d_model=320, encoder_attention_heads=5))
    assert all_sizes(found) == [(5, 5, 64)]


def test_a_part_whose_config_gives_no_heads_does_not_take_those_of_the_whole() -> None:
    shapes = {**separate("vision_tower.layers.0.attn", 64, 64, 64), **separate("layers.0.attn", 64, 64, 64)}
    values = {
        "num_attention_heads": 4,
        "hidden_size": 64,
        "vision_config": {"model_type": "made_up", "hidden_size": 64},
    }
    assert all_sizes(report(shapes, config(**values))) == [None, (4, 4, 16)]


def test_a_layer_may_have_a_config_of_its_own() -> None:
    shapes = {**separate("model.layers.0.attn", 64, 64, 64), **separate("model.layers.1.attn", 64, 64, 64)}
    own = {"01": {"num_attention_heads": 8}}
    found = report(shapes, config(num_attention_heads=4, hidden_size=64, per_layer_config=own))
    assert all_sizes(found) == [(4, 4, 16), (8, 8, 8)]


def test_a_layer_s_own_config_says_nothing_of_the_others() -> None:
    own = {"01": {"num_attention_heads": 8}, "02": {"num_attention_heads": 8}}
    text = {"num_attention_heads": 4, "hidden_size": 64, "per_layer_config": own}
    shapes = {**separate("model.layers.0.attn", 64, 64, 64), **separate("model.layers.1.attn", 64, 64, 64)}
    assert all_sizes(report(shapes, config(text_config=text))) == [(4, 4, 16), (8, 8, 8)]


def test_layers_of_two_types_have_the_heads_of_their_own() -> None:
    shapes = {**separate("layers.0.attn", 64, 64, 64), **separate("layers.1.attn", 64, 64, 64)}
    kinds = ["full_attention", "sliding_attention"]
    found = report(shapes, config(num_attention_heads=4, swa_num_attention_heads=8, hidden_size=64, layer_types=kinds))
    assert all_sizes(found) == [(4, 4, 16), (8, 8, 8)]
