"""nn.MultiheadAttention is the oracle: what is exported computes what the real module computes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qkvinspect.cli import main

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def attention(parts: dict[str, torch.Tensor], state: dict[str, torch.Tensor], heads: int, q, k, v) -> torch.Tensor:
    """Scaled dot-product attention written from its definition, on the exported tensors."""

    def project(name: str, inputs: torch.Tensor) -> torch.Tensor:
        bias = parts.get(f"attn.{name}_proj.bias")
        projected = inputs @ parts[f"attn.{name}_proj.weight"].T
        return projected if bias is None else projected + bias

    queries, keys, values = project("q", q), project("k", k), project("v", v)
    if "attn.bias_k" in state:  # one more position, after the projection
        keys = torch.cat([keys, state["attn.bias_k"].expand(keys.shape[0], 1, -1)], dim=1)
        values = torch.cat([values, state["attn.bias_v"].expand(values.shape[0], 1, -1)], dim=1)
    queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    weights = torch.softmax(queries @ keys.mT / math.sqrt(queries.shape[-1]), dim=-1)
    mixed = (weights @ values).transpose(1, 2).flatten(2) @ state["attn.out_proj.weight"].T
    return mixed + state["attn.out_proj.bias"] if "attn.out_proj.bias" in state else mixed


@SLOW
@given(
    heads=st.sampled_from([1, 2, 3, 4]),
    head_dim=st.integers(1, 6),
    kdim=st.none() | st.integers(1, 20),
    vdim=st.none() | st.integers(1, 20),
    bias=st.booleans(),
    add_bias_kv=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    suffixes=st.tuples(st.sampled_from([".pt", ".safetensors"]), st.sampled_from([".pt", ".safetensors"])),
    seed=st.integers(0, 2**31),
)
def test_exported_parts_reproduce_the_module(
    heads, head_dim, kdim, vdim, bias, add_bias_kv, dtype, suffixes, seed
) -> None:
    torch.manual_seed(seed)
    embed_dim = heads * head_dim
    module = torch.nn.MultiheadAttention(
        embed_dim, heads, bias=bias, add_bias_kv=add_bias_kv, kdim=kdim, vdim=vdim, batch_first=True
    ).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    module = module.to(dtype)
    state = {f"attn.{name}": value for name, value in module.state_dict().items()}
    with TemporaryDirectory() as folder:
        source, target = Path(folder, f"model{suffixes[0]}"), Path(folder, f"qkv{suffixes[1]}")
        torch.save(state, source) if source.suffix == ".pt" else save_file(state, source)
        assert main(["export", "--split", str(source), "-o", str(target)]) == 0
        parts = torch.load(target, weights_only=True) if target.suffix == ".pt" else load_file(target)
    assert {tensor.dtype for tensor in parts.values()} == {dtype}
    assert len(parts) == (6 if bias else 3)
    inputs = [torch.randn(2, n, w or embed_dim, dtype=torch.float64) for n, w in ((3, None), (5, kdim), (5, vdim))]
    with torch.no_grad():
        expected, _ = module.to(torch.float64)(*inputs)
    wide = {name: value.to(torch.float64) for name, value in parts.items()}
    found = attention(wide, {name: value.to(torch.float64) for name, value in state.items()}, heads, *inputs)
    assert (found - expected).abs().max() <= 1e-10 * max(1.0, expected.abs().max())


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The state_dict of the mission: nn.Transformer(), 512 wide, 6 + 6 layers, 176 MB, in both formats."""
    folder = tmp_path_factory.mktemp("transformer")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.nn.Transformer().state_dict()
    torch.save(state, folder / "model.pt")
    save_file(dict(state), folder / "model.safetensors")
    return folder, state


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_the_transformer_of_the_mission(transformer, run, name: str) -> None:
    folder, state = transformer
    assert (folder / name).stat().st_size > 176e6
    report = run("show", folder / name, "--format", "json", "--heads", "8").json()
    assert len(report["attentions"]) == 18
    first = next(a for a in report["attentions"] if a["layer"] == "encoder.layers.0.self_attn")
    assert [first[part]["rows"] for part in "qkv"] == [[[0, 512]], [[512, 1024]], [[1024, 1536]]]
    for attention in report["attentions"]:
        weight = state[f"{attention['layer']}.in_proj_weight"].to(torch.float64)
        bias = state[f"{attention['layer']}.in_proj_bias"].to(torch.float64)
        for part, rows, biases in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True):
            assert attention[part]["norm"] == pytest.approx(float(torch.linalg.norm(rows)), rel=1e-6)
            assert attention[part]["bias_norm"] == pytest.approx(float(torch.linalg.norm(biases)), rel=1e-6)
            norms = [float(torch.linalg.norm(head)) for head in rows.unflatten(0, (8, 64))]
            assert [head["norm"] for head in attention[part]["heads"]] == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_its_export_is_bit_equal_to_chunk(transformer, run, tmp_path: Path, name: str) -> None:
    folder, state = transformer
    assert run("export", "--split", folder / name, "-o", tmp_path / "qkv.safetensors").code == 0
    parts = load_file(tmp_path / "qkv.safetensors")
    assert len(parts) == 18 * 6
    for key, value in state.items():
        if key.endswith(("in_proj_weight", "in_proj_bias")):
            layer, _, kind = key.rpartition(".in_proj_")
            for part, expected in zip("qkv", value.chunk(3), strict=True):
                assert torch.equal(parts[f"{layer}.{part}_proj.{kind}"], expected)
