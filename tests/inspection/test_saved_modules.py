"""Modules that PEFT trains whole: the copy is read that the model uses, as merge_and_unload keeps it (peft 0.21.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qkvinspect

State = dict[str, torch.Tensor]
LAYERS = tuple(f"base_model.model.model.layers.{number}.self_attn" for number in range(2))


def projections() -> State:
    return {f"{layer}.{part}_proj.weight": torch.randn(16, 16) for layer in LAYERS for part in "qkvo"}


def trained(state: State, module: str, *adapters: str) -> State:
    """The state with a module of each layer wrapped as PEFT's ModulesToSaveWrapper names it."""
    found: State = {}
    for name, value in state.items():
        before, dot, leaf = name.partition(f".{module}.")
        if not dot:
            found[name] = value
            continue
        found[f"{before}.{module}.original_module.{leaf}"] = value
        for adapter in adapters:
            found[f"{before}.{module}.modules_to_save.{adapter}.{leaf}"] = torch.randn(value.shape)
    return found


@pytest.mark.parametrize("adapter", ["default", "0", "weight_2"])
@pytest.mark.parametrize("module", ["k_proj", "self_attn"])
def test_the_trained_copy_is_read(module: str, adapter: str, tmp_path: Path, run) -> None:
    state = trained(projections(), module, adapter)
    torch.save(state, tmp_path / "m.pt")
    with qkvinspect.open(tmp_path / "m.pt", heads=4) as checkpoint:
        assert len(checkpoint.attentions) == 2
        used = [name for name in state if f"modules_to_save.{adapter}." in name and "k_proj" in name]
        for layer, name in zip(checkpoint.attentions.values(), used, strict=True):
            assert torch.equal(layer.k.torch(), state[name])
    report = qkvinspect.inspect(tmp_path / "m.pt", heads="4")
    assert report.account is not None
    assert not report.account.unrecognised
    for command in ("show", "explain", "check"):
        said = run(command, tmp_path / "m.pt", "--heads", "4")
        assert f"{module} is read from {module}.modules_to_save.{adapter}" in said.out + said.err, command
        assert f"{module}.original_module from before is left out" in said.out + said.err, command


def test_export_writes_the_trained_copy(tmp_path: Path, run) -> None:
    from safetensors.torch import load_file

    state = trained(projections(), "k_proj", "default")
    torch.save(state, tmp_path / "m.pt")
    assert run("export", tmp_path / "m.pt", "-o", tmp_path / "o.safetensors").code == 0
    written = load_file(tmp_path / "o.safetensors")
    for layer in LAYERS:
        assert torch.equal(written[f"{layer}.k_proj.weight"], state[f"{layer}.k_proj.modules_to_save.default.weight"])


@pytest.mark.parametrize("module", ["k_proj", "self_attn"])
def test_the_whole_file_is_not_rewritten(module: str, tmp_path: Path, run) -> None:
    """It would hold the other copy under names that PEFT no longer finds."""
    torch.save(trained(projections(), module, "default"), tmp_path / "m.pt")
    found = run("export", "--all", tmp_path / "m.pt", "-o", tmp_path / "o.safetensors", "--heads", "4")
    assert (found.code, (tmp_path / "o.safetensors").exists()) == (2, False)
    assert "PEFT keeps two copies of it (modules_to_save); merge the adapter" in found.err


@pytest.mark.parametrize("module", ["k_proj", "self_attn"])
def test_of_several_adapters_none_is_chosen(module: str, tmp_path: Path) -> None:
    state = trained(projections(), module, "default", "other")
    torch.save(state, tmp_path / "m.pt")
    report = qkvinspect.inspect(tmp_path / "m.pt", heads="4")
    assert len(report.attentions) == 2
    names = [part.weight.name for one in report.attentions for part in one.parts if part.name == "k"]
    assert all(".original_module." in name for name in names)
    told = [one.message for one in report.findings if one.code == "adapter-left-out"]
    assert len(told) == 2
    assert "(default, other), and nothing says which is used" in told[0]


def test_a_module_that_is_no_attention_is_not_spoken_of(tmp_path: Path) -> None:
    state = projections() | {"base_model.model.score.original_module.weight": torch.randn(2, 16)}
    state["base_model.model.score.modules_to_save.default.weight"] = torch.randn(2, 16)
    torch.save(state, tmp_path / "m.pt")
    report = qkvinspect.inspect(tmp_path / "m.pt", heads="4")
    assert (len(report.attentions), report.findings) == (2, ())
