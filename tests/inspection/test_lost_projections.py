"""A projection that is lost is said to be missing; K is V only where the architecture has it so."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.cli import main

QWEN = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 6, "head_dim": 8,
        "num_key_value_heads": 2, "hidden_size": 32}  # fmt: skip
GEMMA = {"model_type": "gemma4_text", "num_attention_heads": 6, "head_dim": 8, "num_key_value_heads": 2,
         "attention_k_eq_v": True}  # fmt: skip


def _checkpoint(folder: Path, without_v: tuple[int, ...], config: dict[str, object] | None, scalar: bool) -> Path:
    state: dict[str, torch.Tensor] = {}
    for layer in range(3):
        name = f"model.layers.{layer}"
        for key, rows, columns in (("q", 48, 32), ("k", 16, 32), ("v", 16, 32), ("o", 32, 48)):
            if key != "v" or layer not in without_v:
                state[f"{name}.self_attn.{key}_proj.weight"] = torch.randn(rows, columns)
        state |= {f"{name}.self_attn.{key}_norm.weight": torch.ones(8) for key in "qk"}
        state |= {f"{name}.layer_scalar": torch.ones(1)} if scalar else {}
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def _shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    main(["show", str(folder), "--no-evidence", "--format", "json"])
    return json.loads(capsys.readouterr().out)["attentions"]


@pytest.mark.parametrize(
    ("lost", "config", "scalar"),
    [((0, 1, 2), QWEN, False), ((1,), QWEN, False), ((1,), None, False), ((1,), GEMMA, True),
     ((0, 1, 2), GEMMA | {"attention_k_eq_v": False}, True)],
)  # fmt: skip
def test_v_that_is_lost_is_never_k(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lost: tuple[int, ...],
    config: dict[str, object] | None,
    scalar: bool,
) -> None:
    folder = _checkpoint(tmp_path, lost, config, scalar)
    found = _shown(folder, capsys)
    assert [one["layer"] for one in found] == [f"model.layers.{n}.self_attn" for n in range(3) if n not in lost]
    assert main(["check", str(folder), "--no-evidence"]) == 1
    said = capsys.readouterr().out
    assert "error" in said
    assert "looks like attention and was not understood" in said


def test_k_is_v_where_the_model_has_it_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _shown(_checkpoint(tmp_path, (0, 1, 2), GEMMA, scalar=True), capsys)
    assert [one["layout"] for one in found] == ["k-is-v"] * 3


def test_k_may_be_v_where_nothing_says_which_model_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _checkpoint(tmp_path, (0, 1, 2), None, scalar=False)
    assert main(["show", str(tmp_path)]) == 0
    assert "it may be k-is-v" in " ".join(capsys.readouterr())


def test_explain_says_why_open_layouts_are_not_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"blocks.0.attn.q_proj.weight": torch.randn(64, 64), "blocks.0.attn.kv_proj.weight": torch.randn(64, 64),
             "blocks.0.attn.o_proj.weight": torch.randn(64, 64)}  # fmt: skip
    save_file(state, tmp_path / "model.safetensors")
    assert main(["explain", "--evidence", str(tmp_path / "model.safetensors")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "none: its layout is open" in said
    assert "no values" not in said
