"""Two models in one file, of which the config names one."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

CODEGEN = {"model_type": "codegen", "n_head": 12, "n_embd": 96}


def _report(folder: Path, first: str, second: str) -> Report:
    """CodeGen of 12 heads below one name, and Phi-3 of 6 heads over 2 below another."""
    state = {f"{first}.h.0.attn.qkv_proj.weight": torch.randn(288, 96),
             f"{first}.h.0.attn.out_proj.weight": torch.randn(96, 96),
             f"{second}.layers.0.self_attn.qkv_proj.weight": torch.randn(160, 96),
             f"{second}.layers.0.self_attn.o_proj.weight": torch.randn(96, 96)}  # fmt: skip
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CODEGEN))
    with open_checkpoint(folder) as checkpoint:
        return inspect(checkpoint, Options(norms=False))


def test_heads_of_a_config_are_not_given_to_the_other_model(tmp_path: Path) -> None:
    report = _report(tmp_path, "student.transformer", "teacher.model")
    heads = {one.layer: one.heads.num_heads if one.heads else None for one in report.attentions}
    assert heads == {"student.transformer.h.0.attn": 12, "teacher.model.layers.0.self_attn": None}
    said = [finding.message for finding in report.findings if finding.layer == "teacher.model.layers.0.self_attn"]
    assert any("the config is of the model of student.transformer.h.0.attn" in message for message in said)


def test_parts_of_one_model_are_no_models_of_their_own(tmp_path: Path) -> None:
    report = _report(tmp_path, "encoder", "decoder")
    assert [one.heads.num_heads for one in report.attentions if one.heads] == [12, 12]
