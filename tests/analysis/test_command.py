"""The command: what it prints is what torch reckons from the same file, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from qkvinspect.analysis import COLUMNS
from qkvinspect.cli import main

SCHEMA = json.loads((Path(__file__).parents[2] / "qkvinspect/render/results/analysis.schema.json").read_text())

LAYERS = ("encoder.layers.0.self_attn", "encoder.layers.1.self_attn")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(24, 4, 32)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    state[f"{LAYERS[1]}.in_proj_weight"] = torch.randn(72, 24)
    state[f"{LAYERS[1]}.in_proj_weight"][:6] = 0
    path = tmp_path_factory.mktemp("model") / "m.pt"
    torch.save(state, path)
    return path


def output(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["analyze", *map(str, argv)]) == 0
    return capsys.readouterr().out


def read(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    found = json.loads(output(capsys, *argv, "--format", "json"))
    Draft202012Validator(SCHEMA).validate(found)
    return found


def spectral(model: Path, layer: str, part: int, head: int) -> float:
    rows = torch.load(model)[f"{layer}.in_proj_weight"].double().reshape(3, 4, 6, 24)
    return float(torch.linalg.matrix_norm(rows[part, head], 2))


def test_json_keeps_its_schema_and_is_right(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(capsys, model, "--heads", 4)
    assert [layer["layer"] for layer in found["layers"]] == list(LAYERS)
    for layer in found["layers"]:
        for head in layer["heads"]:
            for part, name in enumerate("qkv"):
                expected = spectral(model, layer["layer"], part, head["head"])
                assert head[name]["largest"] == pytest.approx(expected, rel=1e-8)
    assert found["ranked"] is None


def test_the_ranking(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(capsys, model, "--heads", 4, "--sort", "v_spectral_norm", "--top", 3)
    expected = sorted(
        ((spectral(model, layer, 2, head), layer, head) for layer in LAYERS for head in range(4)), reverse=True
    )
    assert [(one["layer"], one["head"]) for one in found["ranked"]] == [one[1:] for one in expected[:3]]
    table = output(capsys, model, "--heads", 4, "--sort", "v_spectral_norm", "--top", 3)
    assert table.count("self_attn") == 3
    text = output(capsys, model, "--heads", 4, "--sort", "symmetric", "--format", "csv")
    assert [row["symmetric"] for row in csv.DictReader(io.StringIO(text))][-1] == ""  # a head of zeros comes last


def test_csv_has_every_figure(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(output(capsys, model, "--heads", 4, "--format", "csv"))))
    assert len(rows) == 8
    assert {column.key for column in COLUMNS} < set(rows[0])
    assert float(rows[0]["q_spectral_norm"]) == pytest.approx(spectral(model, LAYERS[0], 0, 0), rel=1e-8)


def test_values(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(capsys, model, "--heads", 4, "--values")
    rows = torch.load(model)[f"{LAYERS[1]}.in_proj_weight"].double().reshape(3, 4, 144)
    assert found["layers"] == []
    parts = found["values"][1]["parts"]
    for one in parts:
        values = rows["qkv".index(one["part"])]
        values = values.flatten() if one["head"] is None else values[one["head"]]
        assert one["count"] == len(values)
        assert one["num_bytes"] == 4 * len(values)
        for name, expected in {
            "mean": values.mean(),
            "std": values.std(correction=0),
            "least": values.min(),
            "greatest": values.max(),
            "zeros": (values == 0).double().mean(),
        }.items():
            assert one[name] == pytest.approx(float(expected), rel=1e-8, abs=1e-12)
        shares = torch.tensor([float(share) for share in one["quantiles"]], dtype=torch.float64)
        assert list(one["quantiles"].values()) == pytest.approx(torch.quantile(values, shares).tolist(), rel=1e-8)
        if float(values.min()) < float(values.max()):
            counts = torch.histc(values, 24, float(values.min()), float(values.max()))
            assert one["histogram"] == counts.tolist()
    assert sum(one["head"] is None for one in parts) == 3
    assert output(capsys, model, "--values", "--no-evidence").count(" all ") == 6
    assert len(list(csv.reader(io.StringIO(output(capsys, model, "--values", "--format", "csv", "--heads", 4))))) == 31


def test_values_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.randn(24, 8)
    weight[0, 0], weight[1, 1], weight[8:16] = torch.nan, torch.inf, torch.nan
    torch.save({"a.in_proj_weight": weight}, tmp_path / "m.pt")
    found = read(capsys, tmp_path / "m.pt", "--values")
    q, k, v = found["values"][0]["parts"]
    known = weight[:8][weight[:8].isfinite()].double()
    assert (q["nonfinite"], k["nonfinite"], v["nonfinite"]) == (2, 64, 0)
    assert q["mean"] == pytest.approx(float(known.mean()))
    assert (k["mean"], sum(k["histogram"])) == (0, 0)


def test_float8_is_multiplied_by_its_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    layer = "model.layers.0.self_attn"
    values = {name: torch.randn(8, 16).to(torch.float8_e4m3fn) for name in "qkvo"}
    values["o"] = torch.randn(16, 8).to(torch.float8_e4m3fn)
    scales = {name: torch.rand(1) + 0.5 for name in "qkvo"}
    state = {f"{layer}.{name}_proj.weight": value for name, value in values.items()}
    state |= {f"{layer}.{name}_proj.weight_scale": scale for name, scale in scales.items()}
    save_file(state, tmp_path / "m.safetensors")
    head = read(capsys, tmp_path / "m.safetensors", "--heads", 1)["layers"][0]["heads"][0]
    real = {name: value.double() * scales[name].double() for name, value in values.items()}
    for name in "qkv":
        assert head[name]["largest"] == pytest.approx(float(torch.linalg.matrix_norm(real[name], 2)), rel=1e-8)
    assert head["ov"]["largest"] == pytest.approx(float(torch.linalg.matrix_norm(real["o"] @ real["v"], 2)), rel=1e-8)


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_what_a_person_reads(format: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, model, "--heads", 4, "--format", format)
    assert text.count(f"{spectral(model, LAYERS[0], 0, 0):.3f}") >= 1
    assert "1/sqrt" in text
    assert "histogram" in output(capsys, model, "--values", "--no-evidence", "--format", format)
    assert "no figures: the number of heads is not known" in output(capsys, model, "--no-evidence")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--sort", "nothing"], "there is no column 'nothing'; one of q_norm"),
        (["--heat", "\x1b[31mred"], "there is no column"),
        (["--top", "3"], "--top needs a ranking"),
        (["--values", "--heat", "symmetric"], "--values shows no figures"),
        (["--heat", "symmetric", "-f", "json"], "--heat draws a picture, which is no json; without it json has"),
        (["--heat", "q_norm", "-f", "csv", "--plot", "map.png"], "--heat draws a picture, which is no csv"),
        (["--heat", "q_norm", "-f", "markdown"], "--heat draws a picture, which is no markdown"),
    ],
)
def test_what_cannot_be_asked(argv: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(model), *argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "\x1b" not in error


def test_no_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "m.pt")
    assert "No attention" in output(capsys, tmp_path / "m.pt")
    assert "nothing to draw" in output(capsys, tmp_path / "m.pt", "--heat", "symmetric")


def test_huge_values_have_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a.in_proj_weight": torch.full((24, 8), 1e200, dtype=torch.float64)}, tmp_path / "m.pt")
    (layer,) = read(capsys, tmp_path / "m.pt", "--heads", 2)["layers"]
    assert "above 1e+60" in layer["why_not"]


def test_the_numbers_agree_with_numpy_on_transposed_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    weight = torch.randn(12, 36)
    torch.save({"h.0.attn.c_attn.weight": weight, "h.0.attn.c_proj.weight": torch.randn(12, 12)}, tmp_path / "m.pt")
    found = read(capsys, tmp_path / "m.pt", "--heads", 3, "--layout", "gpt2")
    columns = weight.double().numpy()[:, 12:24].reshape(12, 3, 4)
    for head in found["layers"][0]["heads"]:
        expected = np.linalg.svd(columns[:, head["head"]], compute_uv=False)[0]
        assert head["k"]["largest"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("form", [["-f", "csv"], ["--sort", "q_norm"], ["--heat", "qk_norm"]])
def test_a_layer_without_figures_is_not_left_out_in_silence(
    form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"{n}.self_attn.in_proj_weight": torch.randn(24, 8) for n in range(6)}
    for number in range(1, 6):
        state[f"{number}.self_attn.in_proj_weight"][9, 3] = float("nan")  # of K
    torch.save(state, tmp_path / "m.pt")
    assert main(["analyze", str(tmp_path / "m.pt"), "--heads", "2", *form]) == 0
    said = capsys.readouterr()
    named = ", ".join(f"{number}.self_attn" for number in range(1, 4))
    missing = "no figures" if "--heat" in form else "not all figures"
    assert said.err == f"warning: {missing} of {named}, ...: K has values that are not finite\n"


@pytest.mark.parametrize(
    ("row", "lost", "kept", "said"),
    [
        (3, {"q", "qk", "symmetric", "logit_bound", "similar_qk"}, {"k", "v", "ov", "similar_ov"}, "Q"),
        (9, {"k", "qk", "symmetric", "logit_bound", "similar_qk"}, {"q", "v", "ov", "similar_ov"}, "K"),
        (17, {"v", "ov", "similar_ov"}, {"q", "k", "qk", "symmetric", "logit_bound", "similar_qk"}, "V"),
        (24, {"ov", "similar_ov"}, {"q", "k", "v", "qk", "symmetric", "logit_bound"}, "the output projection"),
    ],
)
def test_one_value_that_is_not_finite_takes_only_what_is_computed_of_it(
    row: int, lost: set[str], kept: set[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other figures are those of the same layer without it, and stay where there is another layer of its kind."""
    torch.manual_seed(0)
    rows = torch.randn(2, 32, 8)
    found: list[list[Any]] = []
    for value in (1.0, float("nan")):
        rows[1, row, 3] = value
        state = {f"{n}.self_attn.in_proj_weight": rows[n, :24].clone() for n in range(2)}
        state |= {f"{n}.self_attn.out_proj.weight": rows[n, 24:].clone() for n in range(2)}
        torch.save(state, tmp_path / "m.pt")
        found.append(read(capsys, tmp_path / "m.pt", "--heads", 2)["layers"])
    (first, whole), (same, damaged) = found
    assert same == first
    assert damaged["why_not"] == f"{said} has values that are not finite"
    for before, after in zip(whole["heads"], damaged["heads"], strict=True):
        assert {name for name in after if after[name] is None} == lost
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert damaged["parts"] == {name: one for name, one in whole["parts"].items() if name not in lost}
    table = output(capsys, tmp_path / "m.pt", "--heads", 2)
    assert f"not all figures: {said} has values that are not finite" in table
    assert table.count("bound: ") == (1 if "logit_bound" in lost else 2)
