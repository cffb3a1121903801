"""The table of transformers: its form, known answers, and the library itself where it is installed."""

import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from qkvinspect.inspection.facts import tables
from qkvinspect.inspection.facts.tables.transformers import HeadKeys, head_keys
from tests.batches import batched

TABLE = Path(tables.__file__).with_name("transformers.json")

KNOWN = [
    ("bert", "bert.encoder.layer.3.attention.self", HeadKeys("num_attention_heads", "num_attention_heads", "")),
    ("bert", "encoder.layer.11.attention.self", HeadKeys("num_attention_heads", "num_attention_heads", "")),
    ("bert", "bert.encoder.layer.0.crossattention.self", HeadKeys("num_attention_heads", "num_attention_heads", "")),
    ("llama", "model.layers.31.self_attn", HeadKeys("num_attention_heads", "num_key_value_heads", "head_dim")),
    ("t5", "encoder.block.0.layer.0.SelfAttention", HeadKeys("num_heads", "num_heads", "d_kv")),
    ("t5", "decoder.block.5.layer.1.EncDecAttention", HeadKeys("num_heads", "num_heads", "d_kv")),
    (
        "whisper",
        "model.encoder.layers.0.self_attn",
        HeadKeys("encoder_attention_heads", "encoder_attention_heads", ""),
    ),
    (
        "whisper",
        "model.decoder.layers.0.encoder_attn",
        HeadKeys("decoder_attention_heads", "decoder_attention_heads", ""),
    ),
    ("bart", "decoder.layers.0.encoder_attn", HeadKeys("decoder_attention_heads", "decoder_attention_heads", "")),
    (
        "clip",
        "text_model.encoder.layers.7.self_attn",
        HeadKeys("text_config.num_attention_heads", "text_config.num_attention_heads", ""),
    ),
    (
        "clip",
        "vision_model.encoder.layers.7.self_attn",
        HeadKeys("vision_config.num_attention_heads", "vision_config.num_attention_heads", ""),
    ),
    (
        "llava",
        "language_model.model.layers.2.self_attn",
        HeadKeys("text_config.num_attention_heads", "text_config.num_key_value_heads", "text_config.head_dim"),
    ),
    (
        "llava",
        "vision_tower.encoder.layers.2.self_attn",
        HeadKeys("vision_config.num_attention_heads", "vision_config.num_attention_heads", ""),
    ),
    ("qwen2_5_vl", "visual.blocks.0.attn", HeadKeys("vision_config.num_heads", "vision_config.num_heads", "")),
    (
        "qwen2_5_vl",
        "model.layers.0.self_attn",
        HeadKeys("text_config.num_attention_heads", "text_config.num_key_value_heads", ""),
    ),
    (
        "grounding-dino",
        "model.encoder.layers.4.text_enhancer_layer.self_attn",
        HeadKeys("encoder_attention_heads", "encoder_attention_heads", "", "2"),
    ),
    (
        "convbert",
        "convbert.encoder.layer.0.attention.self",
        HeadKeys("num_attention_heads", "num_attention_heads", "", "head_ratio"),
    ),
    (
        "perceiver",
        "perceiver.encoder.self_attends.3.attention.self",
        HeadKeys("num_self_attention_heads", "num_self_attention_heads", ""),
    ),
    (
        "perceiver",
        "perceiver.encoder.cross_attention.attention.self",
        HeadKeys("num_cross_attention_heads", "num_cross_attention_heads", ""),
    ),
    (
        "gemma3n",
        "model.audio_tower.conformer.0.attention.attn",
        HeadKeys("audio_config.conf_num_attention_heads", "audio_config.conf_num_attention_heads", ""),
    ),
    ("swin", "swin.encoder.layers.2.blocks.17.attention.self", HeadKeys("num_heads[0]", "num_heads[0]", "")),
    ("deepseek_v3", "model.layers.3.self_attn", HeadKeys("num_attention_heads", "num_attention_heads", "")),
    (
        "qwen3_next",
        "model.layers.0.linear_attn",
        HeadKeys("linear_num_key_heads", "linear_num_key_heads", "linear_key_head_dim"),
    ),
]


@batched("model_type layer said", KNOWN)
def test_known_answers(model_type: str, layer: str, said: HeadKeys) -> None:
    assert head_keys(model_type, layer) == said


@pytest.mark.parametrize(
    ("model_type", "layer"),
    [
        ("no_such_model", "model.layers.0.self_attn"),
        ("llama", "model.layers.0.mlp"),
        ("llama", "model.layers.x.self_attn"),
        ("llama", ""),
        ("bart", "layers.0.self_attn"),  # the encoder's or the decoder's
        ("clip", "encoder.layers.0.self_attn"),
        ("perceiver", "perceiver.decoder.decoding_cross_attention.attention.self"),  # 8 in the code, no key
    ],
)
def test_what_it_does_not_know(model_type: str, layer: str) -> None:
    assert head_keys(model_type, layer) is None


def test_the_type_of_a_layer_chooses_where_the_class_does() -> None:
    layer = "model.language_model.layers.5.self_attn"
    assert head_keys("gemma4", layer) is None
    sliding, full = (head_keys("gemma4", layer, kind) for kind in ("sliding_attention", "full_attention"))
    heads = "text_config.num_attention_heads"
    assert sliding == HeadKeys(heads, "text_config.num_key_value_heads", "text_config.head_dim")
    assert full == HeadKeys(heads, "text_config.num_global_key_value_heads", "text_config.global_head_dim")


def test_form_and_size() -> None:
    table = json.loads(TABLE.read_text("utf-8"))
    answers, models = table["answers"], table["models"]
    assert TABLE.stat().st_size < 150_000
    assert list(models) == sorted(models)
    path = re.compile(r"([A-Za-z_]\w*(\.\w+)*(\[\d\])?)?")
    for heads, kv, dim, divided_by in answers:
        assert all(path.fullmatch(one) for one in (heads, kv, dim)), (heads, kv, dim)
        assert heads or dim
        assert divided_by.isdecimal() or path.fullmatch(divided_by)
    for model_type, patterns in models.items():
        if isinstance(patterns, str):
            assert isinstance(models[patterns], dict), model_type
            continue
        for pattern, said in patterns.items():
            assert not re.search(r"(^|\.)\d+(\.|$)", pattern)
            for one in said.values() if isinstance(said, dict) else [said]:
                assert one is None or 0 <= one < len(answers)


SAMPLE = [
    "bert",
    "bart",
    "clip",
    "convbert",
    "deepseek_v3",
    "gemma4",
    "gpt2",
    "llama",
    "llava",
    "perceiver",
    "swin",
    "t5",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("model_type", SAMPLE)
def test_it_is_still_true_of_the_library(model_type: str) -> None:
    generator = import_module("tests.tables.generate_transformers")
    learnt = generator.learn(model_type)["found"]
    table = json.loads(TABLE.read_text("utf-8"))
    stored = table["models"][model_type]
    stored = table["models"][stored] if isinstance(stored, str) else stored

    def answer(said: int | dict[str, int] | None) -> object:
        if isinstance(said, dict):
            return {kind: answer(one) for kind, one in said.items()}
        return None if said is None else tuple(table["answers"][said])

    known = {pattern: said for pattern, said in learnt.items() if pattern in stored}
    assert known.keys() == stored.keys()
    assert known == {pattern: answer(said) for pattern, said in stored.items()}
