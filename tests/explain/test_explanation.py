"""explain: the words, the code (which is run), and the proof against the real module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save_file

import qkvinspect
from qkvinspect.explain.explanation import explain
from qkvinspect.explain.snippet import python
from qkvinspect.explain.verify import verify
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, QKV, Packing

SCHEMA = Path(qkvinspect.__file__).parent / "render/results/explanation.schema.json"
CODEGEN = Packing(("q", "v", "k"), 4)
INNERMOST = Packing(("q", "k", "v"), "heads", slot_innermost=True)
IN_TURN = Packing(("q", "k", "v"), "rows")
ALTERNATING = Packing(("q", "k", "v"), heads_innermost=True)


def execute(lines: list[str]) -> dict[str, torch.Tensor]:
    scope: dict[str, object] = {"torch": torch, "safetensors": safetensors}
    exec("\n".join(lines), scope)
    return scope


def rows(tensor: torch.Tensor, heads: tuple[range, ...]) -> torch.Tensor:
    return torch.cat([tensor[list(run)] for run in heads])


@pytest.mark.parametrize("sample", ["transformer.pt", "transformer.safetensors", "kdim_vdim.pt", "no_bias.safetensors",
                                    "add_bias_kv.pt", "training.pt", "sharded", "bert_like", "damaged.pt"])  # fmt: skip
def test_the_code_slices_what_the_report_says(samples: Path, sample: str) -> None:
    """The lines are run as printed; torch's and safetensors' own readers give the tensors."""
    with open_checkpoint(samples / sample) as checkpoint:
        for attention in inspect(checkpoint, Options(norms=False)).attentions:
            scope = execute(python(attention, checkpoint))
            for part in attention.parts:
                keys = part.weight.require_info().keys
                stored = scope["state"][keys[0]] if len(keys) == 1 else None
                if stored is None:
                    stored = scope["state"]["model_state_dict"][part.weight.name]
                torch.testing.assert_close(scope[part.name], rows(stored, part.heads), rtol=0, atol=0, equal_nan=True)
                if attention.heads:
                    assert scope[f"{part.name}_heads"].shape == (len(part.heads), len(part.heads[0]), part.in_features)
                assert (f"{part.name}_bias" in scope) == (part.bias is not None)


@pytest.mark.parametrize("packing", [QKV, PER_HEAD, GROUPED, CODEGEN, INNERMOST, IN_TURN, ALTERNATING], ids=str)
@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_the_code_of_every_packing(tmp_path: Path, packing: Packing, orientation: str) -> None:
    heads, kv = 8, 8 if packing in (CODEGEN, INNERMOST, PER_HEAD) else 4
    total = (heads + 2 * kv) * 2
    weight = torch.randn(total, 16)
    stored = weight if orientation == "out_in" else weight.T.contiguous()
    save_file({"a.w.weight": stored, "a.w.bias": weight[:, 0].clone()}, tmp_path / "model.safetensors")
    layout = Layout("x", "X", (StoredWeight("w.weight", packing, orientation),), "x.py", "proven",
                    kv_heads="free")  # fmt: skip
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(heads=(f"{heads}/{kv}",), norms=False), layouts=(layout,)).attentions
        scope = execute(python(attention, checkpoint))
    for part in attention.parts:
        assert torch.equal(scope[part.name], rows(weight, part.heads))
        assert torch.equal(scope[f"{part.name}_bias"], rows(weight[:, 0], part.heads))


def test_it_answers_the_question_of_the_mission(samples: Path, run) -> None:
    result = run("explain", samples / "transformer.pt", "encoder.layers.0.self_attn", "--heads", "2", "--verify")
    assert result.code == 0
    for words in (
        "Q (query): rows 0:16 of in_proj_weight.",
        "K (key): rows 16:32",
        "V (value): rows 32:48",
        "_in_projection_packed",
        "q_proj_weight, k_proj_weight and v_proj_weight would be stored instead",
        "in_proj_bias[0:16]",
        "2 heads x 8, from flag",
        "q, k, v = state['encoder.layers.0.self_attn.in_proj_weight'].chunk(3)",
        "Verified yes",
    ):
        assert words in result.out


def test_it_says_what_is_stored_when_kdim_and_vdim_differ(samples: Path, run) -> None:
    out = run("explain", samples / "kdim_vdim.pt", "--verify").out
    assert "kdim is 12 and vdim is 8 where embed_dim is 16" in out
    assert "Q in in_proj_bias[0:16], K in in_proj_bias[16:32], V in in_proj_bias[32:48]" in out
    assert "Verified yes" in out


def test_it_says_what_bias_k_is(samples: Path, run) -> None:
    out = run("explain", samples / "add_bias_kv.pt", "--verify").out
    assert "bias_k [1, 1, 16] is one extra key position (add_bias_kv), not a bias of the K projection" in out
    assert "this proves the rows, not the heads" in out


def test_biases_of_heads_apart_are_told_in_runs(run, tmp_path: Path) -> None:
    """They lie as the rows do; from the first to the last of Q there is more than Q."""
    start = "gpt_neox.layers.0.attention."
    state = {f"{start}query_key_value.weight": torch.ones(48, 16), f"{start}query_key_value.bias": torch.ones(48)}
    torch.save(state | {f"{start}dense.weight": torch.ones(16, 16)}, tmp_path / "model.pt")
    out = run("explain", tmp_path / "model.pt", "--layout", "*=gpt-neox", "--heads", "2").out
    assert "Q in entries 0:8, 24:32 of query_key_value.bias, K in entries 8:16, 32:40 of query_key_value.bias" in out
    assert "Q (query): rows 0:8, 24:32 of query_key_value.weight" in out


def test_missing_biases_are_said(samples: Path, run) -> None:
    assert "none are stored (bias=False)" in run("explain", samples / "no_bias.safetensors").out


def test_grouped_queries_are_explained(samples: Path, run) -> None:
    out = run("explain", samples / "sharded", "*.0.*").out
    assert "2 query heads share a kv head (query head h uses kv head h//2)" in out
    assert "model.layers.1" not in out


def test_ambiguity_is_explained(tmp_path: Path) -> None:
    layouts = tuple(
        Layout(name, name, (StoredWeight("qkv.weight", packing),), "x.py", "proven", needs_config=True)
        for name, packing in (("one", QKV), ("two", PER_HEAD))
    )
    save_file({"a.qkv.weight": torch.zeros(24, 8)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, layouts=layouts).attentions
        explanation = explain(attention, checkpoint)
    assert explanation.code == ()
    assert "one and two" in explanation.points[0][1]


@pytest.mark.parametrize("sample", ["bert_like", "sharded"])
def test_only_multihead_attention_is_verified(samples: Path, run, sample: str) -> None:
    assert "Verified no: this is not nn.MultiheadAttention" in run("explain", samples / sample, "--verify").out
    one = run("explain", samples / sample, "*.0.*", "--verify")
    assert (one.code, one.err.count("\n")) == (2, 1)


def test_verify_reads_with_torch_and_with_safetensors(samples: Path, run) -> None:
    assert "(read by torch.load)" in run("explain", samples / "training.pt", "--verify").out
    assert "(read by safetensors)" in run("explain", samples / "no_bias.safetensors", "--verify").out


def test_verify_finds_wrong_rows(samples: Path) -> None:
    """Swap what is called K and V: the proof must fail."""
    with open_checkpoint(samples / "transformer.pt") as checkpoint:
        attention = inspect(checkpoint, Options(heads=("2",), norms=False)).attentions[0]
        q, k, v = attention.parts
        swapped = replace(attention, parts=(q, replace(k, heads=v.heads), replace(v, heads=k.heads)))
        assert verify(checkpoint, attention).agrees
        assert not verify(checkpoint, swapped).agrees


def test_verify_falls_back_to_our_reader_and_says_so(tmp_path: Path, run) -> None:
    """A whole pickled module, which torch.load(weights_only=True) refuses."""
    torch.save(torch.nn.MultiheadAttention(8, 2), tmp_path / "module.pt")
    result = run("explain", tmp_path / "module.pt", "--verify")
    assert result.code == 0
    assert "the library refuses the file" in result.out
    assert "2 heads x 4, from checkpoint:.num_heads" in result.out
    assert "only if you trust it" in result.out


def test_a_failed_proof_is_exit_code_1(samples: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkvinspect.explain.verify.TOLERANCE", -1.0)
    result = run("explain", samples / "transformer.pt", "--verify")
    assert result.code == 1
    assert "Verified NO" in result.out


def test_the_code_names_odd_keys_safely(tmp_path: Path) -> None:
    name = "a'];import os;x['.in_proj_weight"
    torch.save({name: torch.randn(24, 8)}, tmp_path / "odd.pt")
    with open_checkpoint(tmp_path / "odd.pt") as checkpoint:
        (attention,) = inspect(checkpoint).attentions
        assert torch.equal(execute(python(attention, checkpoint))["v"], torch.load(tmp_path / "odd.pt")[name][16:])


@pytest.mark.parametrize("argv", [(), ("--verify",), ("--evidence",)])
def test_json_keeps_its_schema_and_says_what_the_text_says(samples: Path, run, argv: tuple[str, ...]) -> None:
    argv = (samples / "transformer.pt", "encoder.layers.0.self_attn", "--heads", "2", *argv)
    found = run("explain", *argv, "-f", "json").json()
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(found)
    text = run("explain", *argv).out
    (layer,) = found["layers"]
    assert all(point["text"] in text for point in layer["points"])
    assert all(line in text for line in layer["code"])
    assert (layer["verified"] is not None) == ("--verify" in argv)
    assert not layer["verified"] or layer["verified"]["agrees"]


def test_markdown_has_the_code_as_code(samples: Path, run) -> None:
    argv = ("explain", samples / "transformer.pt", "encoder.layers.0.self_attn")
    out = run(*argv, "-f", "markdown").out
    assert "\n### encoder.layers.0.self\\_attn\n\n- **Layout**: torch-mha" in out
    (layer,) = run(*argv, "-f", "json").json()["layers"]
    assert "\n\n" + "".join(f"    {line}\n" for line in layer["code"]) in out


def test_an_adapter_of_the_query_alone(tmp_path: Path) -> None:
    """What is said and run of it is about the query only."""
    torch.manual_seed(0)
    at = "layers.0.self_attn"
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    state = {f"{at}.q_proj.lora_A.weight": down, f"{at}.q_proj.lora_B.weight": up}
    save_file(state, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        report = inspect(checkpoint, Options(heads="2", norms=False))
        adapter = report.attentions[0]
        points = dict(explain(adapter, checkpoint).points)
        code = python(adapter, checkpoint)
    assert [part.name for part in adapter.parts] == ["q"]
    assert points["Stored"].count("not packed") == 1
    assert points["Rows"].startswith("Q (query)")
    assert "K (key)" not in points["Rows"]
    torch.testing.assert_close(execute(code)["q"], up @ down)
