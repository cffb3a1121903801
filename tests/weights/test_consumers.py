"""Every consumer of numbers agrees with torch on what an encoded weight is: one test, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of

State = dict[str, torch.Tensor]


def scaled(shape: tuple[int, ...], leaf: str) -> tuple[State, dict[str, torch.Tensor]]:
    """Float8 projections with scales of a shape, and what torch makes of them."""
    torch.manual_seed(len(shape) + sum(shape))
    stored: State = {}
    values: dict[str, torch.Tensor] = {}
    for part in "qkvo":
        codes = torch.randn(256, 256).to(torch.float8_e4m3fn)
        scale = torch.rand(shape) + 0.5
        wide = scale
        if len(shape) == 2:
            high, wide_by = 256 // shape[0], 256 // shape[1]
            wide = scale.repeat_interleave(high, 0).repeat_interleave(wide_by, 1)
        stored |= {f"l.0.self_attn.{part}_proj.weight": codes, f"l.0.self_attn.{part}_proj.{leaf}": scale}
        values[part] = codes.float() * wide
    return stored, values


def normalised() -> tuple[State, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    stored: State = {}
    values: dict[str, torch.Tensor] = {}
    for part in "qkvo":
        v, g = torch.randn(256, 256), torch.rand(256, 1) + 0.5
        prefix = f"l.0.self_attn.{part}_proj.parametrizations.weight.original"
        stored |= {f"{prefix}0": g, f"{prefix}1": v}
        values[part] = torch._weight_norm(v, g, 0)
    return stored, values


KINDS = {
    "one scale": lambda: scaled((), "weight_scale"),
    "a scale of single files": lambda: scaled((), "scale_weight"),
    "a scale a row": lambda: scaled((256, 1), "weight_scale"),
    "a scale for 128 of a row": lambda: scaled((256, 2), "weight_scale_inv"),
    "a scale a block": lambda: scaled((2, 2), "weight_scale_inv"),
    "weight norm": normalised,
}


@pytest.fixture(params=KINDS)
def case(request, tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """The encoded file, its twin in float32, and the numbers."""
    stored, values = KINDS[request.param]()
    encoded, twin = tmp_path / "encoded.safetensors", tmp_path / "twin.safetensors"
    save_file(stored, encoded)
    save_file({f"l.0.self_attn.{part}_proj.weight": value for part, value in values.items()}, twin)
    return encoded, twin, values


def test_show(case, run) -> None:
    path, _, values = case
    found = json.loads(run("show", path, "--heads", "4", "-f", "json").out)["attentions"][0]
    for part in "qkv":
        assert found[part]["norm"] == pytest.approx(float(values[part].double().norm()), rel=1e-6)
        heads = values[part].double().reshape(4, -1).norm(dim=1)
        assert [head["norm"] for head in found[part]["heads"]] == pytest.approx(heads.tolist(), rel=1e-6)


def test_api(case) -> None:
    path, _, values = case
    with qkvinspect.open(path, heads="4") as checkpoint:
        layer = checkpoint.attentions["l.0.self_attn"]
        for part in "qkv":
            np.testing.assert_allclose(getattr(layer, part).numpy(), values[part].numpy(), rtol=4e-7)
            torch.testing.assert_close(getattr(layer.heads[1], part).torch(), values[part][64:128], rtol=4e-7, atol=0)


def test_export_and_convert(case, run, tmp_path: Path) -> None:
    path, _, values = case
    out, packed = tmp_path / "out.safetensors", tmp_path / "packed.safetensors"
    assert run("export", "--split", path, "-o", out, "--dequantize", "float32", "--no-evidence").code == 0
    written = load_file(out)
    for part in "qkv":
        torch.testing.assert_close(written[f"l.0.self_attn.{part}_proj.weight"], values[part], rtol=4e-7, atol=0)
    converted = run("convert", path, "--to", "torch-mha", "-o", packed, "--heads", "4", "--dequantize", "float32")
    assert converted.code == 0, converted.err
    whole = load_file(packed)["l.0.self_attn.in_proj_weight"]
    torch.testing.assert_close(whole, torch.cat([values[part] for part in "qkv"]), rtol=4e-7, atol=0)


def test_diff_against_the_twin(case, run) -> None:
    path, twin, _ = case
    same = run("diff", path, twin, "--no-evidence")
    assert same.code == 0, same.out


def test_check_and_analyze(case, run) -> None:
    path, twin, _ = case
    for command in ("check", "analyze"):
        one, other = (run(command, file, "--heads", "4", "-f", "json") for file in (path, twin))
        assert one.code == other.code
    mine, theirs = (json.loads(run("analyze", file, "--heads", "4", "-f", "json").out) for file in (path, twin))
    ours, expected = (found["layers"][0]["heads"] for found in (mine, theirs))
    for one, other in zip(ours, expected, strict=True):
        assert one["ov"] == pytest.approx(other["ov"], rel=1e-4)


def test_scan(case, run, tmp_path: Path) -> None:
    path, _, values = case
    out = tmp_path / "rows.jsonl"
    assert run("scan", path, "-o", out, "--heads", "4", "--jobs", "1", "--no-evidence").code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    norms = {row["part"]: row["norm"] for row in rows if row["part"] in values and row["head"] is None}
    assert norms.keys() == set("qkv")
    for part, norm in norms.items():
        assert norm == pytest.approx(float(values[part].double().norm()), rel=1e-6)


def test_a_float8_copy_of_an_original_is_within_its_rounding(tmp_path: Path, run) -> None:
    torch.manual_seed(1)
    stored: State = {}
    original: State = {}
    for part in "qkvo":
        weight = torch.randn(64, 64).to(torch.bfloat16)
        scale = weight.float().abs().max() / 448
        name = f"l.0.self_attn.{part}_proj"
        original[f"{name}.weight"] = weight
        stored |= {
            f"{name}.weight": (weight.float() / scale).to(torch.float8_e4m3fn),
            f"{name}.weight_scale": scale,
        }
    save_file(original, tmp_path / "a.safetensors")
    save_file(stored, tmp_path / "b.safetensors")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json", "--no-evidence")
    parts = {part["part"]: part for part in json.loads(found.out)["layers"][0]["parts"]}
    assert found.code == 0
    assert {part["status"] for part in parts.values()} == {"rounding"}
    assert 0.02 < parts["q"]["relative_l2"] < 0.04


def test_a_missing_and_a_misshapen_scale_are_named(tmp_path: Path, run) -> None:
    for case in ("missing", "misshapen"):
        stored, _ = scaled((), "weight_scale")
        if case == "missing":
            del stored["l.0.self_attn.k_proj.weight_scale"]
        else:
            stored["l.0.self_attn.k_proj.weight_scale"] = torch.ones(3)
        path = tmp_path / f"{case}.safetensors"
        save_file(stored, path)
        found = run("check", path, "--heads", "4")
        assert found.code == 1
        assert "no-values" in found.out
        assert "l.0.self_attn.k_proj.weight_scale" in found.out


def test_scales_of_zero_are_zero_parts_and_heads(tmp_path: Path, run) -> None:
    stored, _ = scaled((256, 1), "weight_scale")
    stored["l.0.self_attn.v_proj.weight_scale"][192:] = 0
    stored["l.0.self_attn.k_proj.weight_scale"][:] = 0
    save_file(stored, tmp_path / "m.safetensors")
    found = json.loads(run("check", tmp_path / "m.safetensors", "--heads", "4", "-f", "json").out)
    codes = {finding["code"] for result in found["checkpoints"] for finding in result["findings"]}
    assert {"zero-part", "zero-head"} <= codes


@pytest.mark.parametrize(("rows", "cols"), [(128, 128), (129, 257), (256, 384), (130, 64)])
def test_float8_values_past_the_first_block_have_the_scale_of_their_own(tmp_path: Path, rows: int, cols: int) -> None:
    """Scales that differ from block to block: with blocks of 127, the rows and columns at the seams come out wrong."""
    down, across = -(-rows // 128), -(-cols // 128)
    codes = torch.randn(rows, cols).to(torch.float8_e4m3fn)
    scales = 2.0 ** torch.arange(down * across).view(down, across)
    path = tmp_path / "model.safetensors"
    save_file({"l.q_proj.weight": codes, "l.q_proj.weight_scale_inv": scales}, path)
    spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
    with open_checkpoint(path) as checkpoint:
        weight = weights_of(checkpoint)["l.q_proj.weight"]
        assert weight.encoding is not None
        values = weight.encoding.decode(range(rows), range(cols))
    assert torch.equal(torch.from_numpy(values.astype("float32")), codes.float() * spread)
