"""Which rows of a head a rotary embedding turns: what the tables say against transformers' own code."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qkvinspect.lineage.positions import ABSOLUTE, HALVES, NEIGHBOURS, Positions, positions

ROTARY = {**HALVES, **NEIGHBOURS}
FOLDERS = {"clip_text_model": "clip", "clip_vision_model": "clip", "openai-gpt": "openai", "xlm-roberta": "xlm_roberta"}


def modelling(model: str, what: str = "modeling") -> ModuleType:
    pytest.importorskip("transformers")
    folder = FOLDERS.get(model, model)
    return importlib.import_module(f"transformers.models.{folder}.{what}_{folder}")


@pytest.mark.parametrize("model", ROTARY)
def test_transformers_turns_the_rows_that_the_table_says(model: str) -> None:
    module: Any = modelling(model)
    turn = module.rotate_every_two if hasattr(module, "rotate_every_two") else module.rotate_half
    moved = turn(torch.arange(1.0, 9.0).reshape(1, 1, 1, 8)).flatten().tolist()
    halves, neighbours = [-5, -6, -7, -8, 1, 2, 3, 4], [-2, 1, -4, 3, -6, 5, -8, 7]
    assert moved == (halves if model in HALVES else neighbours)


@pytest.mark.parametrize("model", ROTARY)
def test_transformers_turns_as_many_rows_as_the_table_says(model: str) -> None:
    module = modelling(model, "configuration")
    (found,) = (one for _, one in inspect.getmembers(module, inspect.isclass)
                if getattr(one, "model_type", None) == model)  # fmt: skip
    config: Any = found()
    if isinstance(ROTARY[model], int):
        assert config.rotary_dim == ROTARY[model]
    else:
        assert config.rope_parameters.get("partial_rotary_factor", 1.0) == ROTARY[model]


@pytest.mark.parametrize("model", sorted(ABSOLUTE))
def test_transformers_adds_positions_to_the_embedding_alone(model: str) -> None:
    source = inspect.getsource(modelling(model))
    assert not re.search(
        "rotary_emb|rotate_half|inv_freq|alibi|relative_attention|relative_position|distance_emb", source
    )
    assert re.search("embed_positions|position_embedding|positions_embed|wpe", source)


def asked(width: int = 8, **config: object) -> Positions:
    """What is known of a layer of that config, without a file."""
    attention: Any = SimpleNamespace(
        layer="layers.0",
        layout=SimpleNamespace(nn_multihead=False, rotary=None, weights=()),
        heads=SimpleNamespace(width=lambda part: width),
        output=object(), others=(), weights=(), biases=(), out=None, out_bias=None,
    )  # fmt: skip
    report: Any = SimpleNamespace(
        checkpoint=SimpleNamespace(path="a.safetensors", tensors={}, configs=[SimpleNamespace(values=config)])
    )
    return positions(report, attention)


@pytest.mark.parametrize(
    ("config", "kind", "dim"),
    [
        ({"model_type": "llama"}, "halves", 8),
        ({"model_type": "gpt_neox"}, "halves", 2),
        ({"model_type": "gpt_neox", "rotary_pct": 0.5}, "halves", 4),
        ({"model_type": "phi", "rope_parameters": {"partial_rotary_factor": 0.75}}, "halves", 6),
        ({"model_type": "phi", "partial_rotary_factor": 1}, "halves", 8),
        ({"model_type": "glm"}, "neighbours", 4),
        ({"model_type": "gptj", "rotary_dim": 4}, "neighbours", 4),
        ({"model_type": "gptj", "rotary_dim": None}, "neighbours", 8),
        ({"model_type": "bert"}, "none", 0),
    ],
)
def test_what_a_config_says_is_followed_before_what_is_usual(config: dict[str, object], kind: str, dim: int) -> None:
    found = asked(**config)
    assert (found.kind, found.rotary_dim) == (kind, dim)
    assert len(found.pairs(8)) == dim // 2


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nobody", "rope_theta": 10000.0},
        {"model_type": "gptj", "rotary_dim": -4},
        {"model_type": "gptj", "rotary_dim": 5},
        {"model_type": "gptj", "rotary_dim": True},
        {"model_type": "gptj"},
        {"model_type": "phi", "partial_rotary_factor": 0.0},
        {"model_type": "phi", "partial_rotary_factor": 2},
        {"model_type": "phi", "partial_rotary_factor": float("nan")},
        {"model_type": "phi", "partial_rotary_factor": "half"},
    ],
)
def test_what_is_not_known_is_not_guessed(config: dict[str, object]) -> None:
    with pytest.raises(Exception, match="tells positions apart is not known"):
        asked(**config)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"alibi": True}, "ALiBi"),
        ({"model_type": "jina", "position_embedding_type": "alibi"}, "ALiBi"),
        ({"model_type": "baichuan"}, "ALiBi"),
        ({"model_type": "mpnet"}, "a bias of its own for how far"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "a bias of its own for how far"),
        ({"attn_config": {"alibi": True}}, "ALiBi"),
        ({"model_type": "bloom"}, "ALiBi"),
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"attn_config": {"clip_qkv": 6}}, "clip_qkv"),
    ],
)
def test_what_hangs_on_heads_or_their_basis_forbids_any_change(config: dict[str, object], why: str) -> None:
    with pytest.raises(Exception, match=why):
        asked(**{"model_type": "llama", **config})


def test_a_rotation_of_the_pairs_commutes_with_the_embedding() -> None:
    for kind in ("halves", "neighbours"):
        a, b = (turned(kind, angle) for angle in (0.4, 1.1))
        assert np.allclose(a @ b, b @ a)


def turned(kind: Any, angle: float) -> Any:
    """A rotation of the first six rows of a head of eight, each pair faster than the one before."""
    whole = np.eye(8)
    for place, (i, j) in enumerate(Positions(kind, 6).pairs(8)):
        cos, sin = np.cos(angle * (place + 1)), np.sin(angle * (place + 1))
        whole[np.ix_([i, j], [i, j])] = [[cos, -sin], [sin, cos]]
    return whole
