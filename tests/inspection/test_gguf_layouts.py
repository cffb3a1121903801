"""GGUF files: heads by their metadata, the row by their architecture, and code that undoes the permutation."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from qkvinspect.weights.values import whole
from tests.batches import batched

HEADS = {"q": 4, "k": 2}
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def permuted(rows: Any, heads: int) -> Any:
    """LlamaModel.permute of llama.cpp."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def written(path: Path, architecture: str, kv: int | list[int] = 2, quantised: bool = False) -> dict[str, Any]:
    """A model of two layers; what transformers would have of its first."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(4)
    writer.add_head_count_kv(kv)
    original = {part: rng.standard_normal((rows, 64)).astype("f4") for part, rows in (("q", 64), ("k", 32), ("v", 32))}
    for layer in range(2):
        for part, rows in original.items():
            stored = permuted(rows, HEADS[part]) if part in HEADS else rows
            data = gguf.quants.quantize(stored, Q8_0) if quantised else stored
            writer.add_tensor(f"blk.{layer}.attn_{part}.weight", data, raw_dtype=Q8_0 if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return original


@batched(
    "architecture row",
    [
        *(("llama", "gguf-permuted"), ("qwen2", "gguf-renamed"), ("baichuan", "gguf-unpacked-permuted")),
        # names that are a numbered part, a part, or another thing than attention elsewhere
        *((name, "gguf") for name in ("new", "ernie4_5", "ernie4_5-moe", "wavtokenizer-dec", "mamba", "text_2")),
    ],
)
@pytest.mark.parametrize("kv", [2, [2, 2]])
@pytest.mark.parametrize("quantised", [False, True])
def test_heads_and_row(architecture: str, row: str, kv: Any, quantised: bool, tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", architecture, kv, quantised)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        layers = inspect(checkpoint).attentions
        assert [layer.layer for layer in layers] == ["blk.0", "blk.1"]
        for layer in layers:
            assert layer.layout is not None
            assert layer.heads is not None
            assert layer.layout.id == row
            assert (layer.heads.num_heads, layer.heads.num_kv_heads, layer.heads.head_dim) == (4, 2, 16)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_code_gives_the_rows_of_transformers(quantised: bool, tmp_path: Path) -> None:
    original = written(tmp_path / "m.gguf", "llama", quantised=quantised)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        lines = python(inspect(checkpoint).attentions[0], checkpoint)
    found: dict[str, Any] = {"torch": torch, "gguf": gguf}
    exec(textwrap.dedent("\n".join(lines)), found)
    for part in HEADS:
        data = original[part]
        if quantised:
            stored = gguf.quants.dequantize(gguf.quants.quantize(data, Q8_0), Q8_0)
            assert np.array_equal(found[f"{part}_original"].numpy(), stored)
        else:
            assert np.array_equal(found[f"{part}_original"].numpy(), data)


def test_latent_attention_is_cut_as_transformers_has_it() -> None:
    """K and V have three axes each, one of them the heads, and K is turned."""
    folder = Path(__file__).parent.parent / "diff" / "llama_cpp"
    with open_checkpoint(folder / "deepseek2.gguf") as checkpoint, open_checkpoint(folder / "deepseek2") as original:
        (own,), (theirs,) = inspect(checkpoint).attentions, inspect(original).attentions
        assert own.heads == theirs.heads
        for part in "qkv":
            mine, other = own.part(part), theirs.part(part)
            assert mine is not None
            assert other is not None
            assert mine.heads == other.heads
            values = [whole(one.weight.as_matrix("out_in")) for one in (mine, other)]
            assert np.array_equal(*values)
        lines = python(own, checkpoint)
    found: dict[str, Any] = {"torch": torch, "gguf": gguf}
    exec(textwrap.dedent("\n".join(lines)), found)
    state = load_file(folder / "deepseek2" / "model.safetensors")
    kv = state["model.layers.0.self_attn.kv_b_proj.weight"].unflatten(0, (4, 16))
    assert torch.equal(found["k"].unflatten(0, (4, 8)), kv[:, :8])
    assert torch.equal(found["v"].unflatten(0, (4, 8)), kv[:, 8:])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("query", ["attn_q_b", "attn_q"])
def test_quantised_latent_attention(kind: str, query: str, tmp_path: Path) -> None:
    heads, nope, rope, v_dim, rank = 3, 32, 16, 64, 96
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_k_b": (heads, rank, nope),
        "attn_v_b": (heads, v_dim, rank),
        "attn_output": (64, heads * v_dim),
        query: (heads * (nope + rope), 64),
    }
    stored = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "deepseek2")
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(rank + rope)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(v_dim)
    values = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    for name, one in values.items():
        writer.add_tensor(f"blk.0.{name}.weight", gguf.quants.quantize(one, stored), raw_dtype=stored)
    writer.add_tensor("blk.0.attn_kv_a_mqa.weight", rng.standard_normal((rank + rope, 64)).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    k, v = (gguf.quants.dequantize(gguf.quants.quantize(values[f"attn_{one}_b"], stored), stored) for one in "kv")
    expected = np.concatenate([k.transpose(0, 2, 1), v], axis=1).reshape(-1, rank)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        (own,) = inspect(checkpoint).attentions
        assert own.heads is not None
        assert (own.heads.num_heads, own.heads.head_dim, own.heads.v_head_dim) == (heads, nope + rope, v_dim)
        weight = own.weights[0]
        assert np.array_equal(whole(weight.as_matrix("out_in")), expected)
        assert weight.encoding is not None
        some = range(3, 250, 7), range(5, 90, 3)
        assert np.array_equal(weight.encoding.decode(*some), expected[3:250:7, 5:90:3])
        slack = weight.encoding.slack(*map(range, expected.shape))
        exact = np.concatenate([values["attn_k_b"].transpose(0, 2, 1), values["attn_v_b"]], axis=1).reshape(-1, rank)
        assert slack is not None
        assert (np.abs(expected - exact) <= slack * (1 + 2**-3)).all()


CONTRADICTIONS = {
    "heads that do not divide": (
        {"heads": 3, "kv": 2, "dim": 16},
        (64, 32),
        None,
        "cannot be shared out over 3 heads",
    ),
    "fewer rows than heads of that width": ({"heads": 4, "kv": 4, "dim": 16}, (48, 48), None, "4 of them do not fit"),
    "half of the rows": ({"heads": 8, "kv": 8, "dim": 16}, (64, 64), None, "8 of them do not fit"),
    "another number of kv heads": ({"heads": 8, "kv": 2}, (64, 32), (8, 4), "4 kv heads by its rows, where the same"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_metadata_that_the_rows_deny_is_named(case: str, tmp_path: Path) -> None:
    """A GGUF file says what lies in it: nothing is put down to pruning or to ranks, of which llama.cpp knows none."""
    told, rows, heads, said = CONTRADICTIONS[case]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_head_count(told["heads"])
    writer.add_head_count_kv(told["kv"])
    if "dim" in told:
        writer.add_key_length(told["dim"])
        writer.add_value_length(told["dim"])
    values = np.random.default_rng(0)
    for part, count in zip("qkv", (*rows, rows[1]), strict=True):
        writer.add_tensor(f"blk.0.attn_{part}.weight", values.standard_normal((count, 64)).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        report = inspect(checkpoint)
    found = report.attentions[0].heads
    assert (found and (found.num_heads, found.num_kv_heads)) == heads
    assert any(said in finding.message and finding.severity == "warning" for finding in report.findings)


@pytest.mark.parametrize(
    ("architecture", "id"),
    [("phi3", "gguf-qkv-renamed"), ("nomic-bert", "gguf-qkv-renamed"), ("nobodys", "gguf-qkv")],
)
def test_a_packed_tensor_of_an_unknown_architecture_is_not_said_to_be_as_it_was(
    architecture: str, id: str, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_head_count(4)
    writer.add_tensor("blk.0.attn_qkv.weight", np.random.default_rng(0).standard_normal((96, 32)).astype("f4"))
    writer.add_tensor("blk.0.attn_output.weight", np.ones((32, 32), "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        (attention,) = inspect(checkpoint).attentions
    assert attention.layout is not None
    assert attention.layout.id == id
    assert ("depends on the architecture" in attention.layout.note) is (id == "gguf-qkv")
