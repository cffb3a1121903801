"""Files that hold adapters beside the weights that they change: a PEFT model that was saved before it was merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

State = dict[str, torch.Tensor]
LAYERS = tuple(f"base_model.model.model.layers.{number}.self_attn" for number in range(2))
SCALE = 2.0


def model(wrapped: str = "base_layer.") -> State:
    """Two layers as PEFT names them; Q is wrapped."""
    return {
        f"{layer}.{part}_proj.{wrapped if part == 'q' else ''}weight": torch.randn(16, 16)
        for layer in LAYERS
        for part in "qkvo"
    }


def lora(adapter: str = ".default") -> State:
    found: State = {}
    for layer in LAYERS:
        found[f"{layer}.q_proj.lora_A{adapter}.weight"] = torch.randn(4, 16)
        found[f"{layer}.q_proj.lora_B{adapter}.weight"] = torch.randn(16, 4)
    return found


def saved(state: State, tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def config(tmp_path: Path, **more: object) -> Path:
    (tmp_path / "said").mkdir()
    path = tmp_path / "said" / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4 * SCALE, **more}))
    return path


def reported(path: Path, config: Path) -> Report:
    with open_checkpoint(path, config=config) as checkpoint:
        return inspect(checkpoint, Options(heads="4"))


def product(state: State, layer: str, adapter: str = ".default") -> torch.Tensor:
    down, up = (state[f"{layer}.q_proj.lora_{side}{adapter}.weight"].double() for side in "AB")
    return up @ down


def in_lightning(state: State) -> State:
    return {f"model.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("adapter", [".default", ""])
@pytest.mark.parametrize("wrapped", ["linear.", "base_layer.", ""])
def test_of_an_unknown_scale_the_base_is_read_and_it_is_said(wrapped: str, adapter: str, tmp_path: Path, run) -> None:
    state = model(wrapped) | lora(adapter)
    path = saved(state, tmp_path)
    report = qkvinspect.inspect(path, heads="4")
    assert [one.layer for one in report.attentions] == [*LAYERS]
    told = [one.message for one in report.findings if one.code == "adapter-scale"]
    assert len(told) == 2
    assert f"q_proj.{wrapped}weight is read without the adapter beside it, LoRA of rank 4 (lora_B{adapter})" in told[0]
    for command in ("show", "explain", "check"):
        found = run(command, path, "--heads", "4")
        assert "its scale is not known; --config adapter_config.json" in found.out, command
    out = tmp_path / "o.safetensors"
    found = run("export", path, "-o", out, "--heads", "4")
    assert "is read without the adapter beside it" in found.err
    written = load_file(out)
    assert written.keys() == {f"{layer}.{part}_proj.weight" for layer in LAYERS for part in "qkv"}
    for layer in LAYERS:
        assert torch.equal(written[f"{layer}.q_proj.weight"], state[f"{layer}.q_proj.{wrapped}weight"])
    whole = run("export", "--all", path, "-o", tmp_path / "all.safetensors", "--heads", "4")
    assert whole.code == 2
    assert "it has an adapter; merge it into the model and save it" in whole.err


@pytest.mark.parametrize("adapter", [".default", ""])
@pytest.mark.parametrize("wrapped", ["base_layer.", ""])
@pytest.mark.parametrize("lightning", [False, True])
def test_of_a_known_scale_the_sum_is_read(wrapped: str, adapter: str, lightning: bool, tmp_path: Path, run) -> None:
    """As merge_and_unload of peft 0.21.2 has it: W + B @ A * lora_alpha / r."""
    state = model(wrapped) | lora(adapter)
    torch.save({"state_dict": in_lightning(state)} if lightning else state, tmp_path / "m.pt")
    out, said = tmp_path / "o.safetensors", config(tmp_path)
    found = run("export", tmp_path / "m.pt", "-o", out, "--heads", "4", "--config", said)
    assert (found.code, found.err) == (0, "")
    written = load_file(out)
    before = "model." if lightning else ""
    assert len(written) == 6
    for layer in LAYERS:
        merged = state[f"{layer}.q_proj.{wrapped}weight"].double() + SCALE * product(state, layer, adapter)
        torch.testing.assert_close(written[f"{before}{layer}.q_proj.weight"], merged.float(), rtol=1e-5, atol=1e-5)
        assert torch.equal(written[f"{before}{layer}.k_proj.weight"], state[f"{layer}.k_proj.weight"])
    shown = run("show", tmp_path / "m.pt", "--heads", "4", "--config", said)
    assert "with LoRA of rank 4 added, B @ A * 2" in shown.out
    assert "all values are those of the file with the adapter in it added: 2 modules" in shown.out


def test_dora_is_added(tmp_path: Path) -> None:
    state = model() | lora()
    state |= {f"{layer}.q_proj.lora_magnitude_vector.default.weight": torch.rand(16) + 0.5 for layer in LAYERS}
    with qkvinspect.open(saved(state, tmp_path), heads=4, config=config(tmp_path, use_dora=True)) as checkpoint:
        for layer in LAYERS:
            whole = state[f"{layer}.q_proj.base_layer.weight"].double() + SCALE * product(state, layer)
            length = state[f"{layer}.q_proj.lora_magnitude_vector.default.weight"].double()
            expected = whole * (length / whole.norm(dim=1))[:, None]
            found = checkpoint.attentions[layer].q.torch()
            torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_the_whole_file_is_written_merged_where_the_names_are_the_models_own(tmp_path: Path, run) -> None:
    state = model("") | lora("")
    out = tmp_path / "o.safetensors"
    found = run("export", "--all", saved(state, tmp_path), "-o", out, "--heads", "4", "--config", config(tmp_path))
    assert found.code == 0, found.err
    written = load_file(out)
    assert written.keys() == model("").keys()
    merged = state[f"{LAYERS[1]}.q_proj.weight"].double() + SCALE * product(state, LAYERS[1], "")
    torch.testing.assert_close(written[f"{LAYERS[1]}.q_proj.weight"], merged.float(), rtol=1e-5, atol=1e-5)


def test_a_file_is_not_half_merged(tmp_path: Path, run) -> None:
    state = model("") | lora("") | {"base_model.model.lm_head.weight": torch.randn(32, 16)}
    state |= {"base_model.model.lm_head.lora_A.weight": torch.randn(2, 16)}
    out = tmp_path / "o.safetensors"
    found = run("export", "--all", saved(state, tmp_path), "-o", out, "--heads", "4", "--config", config(tmp_path))
    assert (found.code, out.exists()) == (2, False)
    assert "the adapter in the file cannot be added to base_model.model.lm_head.weight" in found.err


def test_of_several_adapters_none_is_added(tmp_path: Path) -> None:
    path = saved(model() | lora() | lora(".other"), tmp_path)
    report = reported(path, config(tmp_path))
    assert [one.layer for one in report.attentions] == [*LAYERS]
    told = [one.message for one in report.findings if one.code == "adapter-left-out"]
    assert "LoRA of 2 adapters (default, other): nothing says which is used" in told[0]


def test_a_config_of_another_rank_is_not_believed(tmp_path: Path) -> None:
    path = saved(model() | lora(), tmp_path)
    report = reported(path, config(tmp_path, r=8))
    assert len([one for one in report.findings if one.code == "adapter-left-out" and "rank 8" in one.message]) == 2


OTHERS = {
    "ia3_l.default": (16, 1),
    "ia3_l": (16, 1),
    "vera_lambda_b.default": (16,),
    "oft_R.default.weight": (8, 28),
    "boft_R.default": (1, 4, 4, 4),
    "hada_w1_a.default": (16, 4),
    "lokr_w1.default": (4, 4),
    "lora_E.default": (4, 1),
    "fourierft_spectrum.default": (10,),
    "miss_block.default": (4, 16),
    "hra_u.default": (16, 4),
}
"""What PEFT 0.21.2 names the parameters of other kinds, as its models' state_dicts have them."""


