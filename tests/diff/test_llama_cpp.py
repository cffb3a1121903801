"""Models of transformers against what llama.cpp's own converter made of them; see llama_cpp/make.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from tests.some import crossed

FOLDER = Path(__file__).parent / "llama_cpp"
PERMUTED = "the rows of the first and the second half lie in turn"
UNPACKED = "cut out of one packed tensor, then permuted"
RENAMED = "as transformers stores them, under other names"
KEPT = "as transformers stores them, under another name"

SAID: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("llama", "mistral", "mixtral", "arcee", "smollm3", "granite", "chameleon"),
            *("internlm3", "deepseek", "deci", "llada", "llava", "granitehybrid"),
        ),
        PERMUTED,
    ),
    **dict.fromkeys(("minicpm", "olmo", "arctic", "xverse"), "in biases they are left as transformers has them"),
    "xverse-groups": "K of fewer heads was permuted as if it had as many as share one",
    **dict.fromkeys(("internlm2", "bailingmoe", "baichuan"), UNPACKED),
    **dict.fromkeys(
        (
            *("qwen2", "qwen3", "gemma", "gemma2", "olmo2", "olmoe"),
            *("stablelm", "starcoder2", "nemotron", "apertus", "exaone", "phi2"),
            *("qwen3moe", "gemma3", "phimoe", "llama4", "kimi-vl", "t5"),
        ),
        RENAMED,
    ),
    **dict.fromkeys(("phi3", "mpt", "dbrx", "chatglm", "bailingmoe2"), KEPT),
    **dict.fromkeys(("gptneox", "bloom"), "has Q, K and V of each head together; the converter sorted them"),
    **dict.fromkeys(("falcon", "falcon-groups"), "has each kv head behind the heads that use it; the converter sorted"),
    **dict.fromkeys(("gpt2", "jais"), "[in, out]; the converter transposed it"),
    **dict.fromkeys(
        ("deepseek2", "glm-dsa", "kimi-linear"), "its converter now cuts it into attn_k_b, turned, and attn_v_b"
    ),
    "kimi-k25": "the first two of each four come before the last two of each",
    "qwen35": "the converter put the first of every key head before the second of every one",
    "qwen3next": "the converter sorted Q, K, V and gate of each key head into Q, K, V",
}
"""Words of the note that names what the converter did to each model."""
ASKED = {name for before, name in pairwise(["", *SAID]) if SAID[name] != SAID.get(before)}
"""Those, one of each kind and neighbourhood, whose weights are asked for their heads too: most of the time it takes."""


def assert_identical(difference: dict[str, Any]) -> None:
    """Of all weights; the biases are wider in the GGUF file, which the converter does not store in 16 bits."""
    for layer in difference["layers"]:
        for part in layer["parts"]:
            assert part["status"] in (("rounding", "identical") if part["part"].endswith("bias") else ("identical",))
            assert part["max_difference"] == 0


@pytest.mark.parametrize("name", SAID)
def test_the_values_are_the_same_and_the_transformation_is_named(name: str, run: Callable[..., Any]) -> None:
    quick = () if name in ASKED else ("--no-evidence",)
    difference = json.loads(run("diff", FOLDER / name, FOLDER / f"{name}.gguf", "-f", "json", *quick).out)
    assert difference["layers"]
    assert not difference["added"]
    assert not difference["removed"]
    assert_identical(difference)
    assert any("llama.cpp's converter" in note and SAID[name] in note for note in difference["notes"])
    assert all(layer["num_heads"] for layer in difference["layers"])


def test_scales_that_are_taken_in_are_rounding(run: Callable[..., Any]) -> None:
    """MiMo's float8 has a scale for each stripe; the converter multiplies them out and rounds to float16."""
    difference = run("diff", FOLDER / "mimo2", FOLDER / "mimo2.gguf", "-f", "json").json()
    (layer,) = difference["layers"]
    assert {part["status"] for part in layer["parts"]} == {"rounding", "identical"}
    assert max(part["relative_l2"] or 0 for part in layer["parts"]) < 3e-4
    assert any("a stripe of Q, K and V for each rank" in note for note in difference["notes"])


def test_what_the_converter_took_apart_by_fours_is_put_together() -> None:
    with open_checkpoint(FOLDER / "kimi-k25.gguf") as checkpoint:
        lines = python(inspect(checkpoint).attentions[0], checkpoint)
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    state = load_file(FOLDER / "kimi-k25" / "model.safetensors")
    q, k, _ = state["vision_tower.encoder.blocks.0.wqkv.weight"].chunk(3)
    assert torch.equal(found["q_original"], q)
    assert torch.equal(found["k_original"], k)


def test_every_converted_model_is_looked_at() -> None:
    made = {path.stem for path in FOLDER.glob("*.gguf")}
    assert {name.removesuffix("-q8_0") for name in made} == SAID.keys() | OTHERS


OTHERS = {"bert", "glm4", "mimo2"}


@pytest.mark.parametrize("name", ["bert", "glm4"])
def test_those_without_rows_of_their_own(name: str, run: Callable[..., Any]) -> None:
    assert_identical(json.loads(run("diff", FOLDER / name, FOLDER / f"{name}.gguf", "-f", "json").out))


