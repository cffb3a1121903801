"""A trained model as each library quantises it, through every command (``make_models.py`` is the recipe).

In every run the numbers that the library decodes, and of each kind what ``diff`` says; with ``-m mass`` all else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import qkvinspect
from qkvinspect.checkpoint import Config, Region
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from tests.long import long
from tests.some import those
from tests.weights.encodings.test_damaged import Bytes
from tests.weights.encodings.test_decoded import decoded

MODELS = Path(__file__).parent / "models"
NAMES = sorted(path.stem for path in MODELS.glob("*.json"))
NOT_DECODED = {"hqq_4bit": "HQQ's codes nbits 4 group_size 32", "quanto_int4": "quanto's packed integers"}
DECODED = [name for name in NAMES if name not in NOT_DECODED]
EACH = {"awq", "bnb_int8", "bnb_nf4_nested", "comfy_nvfp4", "ct_float8_block", "ct_int4_zeros", "ct_int8_packed",
        "fp8_transformers", "gptq_4bit_act_order", "gptq_v2_3bit_act_order", "mlx_3bit", "mlx_mxfp4",
        "modelopt_nvfp4", "quanto_int8", "torchao_float8"}  # fmt: skip
"""A model of each kind, of which every run asks more than its numbers."""
ORIGINAL = MODELS / "original.safetensors"
HEADS = ("--heads", "8", "--no-evidence")

NOT_CUT = {
    "bnb_nf4_nested": "256 scales share one",
    "bnb_fp4_nested": "256 scales share one",
}
"""Of which the rows of K in the fused weight share more with others than may be cut, and what is said."""

BEYOND = {"awq", "gptq_3bit"}


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """A folder with the model and the config that says how it is quantised."""

    def placed(name: str) -> Path:
        source = MODELS / f"{name}.safetensors"
        with safe_open(source, "pt") as file:
            said = json.loads(file.metadata()["quantization_config"])
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
        (folder / "model.safetensors").symlink_to(source)
        return folder

    return placed


def told(name: str) -> dict[str, Any]:
    return json.loads((MODELS / f"{name}.json").read_text())


def exact(name: str) -> float:
    """How far from the library's numbers, relative: it computes these in float16 or bfloat16."""
    if name == "ct_nvfp4":
        return 2.0**-7
    return 2e-3 if name.startswith(("gptq", "awq")) else 1e-6


