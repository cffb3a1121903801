"""A config speaks of layers of its own width: not of a tower beside it, and not of another model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from qkvinspect.inspection.facts import scopes
from tests.inspection.facts.test_faults import Shapes, all_sizes, codes, config, report, separate, sizes

MLLAMA = {
    "model_type": "mllama",
    "text_config": {"model_type": "mllama_text_model", "hidden_size": 4096, "num_attention_heads": 32},
    "vision_config": {"model_type": "mllama_vision_model", "hidden_size": 1280, "attention_heads": 16},
}


def square(layer: str, width: int) -> Shapes:
    return {**separate(layer, width, width, width), f"{layer}.out_proj.weight": (width, width)}


def test_a_tower_saved_alone_is_not_given_the_heads_of_another() -> None:
    found = report(square("transformer.layers.0.self_attn", 1280), config(**MLLAMA))
    assert all_sizes(found) == [(16, 16, 80)]


def test_a_tower_whose_own_config_is_not_there_is_not_given_the_heads_of_another() -> None:
    found = report(square("transformer.layers.0.self_attn", 1280), config(text_config=MLLAMA["text_config"]))
    assert all_sizes(found) == [None]
    assert "text_config.hidden_size 4096" in found.attentions[0].weighed_facts[0].why


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe", "my_own", None])
def test_the_config_of_another_model_says_nothing(kind: str | None) -> None:
    values = {"hidden_size": 2048, "num_attention_heads": 4, **({"model_type": kind} if kind else {})}
    found = report(square("model.layers.0.self_attn", 768), config(**values))
    assert all_sizes(found) == [None]
    assert codes(found) >= {"heads-do-not-fit", "heads-unknown"}
    assert "another width (hidden_size 2048): the inputs of this layer are 768 wide" in str(found.findings)


def test_what_is_of_another_width_is_no_finding_where_another_source_fits() -> None:
    own = config(hidden_size=768, num_attention_heads=12)
    found = report(square("model.layers.0.self_attn", 768), config(hidden_size=2048, num_attention_heads=4), own)
    assert all_sizes(found) == [(12, 12, 64)]
    assert "heads-do-not-fit" not in codes(found)


def test_a_text_config_alone_is_not_the_vision_tower_s() -> None:
    said = {"model_type": "owlv2_text_model", "hidden_size": 512, "num_attention_heads": 8}
    shapes = {
        **square("owlv2.text_model.encoder.layers.0.self_attn", 512),
        **square("owlv2.vision_model.encoder.layers.0.self_attn", 768),
        **square("owlv2.vision_model.encoder.layers.1.self_attn", 512),
    }
    found = report(shapes, config(text_config=said))
    assert all_sizes(found) == [(8, 8, 64), None, None]


@pytest.mark.parametrize("above", [("train", "model"), ("model", "config"), ("hf_config",), ("init_args", "net")])
def test_a_library_s_config_below_the_keys_of_a_script(above: tuple[str, ...]) -> None:
    values: Mapping[str, object] = {
        "model_type": "bart",
        "d_model": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 8,
    }
    for key in reversed(above):
        values = {key: values}
    found = report(
        {**square("model.encoder.layers.0.self_attn", 64), **square("model.decoder.layers.0.self_attn", 64)},
        config(**values),
    )
    assert {a.layer: sizes(a) for a in found.attentions} == {
        "model.encoder.layers.0.self_attn": (4, 4, 16),
        "model.decoder.layers.0.self_attn": (8, 8, 8),
    }


DEEPSEEK = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


@pytest.mark.parametrize("kind", ["deepseek_v3", "my_own"])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_a_rank_s_share_of_latent_attention(ranks: int, kind: str) -> None:
    heads = 128 // ranks
    layer = "model.layers.0.self_attn"
    shapes = {
        f"{layer}.q_a_proj.weight": (1536, 7168),
        f"{layer}.q_b_proj.weight": (heads * 192, 1536),
        f"{layer}.kv_a_proj_with_mqa.weight": (576, 7168),
        f"{layer}.kv_b_proj.weight": (heads * 256, 512),
        f"{layer}.o_proj.weight": (7168, heads * 128),
    }
    found = report(shapes, config(**{**DEEPSEEK, "model_type": kind}))
    assert all_sizes(found) == [(heads, heads, 192)]
    assert ("heads-fewer" in codes(found)) == (ranks > 1)


def test_few_heads_of_latent_attention_are_not_as_wide_as_the_model_shared_out() -> None:
    layer = "model.layers.0.self_attn"
    shapes = {
        f"{layer}.q_proj.weight": (4 * 192, 4096),
        f"{layer}.kv_a_proj_with_mqa.weight": (576, 4096),
        f"{layer}.kv_b_proj.weight": (4 * 256, 512),
        f"{layer}.o_proj.weight": (4096, 4 * 128),
    }
    values = {**DEEPSEEK, "model_type": "deepseek_v2", "hidden_size": 4096, "num_attention_heads": 4}
    del values["q_lora_rank"]
    assert all_sizes(report(shapes, config(**values))) == [(4, 4, 192)]


def test_a_table_of_positions_of_all_heads_beside_the_pruned_projections() -> None:
    layer = "encoder.block.0.layer.0.SelfAttention"
    shapes = {
        **separate(layer, 128, 128, 512, ("q", "k", "v")),
        f"{layer}.o.weight": (512, 128),
        f"{layer}.relative_attention_bias.weight": (32, 8),
    }
    found = report(shapes, config(model_type="t5", d_model=512, num_heads=8, d_kv=64))
    assert all_sizes(found) == [(2, 2, 64)]
    assert codes(found) == {"heads-fewer"}


LLAMA = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4}


@pytest.mark.parametrize(("ranks", "kv"), [(2, 2), (4, 1), (8, 1), (16, 1)])
def test_a_share_of_heads_whose_width_the_class_reckons(ranks: int, kv: int) -> None:
    layer = "model.layers.0.self_attn"
    shapes = {**separate(layer, 512 // ranks, kv * 32, 512), f"{layer}.o_proj.weight": (512, 512 // ranks)}
    found = report(shapes, config(**LLAMA))
    assert all_sizes(found) == [(16 // ranks, kv, 32)]
    assert codes(found) == {"heads-fewer"}


@pytest.mark.parametrize("given", [{}, {"head_dim": 32}])
def test_a_share_of_q_with_all_of_k_is_not_understood(given: dict[str, int]) -> None:
    found = report(separate("model.layers.0.self_attn", 128, 128, 512), config(**LLAMA, **given))
    assert all_sizes(found) == [None]
    assert "heads-do-not-fit" in codes(found)


@pytest.mark.parametrize("left", range(1, 12))
def test_heads_pruned_without_a_word(left: int) -> None:
    layer = "encoder.layer.0.attention"
    names = ("query", "key", "value")
    shapes = {**separate(f"{layer}.self", left * 32, left * 32, 384, names)}
    shapes |= {f"{layer}.output.dense.weight": (384, left * 32)}
    found = report(shapes, config(model_type="bert", hidden_size=384, num_attention_heads=12))
    assert all_sizes(found) == [(left, left, 32)]
    assert "pruning left" in str(found.findings)


def test_a_part_saved_alone_is_known_by_the_end_of_its_name() -> None:
    values = {"model_type": "pp_doclayout_v3", "d_model": 256, "encoder_hidden_dim": 256}
    heads = {"decoder_attention_heads": 4, "encoder_attention_heads": 2}
    found = report(square("aifi.0.layers.0.self_attn", 256), config(**values, **heads))
    assert all_sizes(found) == [(2, 2, 128)]


def test_a_width_times_a_number_of_heads_is_no_width() -> None:
    """12 heads and a width of 64 are not 768 inputs; 12 heads of 64 rows are."""
    layer = square("model.layers.0.self_attn", 768)
    assert all_sizes(report(layer, config(hidden_size=64, num_attention_heads=12))) == [None]
    assert all_sizes(report(layer, config(num_attention_heads=12, attention_head_dim=64))) == [(12, 12, 64)]


def test_three_letters_in_common_are_not_the_same_part() -> None:
    assert scopes._alike("conf", "conformer")
    assert not scopes._alike("con", "conformer")


@pytest.mark.parametrize("kind", ["hy_v4_vl_text", "deepseek_v3", "glm4_moe"])
def test_head_dim_beside_a_latent_attention_is_not_its_width(kind: str) -> None:
    """transformers keeps the part that turns under ``head_dim``; a class that reads that has another attention."""
    layer = "layers.0.self_attn"
    shapes = {
        f"{layer}.kv_b_proj.weight": (8 * 40, 64),
        f"{layer}.q_b_proj.weight": (8 * 24, 48),
        f"{layer}.kv_a_proj_with_mqa.weight": (64 + 8, 96),
        f"{layer}.o_proj.weight": (96, 8 * 24),
    }
    values = {**DEEPSEEK, "hidden_size": 96, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8}
    values |= {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24, "kv_lora_rank": 64, "q_lora_rank": 48}
    found = report(shapes, config(**{**values, "model_type": kind}))
    assert [attention.heads and attention.heads.num_heads for attention in found.attentions] == [8]
    assert not codes(found)