@pytest.mark.parametrize("name", ["llama", "internlm2", "falcon-groups", "qwen2", "gpt2"])
def test_eight_bits_are_rounding(name: str, run: Callable[..., Any]) -> None:
    found = run("diff", FOLDER / name, FOLDER / f"{name}-q8_0.gguf", "-f", "json", "--no-evidence")
    statuses = {part["status"] for layer in json.loads(found.out)["layers"] for part in layer["parts"]}
    assert statuses <= {"rounding", "identical"}
    assert "rounding" in statuses


def permuted(rows: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp's converter."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def put_back(rows: Any, heads: int) -> Any:
    """Its reverse."""
    return rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


WRONG = {
    "forgotten": (0, 0, 2, "the rows of Q and K of B were not permuted, where they should be permuted once"),
    "K forgotten": (1, 0, 2, "the rows of K of B were not permuted"),
    "twice": (2, 2, 2, "the rows of Q and K of B were permuted twice"),
    "K as Q": (1, 1, 4, "the rows of K of B were permuted as if there were 4 heads, as Q has, and not 2"),
    "K as one": (1, 1, 1, "the rows of K of B were permuted as if there was 1 head, and not 2"),
}


@crossed(wrong=[*WRONG], file=[("llama", "F16"), ("llama", "Q4_0"), ("internlm2", "Q8_0")])
def test_a_wrong_permutation_is_named(
    wrong: str, file: tuple[str, str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    name, kind = file
    *how, said = WRONG[wrong]
    path = converted_otherwise(FOLDER / f"{name}.gguf", tmp_path / "m.gguf", Type[kind], *how)
    found = run("diff", FOLDER / name, path, "-f", "json", "--no-evidence")
    (layer,) = json.loads(found.out)["layers"]
    assert found.code == 1
    (relation,) = [one for one in layer["relations"] if one["code"] == "rotary-permuted"]
    assert relation["message"].startswith(said)
    exact = "the values are the same" if kind == "F16" else "the values are within rounding"
    assert exact in relation["message"]


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_needless_permutation_is_named(kind: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    path = converted_otherwise(FOLDER / "qwen2.gguf", tmp_path / "m.gguf", Type[kind], 2, 2, 2)
    (layer,) = json.loads(run("diff", FOLDER / "qwen2", path, "-f", "json", "--no-evidence").out)["layers"]
    (relation,) = layer["relations"]
    text = "the rows of Q and K of B were permuted, where they should not be"
    assert relation["message"].startswith(text)


def converted_otherwise(source: Path, path: Path, kind: Type, of_q: int, of_k: int, kv_heads: int) -> Path:
    """A converted file with Q and K permuted so many times, where the converter did once (of Qwen2 one time less)."""
    reader = gguf.GGUFReader(source)
    (architecture,) = (reader.fields[key].contents() for key in ("general.architecture",))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    before = architecture == "qwen2"
    for tensor in reader.tensors:
        values = np.array(tensor.data, np.float32)
        part = tensor.name.split(".")[2]
        if part in ("attn_q", "attn_k"):
            times, heads = (of_q, 4) if part == "attn_q" else (of_k, kv_heads)
            values = values if before else put_back(values, 4 if part == "attn_q" else 2)
            for _ in range(times - before):
                values = permuted(values, heads)
        kept = Type.F32 if values.ndim == 1 else kind
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kept), raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["deepseek2", "glm-dsa"])
@pytest.mark.parametrize("form", ["", ".gguf"])
def test_check_takes_latent_attention(name: str, form: str, run: Callable[..., Any]) -> None:
    """Q and K are of other widths there, so that no order of rotary embeddings can be judged."""
    found = run("check", FOLDER / f"{name}{form}")
    assert found.code == 0, found
    assert not found.err


def rewritten(source: Path, path: Path, wanted: str, kind: Type) -> Path:
    """A file with the tensors of one name in another type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if "." in field.name and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if wanted in tensor.name:
            data = gguf.quants.quantize(np.asarray(tensor.data, np.float32), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, np.asarray(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", [None, "Q8_0"])
def test_heads_of_two_tensors_are_rounded_as_those_of_one(
    kind: str | None, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """attn_k_b and attn_v_b in float16, or one of them in 8 bits, beside a source that has more digits."""
    state = {name: value.float() for name, value in load_file(FOLDER / "deepseek2" / "model.safetensors").items()}
    torch.manual_seed(0)
    for name, value in state.items():
        if "kv_b_proj" in name:
            state[name] = value * (1 + torch.rand_like(value) * 2.0**-12)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((FOLDER / "deepseek2" / "config.json").read_bytes())
    there = FOLDER / "deepseek2.gguf"
    if kind is not None:
        there = rewritten(FOLDER / "deepseek2.gguf", tmp_path / "k.gguf", "attn_v_b", Type[kind])
    difference = json.loads(run("diff", tmp_path, there, "-f", "json").out)
    statuses = {part["part"]: part["status"] for layer in difference["layers"] for part in layer["parts"]}
    assert statuses["k"] == statuses["v"] == "rounding"
    assert any("attn_k_b, turned, and attn_v_b" in note for note in difference["notes"])
