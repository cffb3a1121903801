"""Where the number of heads comes from: always said, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import UsageError
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.facts.flags import parse_flag
from qkvinspect.inspection.report import Report


def report(
    *layers: str,
    flags: tuple[str, ...] = (),
    modules: Mapping[str, Mapping[str, object]] | None = None,
    rows: tuple[int, int, int] = (16, 16, 16),
    extra: Mapping[str, tuple[int, ...]] | None = None,
    **configs: Mapping[str, object],
) -> Report:
    """Layers with separate projections of the given rows; configs by the name of their file."""
    shapes: dict[str, tuple[int, ...]] = dict(extra or {})
    for layer in layers:
        shapes |= {f"{layer}.{part}_proj.weight": (n, 16) for part, n in zip("qkv", rows, strict=True)}
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], s, contiguous_strides(s), Region(None, 0, 0))
        for name, s in shapes.items()
    }
    origins = {origin.replace("__", ":").replace("_json", ".json"): values for origin, values in configs.items()}
    found = tuple(Config(name, values, inside=name.startswith("checkpoint")) for name, values in origins.items())
    checkpoint = Checkpoint("model", "test", 0, tensors, configs=found, modules=modules or {})
    return inspect(checkpoint, Options(heads=flags, norms=False))


def heads(found: Report) -> list[int | None]:
    return [attention.heads.num_heads if attention.heads else None for attention in found.attentions]


def origins(found: Report) -> list[str]:
    return [attention.heads_from for attention in found.attentions]


def codes(found: Report) -> list[str]:
    return [finding.code for finding in found.findings]


def test_nothing_tells() -> None:
    found = report("a")
    assert (heads(found), origins(found), codes(found)) == ([None], ["unknown"], ["heads-unknown"])
    assert found.attentions[0].possible_heads == (1, 2, 4, 8, 16)
    assert "--heads" in found.findings[0].message


def test_heads_for_a_name_that_is_not_there_are_told() -> None:
    """A slip in a pattern would leave the layer without heads, or with those of another source."""
    found = report("encoder.layers.0.attn", "decoder.attn", flags=("encoder.layer.*=4", "decoder.*=2", "x*=8"))
    assert heads(found) == [None, 2]
    told = [one.message for one in found.findings if one.code == "heads-unused"]
    assert len(told) == 2
    assert told[0].startswith("4 heads for 'encoder.layer.*'")
    assert "did you mean encoder.layers.0.attn" in told[0]
    assert told[1] == "8 heads for 'x*': no attention module has such a name; the first is called encoder.layers.0.attn"


def test_heads_for_all_are_no_slip_where_there_is_no_attention() -> None:
    assert "heads-unused" not in codes(report(flags=("8", "foo=4")))


def test_grouped_queries_limit_what_is_possible() -> None:
    assert report("a", rows=(16, 4, 4)).attentions[0].possible_heads == (4, 8, 16)


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads"),
        ({"n_head": 4}, "n_head"),
        ({"HEADS": 4}, "HEADS"),
        ({"model": {"stack": {"initargs": {"nhead": 4}}}}, "model.stack.initargs.nhead"),
        ({"head_dim": 4}, "head_dim"),
        ({"d_kv": 4, "num_layers": 3}, "d_kv"),
        ({"_class_name": "UNet2DConditionModel", "attention_head_dim": 4}, "attention_head_dim"),
        ({"_class_name": "SD3", "num_attention_heads": 4, "attention_head_dim": 4}, "num_attention_heads"),
    ],
)
def test_a_config_tells(config: dict[str, Any], origin: str) -> None:
    found = report("layers.1.attn", config__c_json=config)
    assert (heads(found), origins(found), codes(found)) == ([4], [f"config:c.json:{origin}"], [])


def test_a_list_tells_the_heads_of_each_stage() -> None:
    layers = [f"layers.{stage}.blocks.{block}.attn" for stage in range(3) for block in range(2)]
    found = report(*layers, config__c_json={"num_heads": [2, 4, 8]})
    assert heads(found) == [2, 2, 4, 4, 8, 8]
    assert origins(found)[2] == "config:c.json:num_heads[1]"


def test_a_list_of_another_length_tells_nothing() -> None:
    assert heads(report("blocks.0.attn", "blocks.1.attn", config__c_json={"num_heads": [2, 4, 8]})) == [None, None]


@pytest.mark.parametrize("value", [0, -4, 4.0, True, "4", None, 1 << 40, [[4]]])
def test_only_counts_are_counts(value: object) -> None:
    assert heads(report("a", config__c_json={"num_heads": value})) == [None]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("encoder.layers.0.self_attn", 4),
        ("decoder.layers.0.self_attn", 8),
        ("decoder.layers.0.encoder_attn", 8),
        ("module.model.decoder.layers.0.self_attn", 8),
        ("layers.0.self_attn", None),
    ],
)
def test_encoder_and_decoder_have_their_own(layer: str, expected: int | None) -> None:
    config = {"encoder_attention_heads": 4, "decoder_attention_heads": 8}
    assert heads(report(layer, config__c_json=config)) == [expected]


def test_one_side_alone_speaks_for_layers_that_name_it_at_all() -> None:
    """fairseq's RoBERTa: only encoder_attention_heads, and layers called decoder.sentence_encoder."""
    found = report("decoder.sentence_encoder.layers.0.self_attn", checkpoint__args={"encoder_attention_heads": 8})
    assert (heads(found), origins(found)) == ([8], ["checkpoint:args:encoder_attention_heads"])


