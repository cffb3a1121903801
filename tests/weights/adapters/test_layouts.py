"""An adapter alone in another layout: merged into the base in that layout it is the merged model in that layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.some import those
from tests.weights.adapters.cases import placed

HEADS = {"llama": "4/2", "qwen2": "4/2", "mistral": "4/2", "phi3": "4/2"}
MOVED = [
    ("llama-all", "phi3"),
    ("llama-all", "megatron-core"),
    ("llama-all", "internlm2"),
    ("llama-all", "litgpt"),
    ("llama-qv", "phi3"),
    ("llama-qv", "megatron-core"),
    ("llama-rslora", "phi3"),
    ("llama-bfloat16", "phi3"),
    ("llama-dora", "phi3"),
    ("mistral", "phi3"),
    ("phi3", "megatron-core"),
    ("timm", "bert"),
    ("timm", "gpt-neox"),
    ("timm", "gpt2"),
    ("gpt2", "bert"),
    ("gpt2", "timm-vit"),
    ("neox", "timm-vit"),
    ("neox", "qkv-proj"),
]


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}


EACH = {
    ("llama-all", "phi3"),
    ("llama-qv", "megatron-core"),
    ("llama-dora", "phi3"),
    ("timm", "gpt2"),
    ("gpt2", "bert"),
}
"""For every run."""


@pytest.mark.parametrize(("case", "target"), those(EACH.__contains__, MOVED))
def test_merging_before_and_after_is_the_same(case: str, target: str, tmp_path: Path, run) -> None:
    adapter, base = placed(case, tmp_path)
    heads, _, kv = HEADS.get(case.partition("-")[0], "4").partition("/")
    more = ("--heads", f"{heads}/{kv}" if kv else heads, "--to", target)
    given = ("--layout", f"*={'gpt-neox' if case == 'neox' else 'phi3'}") if case in ("neox", "phi3") else ()

    def done(*argv: Any) -> Any:
        found = run(*argv)
        assert found.code == 0, found.err
        return found

    out = {name: tmp_path / f"{name}.safetensors" for name in ("merged", "before", "base", "adapter", "after")}
    whole = ("--heads", f"{heads}/{kv}" if kv else heads, *given, "--no-evidence")
    done("export", "--all", adapter, "--base", base, "-o", out["merged"], *whole)
    done("convert", out["merged"], "-o", out["before"], *more, *given, "--no-evidence")
    done("convert", base, "-o", out["base"], *more, *given, "--no-evidence")
    moved = done("convert", adapter, "-o", out["adapter"], *more, *given, "--no-evidence", "--verify")
    config = json.loads(moved.err.partition("has to say: ")[2].partition("\n")[0])
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for options in ((), ("--config", tmp_path / "adapter_config.json")):  # the file itself says it too
        done("export", "--all", out["adapter"], "--base", out["base"], "-o", out["after"], "--force", "--layout",
             f"*={target}", "--heads", f"{heads}/{kv}" if kv else heads, "--no-evidence", *options)  # fmt: skip
        before, after = loaded(out["before"]), loaded(out["after"])
        assert before.keys() == after.keys()
        exact = 1e-2 if "bfloat16" in case else 1e-6
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=exact, atol=exact, msg=name)
    base_now = loaded(out["base"])
    assert any(not torch.equal(base_now[name], value) for name, value in after.items()), "nothing was added"


def test_a_is_kept_and_b_moves_as_the_rows_do(tmp_path: Path, run) -> None:
    adapter, _ = placed("timm", tmp_path)
    out = tmp_path / "out.safetensors"
    assert run("convert", adapter, "-o", out, "--to", "gpt-neox", "--heads", "4", "--no-evidence").code == 0
    before, after = load_file(adapter / "adapter_model.safetensors"), load_file(out)
    (a,) = [name for name in after if "blocks.0" in name and "query_key_value.lora_A" in name]
    assert torch.equal(after[a], before["base_model.model.blocks.0.attn.qkv.lora_A.weight"])
    b = before["base_model.model.blocks.0.attn.qkv.lora_B.weight"].reshape(3, 4, 4, 4)
    assert torch.equal(after[a.replace("lora_A", "lora_B")], b.transpose(0, 1).reshape(48, 4))


def test_what_becomes_one_is_stacked(tmp_path: Path, run) -> None:
    adapter, _ = placed("llama-all", tmp_path)
    out = tmp_path / "out.safetensors"
    packed = run("pack", adapter, "-o", out, "--to", "phi3", "--heads", "4/2")
    assert packed.code == 0, packed.err
    before, after = load_file(adapter / "adapter_model.safetensors"), load_file(out)
    layer = "base_model.model.model.layers.1.self_attn."
    factors = [[before[f"{layer}{part}_proj.lora_{factor}.weight"] for part in "qkv"] for factor in "AB"]
    assert torch.equal(after[f"{layer}qkv_proj.lora_A.weight"], torch.cat(factors[0]))
    assert torch.equal(after[f"{layer}qkv_proj.lora_B.weight"], torch.block_diag(*factors[1]))
    assert torch.equal(after[f"{layer}o_proj.lora_B.weight"], before[f"{layer}o_proj.lora_B.weight"])
    assert '"r": 12' in packed.err
    shown = run("show", out, "--heads", "4/2", "--no-evidence")
    assert "LoRA of rank 12, B @ A * 1.5" in shown.out


def test_kohya_says_its_alpha_in_a_tensor(tmp_path: Path, run) -> None:
    state: dict[str, torch.Tensor] = {}
    for part in "qkv":
        name = f"model.layers.0.self_attn.{part}_proj"
        state |= {f"{name}.lora_down.weight": torch.randn(4, 16), f"{name}.lora_up.weight": torch.randn(16, 4)}
        state[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(state, tmp_path / "lora.safetensors")
    out = tmp_path / "out.safetensors"
    found = run("pack", tmp_path / "lora.safetensors", "-o", out, "--to", "phi3", "--heads", "4")
    assert found.code == 0, found.err
    written, name = load_file(out), "model.layers.0.self_attn.qkv_proj"
    product = written[f"{name}.lora_up.weight"] @ written[f"{name}.lora_down.weight"] * written[f"{name}.alpha"] / 12
    for part, rows in zip("qkv", product.chunk(3), strict=True):
        own = f"model.layers.0.self_attn.{part}_proj"
        torch.testing.assert_close(rows, state[f"{own}.lora_up.weight"] @ state[f"{own}.lora_down.weight"] / 2)


@pytest.mark.parametrize(
    ("case", "target", "said"),
    [
        ("llama-patterns", "phi3", "do not become one"),
        ("llama-all", "torch-mha", "PEFT adapts that as a module of its own kind"),
        ("multihead", "bert", "PEFT adapts that as a module of its own kind"),
        ("vit", "nosuch", "nosuch"),
    ],
)
def test_what_cannot_be_is_said(case: str, target: str, said: str, tmp_path: Path, run) -> None:
    adapter, _ = placed(case, tmp_path)
    out = tmp_path / "out.safetensors"
    found = run("convert", adapter, "-o", out, "--to", target, "--heads", "4", "--no-evidence")
    assert found.code == 2
    assert said in found.err
    assert not out.exists()


@pytest.mark.parametrize("leaf", ["", ".weight"])
def test_factors_that_are_no_modules_are_not_moved(leaf: str, tmp_path: Path, run) -> None:
    """loralib's are parameters of the layer itself, which no loader of another layout looks for."""
    name = "blocks.0.attn.qkv.lora_"
    save_file({f"{name}A{leaf}": torch.randn(4, 16), f"{name}B{leaf}": torch.randn(48, 4)}, tmp_path / "l.safetensors")
    (tmp_path / "alpha.yaml").write_text("lora_alpha: 8\n")
    argv = ("convert", tmp_path / "l.safetensors", "--to", "gpt-neox", "--heads", "4", "--no-evidence")
    found = run(*argv, "--config", tmp_path / "alpha.yaml", "-o", tmp_path / "out.safetensors")
    assert found.code == (0 if leaf else 2), found.err
    assert ("are not moved" in found.err) == (not leaf)