@pytest.mark.parametrize("name", OTHERS)
def test_adapters_of_other_kinds_are_told_of(name: str, tmp_path: Path, run) -> None:
    state = model() | (lora() if name.startswith("lora_E") else {})
    state |= {f"{layer}.q_proj.{name}": torch.randn(OTHERS[name]) for layer in LAYERS}
    path = saved(state, tmp_path)
    report = reported(path, config(tmp_path))
    assert [one.layer for one in report.attentions] == [*LAYERS]
    told = [one.message for one in report.findings if one.code == "adapter-left-out"]
    assert len(told) == 2
    assert "q_proj.base_layer.weight is read without the adapter beside it" in told[0]
    assert name.partition(".")[0] in told[0]
    assert run("check", path, "--heads", "4").out.count("adapter-left-out") == 1
    assert "is read without the adapter" in run("export", path, "-o", tmp_path / "o.safetensors", "--heads", "4").err
    assert run("export", "--all", path, "-o", tmp_path / "a.safetensors", "--heads", "4").code == 2


@pytest.mark.parametrize("name", ["ia3_l.default", "vera_lambda_b", "lora_E.default"])
def test_they_are_told_of_beside_a_weight_of_the_models_own_name(name: str, tmp_path: Path) -> None:
    state = model("") | (lora() if name.startswith("lora_E") else {})
    state |= {f"{layer}.q_proj.{name}": torch.randn(OTHERS.get(name, (16,))) for layer in LAYERS}
    report = reported(saved(state, tmp_path), config(tmp_path))
    part = report.attentions[0].part("q")
    assert part is not None
    assert part.measured is not None
    told = [one.message for one in report.findings if one.code == "adapter-left-out"]
    assert len(told) == 2
    assert "q_proj.weight is read without the adapter beside it" in told[0]
