"""GGUF and ONNX behind a URL: in one file, split over several, and with weights outside the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from safetensors.torch import load_file

from tests.hostile.writers.ggufs import F16, STRING, Entry, Writer
from tests.remote.server import Web
from tests.remote.test_ranges import shown

TESTS = Path(__file__).parents[1]
CONVERTED = TESTS / "diff" / "llama_cpp"
MODELS = TESTS / "formats" / "onnx_models"
WIDTH, LAYERS, HOLE = 256, 4, 1 << 29


def copied(source: Path, folder: Path) -> str:
    shutil.copy(source, folder)
    return source.name


@pytest.mark.parametrize("name", ["llama", "llama-q8_0", "falcon-groups", "qwen3next"])
def test_a_gguf_file(name: str, run: Callable[..., Any], tmp_path: Path, web: Web) -> None:
    file = copied(CONVERTED / f"{name}.gguf", tmp_path)
    assert shown(run, f"{web.url}/{file}") == shown(run, tmp_path / file)
    difference = run("diff", CONVERTED / name.removesuffix("-q8_0"), f"{web.url}/{file}", "--no-evidence", "-f", "json")
    statuses = {part["status"] for layer in difference.json()["layers"] for part in layer["parts"]}
    assert statuses <= {"identical", "rounding"}


def test_it_is_exported(run: Callable[..., Any], tmp_path: Path, web: Web) -> None:
    file, out = copied(CONVERTED / "llama.gguf", tmp_path), tmp_path / "out.safetensors"
    done = run("export", "--split", f"{web.url}/{file}", "-o", out, "--undo-permute")
    assert done.code == 0, done.err
    state = load_file(CONVERTED / "llama" / "model.safetensors")
    assert load_file(out)["blk.0.q_proj.weight"].equal(state["model.layers.0.self_attn.q_proj.weight"])


def large(path: Path) -> tuple[int, int]:
    """Half a gigabyte of another weight in each layer, as holes; bytes of the header, and of attention."""
    writer, entries, at = Writer(), [], 0
    for layer in range(LAYERS):
        shapes = {"ffn_down": (WIDTH, HOLE // WIDTH // 2), **{f"attn_{part}": (WIDTH, WIDTH) for part in "qkv"}}
        for part, sizes in shapes.items():
            entries.append(Entry(f"blk.{layer}.{part}.weight".encode(), sizes, F16, at))
            at += 2 * sizes[0] * sizes[1]
    words = writer.array(STRING, [writer.text(b"word%d" % n) for n in range(50_000)])
    keys = [
        (b"general.architecture", writer.string(b"qwen2")),
        (b"tokenizer.ggml.tokens", words),
        (b"qwen2.attention.head_count", writer.scalar(4, 8)),
    ]
    header = writer.file(writer.header(keys, entries), b"")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + at)
    return len(header), LAYERS * 3 * 2 * WIDTH * WIDTH


def test_of_a_large_one_only_header_and_attention_are_fetched(
    run: Callable[..., Any], tmp_path: Path, web: Web
) -> None:
    header, attention = large(tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").stat().st_size > 2e9
    remote = shown(run, f"{web.url}/model.gguf")
    assert remote == shown(run, tmp_path / "model.gguf")
    assert {layer["num_heads"] for layer in remote["attentions"]} == {8}
    sent = sum(asked.sent for asked in web.of("model.gguf"))
    assert attention * 0.9 <= sent <= header + attention + (2 << 20)
    assert len(web.of("model.gguf")) <= 20


def split(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=3)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for layer in range(2):
        for part, rows in (("q", 32), ("k", 16), ("v", 16), ("output", 32)):
            writer.add_tensor(f"blk.{layer}.attn_{part}.weight", rng.standard_normal((rows, 32)).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def test_a_split_one_whichever_file_is_named(run: Callable[..., Any], tmp_path: Path, web: Web) -> None:
    files = split(tmp_path)
    assert len(files) == 3
    here = shown(run, files[0])
    assert len(here["attentions"]) == 2
    for file in files:
        assert shown(run, f"{web.url}/{file.name}") == here
    files[2].unlink()
    missing = run("show", f"{web.url}/{files[0].name}")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert files[2].name in missing.err


@pytest.mark.parametrize("outside", [False, True])
def test_an_onnx_file(outside: bool, run: Callable[..., Any], tmp_path: Path, web: Web) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load(MODELS / "encoder-dynamo.onnx")
    more = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if outside else {}
    onnx.save(model, path, **more)
    assert (tmp_path / "weights.bin").exists() == outside
    assert shown(run, f"{web.url}/model.onnx") == shown(run, path)
    assert bool(web.of("weights.bin")) == outside
    found = run("diff", MODELS / "encoder.safetensors", f"{web.url}/model.onnx", "--no-evidence", "-f", "json")
    assert {layer["status"] for layer in found.json()["layers"]} == {"identical"}