def test_sub_configs_reach_their_own_part() -> None:
    config = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 2}}
    found = report("text_model.layers.0.attn", "vision_tower.layers.0.attn", "other.attn", config__c_json=config)
    assert heads(found) == [4, 2, None]


def test_a_flag_comes_first_and_the_last_that_fits_counts() -> None:
    found = report("encoder.0", "decoder.0", flags=("8", "decoder.*=2"), config__c_json={"num_heads": 4})
    assert (heads(found), set(origins(found))) == ([8, 2], {"flag"})


def test_sources_in_order() -> None:
    configs: dict[str, Any] = {"config__c_json": {"num_heads": 2}, "checkpoint__args": {"num_heads": 4}}
    modules = {"a": {"num_heads": 8}}
    found = report("a", modules=modules, **configs)
    assert (heads(found), origins(found)) == ([2], ["config:c.json:num_heads"])
    assert codes(found) == ["heads-disagree", "heads-disagree"]
    assert origins(report("a", modules=modules)) == ["checkpoint:a.num_heads"]


def test_a_config_that_does_not_fit_is_said_and_not_used() -> None:
    found = report("a", config__c_json={"num_heads": 7}, checkpoint__args={"num_heads": 4})
    assert (heads(found), codes(found)) == ([4], ["heads-do-not-fit"])


def test_a_config_that_contradicts_itself_is_not_used() -> None:
    found = report("a", config__c_json={"num_heads": 4, "decoder": {"x": 1}, "part": {"n_heads": 8}})
    assert (heads(found), codes(found)) == ([None], ["heads-ambiguous"])
    assert "num_heads says 4" in found.findings[0].message


@pytest.mark.parametrize(
    "config",
    [
        {"critic": {"num_heads": 2, "hidden": 64}, "actor": {"num_heads": 8}},
        {"MODEL": {"HEADS": 4, "NUM_HEADS": 8}},
        {"nhead": 4, "num_heads": 2},
    ],
)
def test_keys_inside_a_checkpoint_that_differ_are_named_both(config: dict[str, Any]) -> None:
    found = report("a", checkpoint__args=config)
    assert (heads(found), codes(found)) == ([None], ["heads-ambiguous"])
    assert found.findings[0].message.count(" says ") == 2


