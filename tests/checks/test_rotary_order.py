"""The order of rows that rotary embeddings need, judged on weights that were made to turn together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.evidence.rotary_order import places_of, smoothness
from tests.some import crossed

HEADS, KV_HEADS, WIDTH, COLUMNS, LAYERS = 4, 2, 16, 64, 3
MODELS = Path(__file__).parent / "rotary_models"
TRAINED = ("c",)
Weights = dict[str, Any]
CODE = FindingCode.ROTARY_ORDER_AGAINST_WEIGHTS


def turning(seed: int = 0) -> list[Weights]:
    """Layers whose rows i and i + d/2 of Q and K are alike, crosswise: what a rotary embedding trains into them."""
    rng = np.random.default_rng(seed)
    layers: list[Weights] = []
    for _ in range(LAYERS):
        k = rng.standard_normal((KV_HEADS, WIDTH, COLUMNS))
        partner = np.roll(k, WIDTH // 2, axis=1)
        signs = np.where(np.arange(WIDTH) < WIDTH // 2, 1, -1)[:, None]
        tied = np.repeat(0.5 * k + 0.7 * signs * partner, HEADS // KV_HEADS, axis=0)
        q = tied + rng.standard_normal((HEADS, WIDTH, COLUMNS))
        v = rng.standard_normal((KV_HEADS * WIDTH, COLUMNS))
        o = rng.standard_normal((COLUMNS, HEADS * WIDTH))
        layers.append({"q": q.reshape(-1, COLUMNS), "k": k.reshape(-1, COLUMNS), "v": v, "o": o})
    return layers


def permuted(rows: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp's converter."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def put_back(rows: Any, heads: int) -> Any:
    """Its reverse."""
    return rows.reshape(heads, len(rows) // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def converted(layers: list[Weights], q: Callable[[Any], Any], k: Callable[[Any], Any]) -> list[Weights]:
    return [{**layer, "q": q(layer["q"]), "k": k(layer["k"])} for layer in layers]


def as_transformers(folder: Path, layers: list[Weights], model_type: str = "llama", **more: Any) -> Path:
    folder.mkdir()
    state = {
        f"model.layers.{n}.self_attn.{part}_proj.weight": np.ascontiguousarray(rows, np.float32)
        for n, layer in enumerate(layers)
        for part, rows in layer.items()
    }
    save_file(state, folder / "model.safetensors")
    config = {"model_type": model_type, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, **more}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def as_gguf(path: Path, layers: list[Weights], architecture: str = "llama", kind: str = "F16", turns: int = 0) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if turns:
        writer.add_rope_dimension_count(turns)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    for n, layer in enumerate(layers):
        for part, rows in layer.items():
            data = np.ascontiguousarray(rows, np.float32)
            quantised = gguf.quants.quantize(data, gguf.GGMLQuantizationType[kind])
            writer.add_tensor(f"blk.{n}.{names[part]}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def judged(run: Callable[..., Any]) -> Callable[[Path], list[str]]:
    """What the check says of a checkpoint, a message a layer."""

    def judged(path: Path) -> list[str]:
        found = run("check", path, "-f", "json", "--no-evidence", "--select", CODE)
        assert found.code in (0, 1), found
        return [one["message"] for one in json.loads(found.out)["checkpoints"][0]["findings"]]

    return judged


def of(heads: int, times: int = 1) -> Callable[[Any], Any]:
    def done(rows: Any) -> Any:
        for _ in range(times):
            rows = permuted(rows, heads)
        return rows

    return done


def same(rows: Any) -> Any:
    return rows


RIGHT = (of(HEADS), of(KV_HEADS))
WRONG = {
    "forgotten": ((same, same), "Q has its rows in halves and K has its rows in halves"),
    "K forgotten": ((of(HEADS), same), "K has its rows in halves"),
    "Q forgotten": ((same, of(KV_HEADS)), "Q has its rows in halves"),
    "twice": ((of(HEADS, 2), of(KV_HEADS, 2)), "Q has its rows as if they had been put in turns twice and K"),
    "K as Q": ((of(HEADS), of(HEADS)), "K was put in turns as if it had 4 heads, as Q has, and not 2"),
}


COUNTS = {"half": (HEADS // 2, KV_HEADS // 2), "double": (2 * HEADS, 2 * KV_HEADS), "one": (1, 1)}
"""Numbers of heads that the permutation took both to have."""


@crossed(counts=[*COUNTS], kind=["F32", "F16", "Q8_0", "Q4_0"])
def test_other_numbers_of_heads_are_named(
    counts: str, kind: str, tmp_path: Path, judged: Callable[[Path], list[str]]
) -> None:
    q, k = COUNTS[counts]
    turns = np.arange(WIDTH) % (WIDTH // 2)
    sizes = {"q": np.tile(1 + 0.15 * turns, HEADS)[:, None], "k": np.tile(2 - 0.1 * turns, KV_HEADS)[:, None]}
    layers = [{part: rows * sizes.get(part, 1) for part, rows in layer.items()} for layer in turning()]
    messages = judged(as_gguf(tmp_path / "m.gguf", converted(layers, of(q), of(k)), kind=kind, turns=WIDTH))
    assert len(messages) == LAYERS
    for message in messages:
        assert f"put in turns as if they had {q} head" in message
        assert "and not 4 heads and 2 kv heads" in message


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_right_conversion_is_no_finding(kind: str, tmp_path: Path, judged: Callable[[Path], list[str]]) -> None:
    assert not judged(as_gguf(tmp_path / "m.gguf", converted(turning(), *RIGHT), kind=kind))
    assert not judged(as_gguf(tmp_path / "q.gguf", turning(), "qwen2", kind))


@crossed(wrong=[*WRONG], kind=["F32", "F16", "Q8_0", "Q4_0"])
def test_a_wrong_one_is_named(wrong: str, kind: str, tmp_path: Path, judged: Callable[[Path], list[str]]) -> None:
    how, said = WRONG[wrong]
    messages = judged(as_gguf(tmp_path / "m.gguf", converted(turning(), *how), kind=kind))
    assert len(messages) == LAYERS
    for message in messages:
        assert message.startswith(said)
        assert message.endswith("need the rows of each head of both halves in turn")


def test_it_holds_for_transformers_too(tmp_path: Path, judged: Callable[[Path], list[str]]) -> None:
    assert not judged(as_transformers(tmp_path / "right", turning()))
    (first, *_) = judged(as_transformers(tmp_path / "left", converted(turning(), *RIGHT)))
    both = "Q has the rows of both halves in turn, put so as of 4 heads or as of 2, which K has,"
    assert first.startswith(f"{both} and K has the rows of both halves in turn")
    (first, *_) = judged(as_transformers(tmp_path / "as K", converted(turning(), of(KV_HEADS), same)))
    assert first.startswith(f"{both}; this format")
    back = converted(turning(), lambda rows: put_back(rows, HEADS), lambda rows: put_back(rows, KV_HEADS))
    (first, *_) = judged(as_transformers(tmp_path / "back", back))
    assert "as if turns had been undone where there were none" in first
    other = as_transformers(tmp_path / "cohere", turning(), "cohere")
    assert judged(other)[0].endswith("need the rows of each head of both halves in turn")


@pytest.mark.parametrize(
    ("model_type", "more"),
    [("gpt_neox", {}), ("nobodys", {}), ("llama", {"partial_rotary_factor": 0.5})],
    ids=["partly turned", "unknown", "partly turned by its config"],
)
def test_what_is_not_known_is_not_judged(
    model_type: str, more: dict[str, Any], tmp_path: Path, judged: Callable[[Path], list[str]]
) -> None:
    assert not judged(as_transformers(tmp_path / "m", converted(turning(), *RIGHT), model_type, **more))


def test_random_weights_are_not_judged(tmp_path: Path, judged: Callable[[Path], list[str]]) -> None:
    rng = np.random.default_rng(1)
    for seed in range(5):
        noise = [{part: rng.standard_normal(rows.shape) for part, rows in layer.items()} for layer in turning(seed)]
        assert not judged(as_transformers(tmp_path / str(seed), noise))


@pytest.mark.parametrize(("width", "share"), [(16, 2), (64, 3), (128, 8), (8, 1)])
def test_places_are_those_of_the_converter(width: int, share: int) -> None:
    rows = np.arange(width)[:, None]
    once = permuted(rows, 1)
    assert np.array_equal(once[places_of("neighbours", width, share)], rows)
    assert np.array_equal(permuted(once, 1)[places_of("twice", width, share)], rows)
    assert np.array_equal(put_back(rows, 1)[places_of("undone", width, share)], rows)
    assert np.array_equal(rows[places_of("halves", width, share)], rows)
    if width % share == 0 and width // share % 2 == 0:
        assert np.array_equal(permuted(rows, share)[places_of("with the heads of Q", width, share)], rows)


@pytest.mark.mass
def test_no_verdict_on_trained_models_is_wrong(tmp_path: Path) -> None:
    """Trains those that set no threshold, an hour on one core; or takes them from QKVINSPECT_ROTARY_MODELS."""
    from tests.checks.rotary_models import make, matrix

    folder = Path(os.environ.get("QKVINSPECT_ROTARY_MODELS", tmp_path / "models"))
    make.main(str(folder), *make.HELD_OUT)
    sums = matrix.run(folder, list(make.HELD_OUT))
    assert not sums["WRONG"]
    assert sums["right"] >= 0.9 * sums.total()


@pytest.mark.parametrize("name", TRAINED)
def test_small_trained_models_are_judged(name: str, tmp_path: Path) -> None:
    from tests.checks.rotary_models import matrix

    for kind, case, found, why in matrix.judged(MODELS / name, tmp_path):
        assert found == "right", (kind, case, why)


def test_the_norms_of_rows_tell_in_which_order_they_lie() -> None:
    rng = np.random.default_rng(0)
    turns = np.arange(32) % 16
    norms = 0.05 * (turns - 12) + 0.1 * rng.standard_normal((4, 32))
    for order in ("halves", "neighbours", "twice", "undone"):
        stored = np.empty_like(norms)
        stored[:, places_of(order, 32, 2)] = norms
        gains = {one: smoothness(stored, places_of(one, 32, 2)) for one in ("halves", "neighbours", "twice", "undone")}
        assert max(gains, key=gains.__getitem__) == order
        assert gains[order] > 100
    assert abs(np.mean([smoothness(rng.standard_normal((4, 32)), np.arange(32)) for _ in range(300)])) < 0.5


def test_one_layer_that_was_forgotten_is_named_alone(tmp_path: Path, run: Callable[..., Any]) -> None:
    layers = turning()
    right = converted(layers, lambda q: permuted(q, HEADS), lambda k: permuted(k, KV_HEADS))
    for forgotten in range(LAYERS):
        mixed = [layers[n] if n == forgotten else right[n] for n in range(LAYERS)]
        path = as_gguf(tmp_path / f"{forgotten}.gguf", mixed)
        told = run("check", path, "-f", "json", "--no-evidence", "--select", CODE).json()
        (found,) = told["checkpoints"][0]["findings"]
        assert found["layer"] == f"blk.{forgotten}"
        assert "Q has its rows in halves and K has its rows in halves" in found["message"]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "starcoder2"])
def test_heads_that_turn_in_part_are_not_judged(
    architecture: str, tmp_path: Path, judged: Callable[[Path], list[str]]
) -> None:
    """Their rows that turn are others than those that the rule asks about."""
    wrong = turning()
    if architecture != "llama":
        wrong = converted(wrong, lambda q: permuted(q, HEADS), lambda k: permuted(k, KV_HEADS))
    assert judged(as_gguf(tmp_path / "whole.gguf", wrong, architecture, turns=WIDTH))
    assert not judged(as_gguf(tmp_path / "half.gguf", wrong, architecture, turns=WIDTH // 2))