@pytest.mark.parametrize("name", DECODED)
def test_numbers_are_those_of_the_library(name: str, model) -> None:
    with qkvinspect.open(model(name), heads="8") as checkpoint:
        fused, apart = (checkpoint.attentions[layer] for layer in ("blocks.0.attn", "model.layers.1.self_attn"))
        found = {"blocks.0.attn.qkv.weight": np.concatenate([fused.q.numpy(), fused.k.numpy(), fused.v.numpy()])}
        found |= {f"model.layers.1.self_attn.{part}_proj.weight": getattr(apart, part).numpy() for part in "qkv"}
    for weight, values in found.items():
        expected = told(name)[weight]
        flat = values.astype(np.float64).ravel()
        taken = flat[:: len(flat) // len(expected["taken"])][: len(expected["taken"])]
        assert taken == pytest.approx(expected["taken"], rel=exact(name), abs=exact(name) * np.abs(flat).max())
        assert np.linalg.norm(flat) == pytest.approx(expected["norm"], rel=exact(name))


@pytest.mark.parametrize("name", those(EACH.__contains__, DECODED))
@pytest.mark.gate
def test_diff_says_that_rounding_explains_it(name: str, model, run) -> None:
    found = run("diff", ORIGINAL, model(name), *HEADS, "-f", "json").json()
    layers = {layer["a"]: layer for layer in found["layers"]}
    for layer, weights in (
        ("blocks.0.attn", ("qkv",)),
        ("model.layers.1.self_attn", ("q_proj", "k_proj", "v_proj")),
    ):
        parts = [part for part in layers[layer]["parts"] if part["part"] in ("q", "k", "v")]
        original = load_file(ORIGINAL)
        squares = [original[f"{layer}.{weight}.weight"].double().square().sum() for weight in weights]
        if len(weights) == 1:
            squares = [one.double().square().sum() for one in original[f"{layer}.qkv.weight"].chunk(3)]
        distance = sqrt(
            sum(float(square) * part["relative_l2"] ** 2 for square, part in zip(squares, parts, strict=True))
        )
        expected = sqrt(sum(told(name)[f"{layer}.{weight}.weight"]["distance"] ** 2 for weight in weights))
        assert distance == pytest.approx(expected, rel=5e-2 if exact(name) > 1e-5 else 1e-4)
    assert len(found["losses"]) == 16
    (note,) = [note for note in found["notes"] if note.startswith("quantised (")]
    assert "within its rounding in 2 of 2 layers" in note, note


@pytest.mark.parametrize("name", NOT_DECODED)
def test_what_is_not_decoded_is_named(name: str, model, run) -> None:
    folder = model(name)
    checked = run("check", folder, *HEADS)
    assert checked.code == 1
    assert NOT_DECODED[name] in checked.out
    for command in ("show", "explain"):
        found = run(command, folder, *HEADS)
        assert NOT_DECODED[name].split()[0] in found.out + found.err
    for more in ((), ("--dequantize", "float32")):
        refused = run("export", "--split", folder, "-o", folder.parent / "no.safetensors", *HEADS, *more)
        assert refused.code == 2
        assert "is not decoded" in refused.err
        assert not (folder.parent / "no.safetensors").exists()
    assert run("analyze", folder, *HEADS).code in (0, 2)
    assert run("diff", ORIGINAL, folder, *HEADS).code == 1


@pytest.mark.mass
@pytest.mark.parametrize("name", DECODED)
def test_every_command(name: str, model, run, tmp_path: Path) -> None:
    folder = model(name)
    twin, parts = tmp_path / "twin.safetensors", tmp_path / "parts.safetensors"
    assert run("export", "--all", "--split", folder, "-o", twin, "--dequantize", "float32", *HEADS).code == 0
    numbers = load_file(twin)
    assert {value.dtype for value in numbers.values()} == {torch.float32}
    for weight, expected in told(name).items():
        rows = [f"blocks.0.attn.{part}_proj.weight" for part in "qkv"] if ".qkv." in weight else [weight]
        values = torch.cat([numbers[row] for row in rows]).double()
        assert float(values.norm()) == pytest.approx(expected["norm"], rel=exact(name))
    shown, plain = (run("show", file, *HEADS, "-f", "json").json() for file in (folder, twin))
    for one, other in zip(shown["attentions"], plain["attentions"], strict=True):
        for part in "qkv":
            mine, theirs = ([head["norm"] for head in side[part]["heads"]] for side in (one, other))
            assert mine == pytest.approx(theirs, rel=1e-5)
    assert "bits a weight" in run("show", folder, *HEADS).out
    mine, theirs = (run("analyze", file, *HEADS, "-f", "json").json()["layers"] for file in (folder, twin))
    for one, other in zip(mine, theirs, strict=True):
        for head, same in zip(one["heads"], other["heads"], strict=True):
            for figure in ("qk", "ov"):
                assert head[figure] == pytest.approx(same[figure], rel=1e-3, abs=1e-4)
    codes = [
        {finding["code"] for finding in run("check", file, *HEADS, "-f", "json").json()["checkpoints"][0]["findings"]}
        for file in (folder, twin)
    ]
    assert codes[0] - codes[1] <= {"quantised", "awq-scales", "fused-scales-differ"}, codes
    explained = run("explain", folder, "blocks.0.attn", "--heads", "8", "--no-evidence")
    assert explained.code == 0, explained.err
    report = run("report", folder, "-o", tmp_path / "report.html", "--heads", "8", "--no-evidence")
    assert report.code == 0, report.err
    assert run("diff", folder, twin, *HEADS).code == 0
    split = run("export", "--split", folder, "-o", parts, *HEADS)
    if name in NOT_CUT:
        assert split.code == 2
        assert NOT_CUT[name] in split.err
        assert "--dequantize" in split.err
        return
    assert split.code == 0, split.err
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with qkvinspect.open(parts, heads="8", config=tmp_path / "config.json") as checkpoint:
        for layer in ("blocks.0.attn", "model.layers.1.self_attn"):
            for part in "qkv":
                found = getattr(checkpoint.attentions[layer], part).numpy()
                expected = numbers[f"{layer}.{part}_proj.weight"].numpy()
                np.testing.assert_array_equal(found.astype(np.float32), expected)


@pytest.mark.mass
@pytest.mark.parametrize("name", DECODED)
def test_what_is_written_in_bfloat16_is_rounded_once(name: str, model, run, tmp_path: Path) -> None:
    folder = model(name)
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / f"{dtype}.safetensors"
        assert run("export", "--split", folder, "-o", out, "--dequantize", dtype, *HEADS).code == 0
    single, half = (load_file(tmp_path / f"{dtype}.safetensors") for dtype in ("float32", "bfloat16"))
    assert single.keys() == half.keys()
    assert all(torch.equal(value.bfloat16(), half[key]) for key, value in single.items())


def test_a_damaged_row_is_more_than_rounding(model, run, tmp_path: Path) -> None:
    state = load_file(MODELS / "ct_int8_channel.safetensors")
    state["model.layers.1.self_attn.k_proj.weight_scale"][17] *= 1.5
    save_file(state, tmp_path / "damaged.safetensors")
    found = run("diff", ORIGINAL, tmp_path / "damaged.safetensors", *HEADS, "-f", "json")
    assert found.code == 1
    assert "more than that in model.layers.1.self_attn" in " ".join(found.json()["notes"])
    assert found.json()["losses"][0]["head"] == 2


@pytest.mark.parametrize("wrong", [-1, 99])
@pytest.mark.parametrize(("name", "leaf"), [("gptq_4bit_act_order", "g_idx"), ("ct_int4_group", "weight_g_idx")])
def test_no_codes_are_copied_whose_groups_are_not_there(name: str, leaf: str, wrong: int, model, run) -> None:
    folder, order = model(name), f"model.layers.1.self_attn.v_proj.{leaf}"
    changed(folder, lambda state: state.setdefault(order, torch.arange(64, dtype=torch.int32) // 32)[-1:].fill_(wrong))
    found = run("export", "--split", folder, "-o", folder / "parts.safetensors", *HEADS)
    assert found.code == 2
    assert order in found.err
    assert f"found {wrong}" in found.err
    assert not (folder / "parts.safetensors").exists()


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Do something to the tensors of a model."""
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    file.unlink()
    save_file(state, file)


@pytest.mark.parametrize("name", long("bnb_nf4_nested".__eq__, those(EACH.__contains__, DECODED)))
def test_one_code_at_the_other_end_is_more_than_rounding(name: str, model, run) -> None:
    """Of 4,096 codes in a weight, of which all others are as they were; the honest copy is held above."""
    folder, parameter = model(name), "model.layers.1.self_attn.k_proj.weight"
    said = json.loads((folder / "config.json").read_text())
    with open_checkpoint(str(folder / "model.safetensors")) as plain:
        checkpoint = replace(plain, configs=(Config("config:config.json", said),))
        weight = weights_of(checkpoint)[parameter]
        codes, values = weight.stored[0], decoded(weight)
        stored = codes.region.read(codes.offset * codes.dtype.bits // 8, codes.nbytes)
        bits = len(stored) * 8 // values.size
        mask, gaps = (1 << bits) - 1, dict[bytes, float]()
        for code in range(1 << bits) if bits < 5 else (0, mask, mask >> 1, mask // 2 + 1, 0x7E & mask, 0xFE & mask):
            data = bytes([stored[0] & ~mask | code]) + stored[1:]
            held = replace(codes, region=Region(Bytes(data), 0, len(data)), offset=0)
            other = weights_of(replace(checkpoint, tensors={**checkpoint.tensors, codes.name: held}))[parameter]
            found = np.abs(decoded(other) - values)
            assert np.count_nonzero(found) <= 1
            gaps[data] = float(np.nan_to_num(found, nan=0.0).max())
    farthest = np.frombuffer(max(gaps, key=gaps.__getitem__), np.uint8).copy()
    changed(folder, lambda state: state[codes.name].view(torch.uint8).view(-1).copy_(torch.from_numpy(farthest)))
    diff = run("diff", ORIGINAL, folder, *HEADS, "-f", "json")
    assert diff.code == 1
    assert "more than that in model.layers.1.self_attn" in " ".join(diff.json()["notes"])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_one_code_of_ggml_is_more_than_rounding(kind: str, run, tmp_path: Path) -> None:
    """Of Q4_0 at the end but one: what is stored as the last may have been beyond it."""
    original, paths = load_file(ORIGINAL), dict[str, Path]()
    blocks = {
        part: gguf.quants.quantize(
            original[f"model.layers.1.self_attn.{part}_proj.weight"].numpy(), gguf.GGMLQuantizationType[kind]
        )
        for part in "qkv"
    }
    for what in ("honest", "changed"):
        if what == "changed":
            blocks["k"][0, 2] = (0x7F if int(blocks["k"][0, 2]) > 127 else 0x81) if kind == "Q8_0" else _far(blocks)
        paths[what] = tmp_path / f"{what}.gguf"
        writer = gguf.GGUFWriter(paths[what], "mpt")
        writer.add_head_count(8)
        for part, data in blocks.items():
            writer.add_tensor(f"blk.0.attn_{part}.weight", data, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    plain = {name.replace("layers.1", "layers.0"): value for name, value in original.items() if "layers.1" in name}
    save_file(plain, tmp_path / "plain.safetensors")
    for what, said in (("honest", "within its rounding in 1 of 1 layers"), ("changed", "more than that in")):
        found = run("diff", tmp_path / "plain.safetensors", paths[what], *HEADS, "-f", "json")
        assert said in " ".join(found.json()["notes"])


def _far(blocks: dict[str, np.ndarray]) -> int:
    """The first byte of codes with the first of them at the end but one that is farther."""
    byte = int(blocks["k"][0, 2])
    return byte & 0xF0 | (14 if byte & 15 < 8 else 1)