@pytest.mark.parametrize("rows", [(16, 16, 4), (16, 4, 16), (16, 8, 4)])
@pytest.mark.parametrize("config", [{}, {"num_heads": 4}])
def test_k_and_v_that_are_shared_unlike_have_no_heads(rows: tuple[int, int, int], config: dict[str, Any]) -> None:
    found = report("a", rows=rows, extra={"a.o_proj.weight": (16, 16)}, config__c_json=config)
    assert (heads(found), found.attentions[0].possible_heads) == ([None], ())
    assert [part.shape[0] for part in found.attentions[0].parts] == list(rows)
    assert f"K has {rows[1]} rows and V {rows[2]}" in found.findings[-1].message


def test_a_norm_over_one_head_fixes_its_width_and_one_over_all_heads_does_not() -> None:
    assert heads(report("a", extra={"a.q_norm.weight": (4,)})) == [4]
    assert heads(report("a", extra={"a.q_norm.weight": (16,)})) == [None]


def test_one_layer_speaks_for_its_stack() -> None:
    """T5 keeps its relative bias in block 0 only."""
    tensors: dict[str, tuple[int, ...]] = {"block.0.SelfAttention.relative_attention_bias.weight": (32, 4)}
    for block in (0, 1):
        tensors |= {f"block.{block}.SelfAttention.{part}.weight": (16, 16) for part in "qkv"}
    assert heads(report(extra=tensors)) == [4, 4]


def test_layers_of_one_stack_that_differ_do_not_speak_for_another() -> None:
    layers = [f"layers.{number}.attn" for number in range(3)]
    norms = {f"{layers[0]}.q_norm.weight": (4,), f"{layers[1]}.q_norm.weight": (8,)}
    assert heads(report(*layers, extra=norms)) == [4, 2, None]
    assert heads(report(*layers, extra=dict.fromkeys(norms, (4,)))) == [4, 4, 4]


LLAMA: Mapping[str, object] = {"model_type": "llama", "hidden_size": 16}


@pytest.mark.parametrize(("said", "kv"), [(8, 2), (8, 8), (16, 4)])
def test_a_config_whose_kv_heads_the_rows_contradict_is_not_used(said: int, kv: int) -> None:
    """The module has 8 heads of 2 rows over 4 kv heads: of 16 and 4, the second is right."""
    config = {**LLAMA, "num_attention_heads": said, "num_key_value_heads": kv}
    found = report("model.layers.0.self_attn", rows=(16, 8, 8), config__config_json=config)
    assert heads(found) == [None]
    told = next(one.message for one in found.findings if one.code == "heads-do-not-fit")
    assert told.endswith(f"says {kv} kv heads, and by its rows there would be {said // 2}")


def test_kv_heads_that_are_written_once_for_each_head_are_told() -> None:
    config = {**LLAMA, "num_attention_heads": 8, "num_key_value_heads": 4}
    found = report("model.layers.0.self_attn", rows=(16, 16, 16), config__config_json=config)
    assert heads(found) == [8]
    assert "heads-disagree" in codes(found)


def test_kv_heads_follow_from_the_shapes() -> None:
    geometry = report("a", rows=(16, 8, 8), flags=("4",)).attentions[0].heads
    assert geometry is not None
    assert (geometry.num_heads, geometry.num_kv_heads, geometry.head_dim) == (4, 2, 4)


@pytest.mark.parametrize("flags", [("7",), ("4/4",), ("2",)])
def test_a_flag_that_does_not_fit_is_an_error(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        report("a", rows=(16, 4, 4), flags=flags)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "8/0", "8/", "/8", "*=", "123456", "8=x", "1.5"])
def test_malformed_flags_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_flag(text)


@pytest.mark.parametrize(("count", "known"), [(65_536, 65_536), (65_537, None)])
def test_no_layer_has_more_heads_than_can_be(count: int, known: int | None) -> None:
    found = report("l.0.self_attn", rows=(count, count, count), config_json={"num_attention_heads": count})
    assert heads(found) == [known]
