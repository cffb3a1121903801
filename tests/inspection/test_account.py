"""Every tensor is attention, something else, or said not to have been understood: never left out without a word."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.layouts.from_settings import UNKNOWN, rows

E = 16
Shapes = Mapping[str, tuple[int, ...]]


def save(folder: Path, shapes: Shapes) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def report(folder: Path, shapes: Shapes, **options: Any) -> Report:
    with open_checkpoint(save(folder, shapes)) as checkpoint:
        return inspect(checkpoint, Options(norms=False, **options))


RWKV = {f"blocks.{i}.attention.{n}.weight": (E, E) for i in (0, 1) for n in ("key", "value", "receptance")}
SQUARES = {f"enc.{i}.attn.fcs.{n}.weight": (E, E) for i in (0, 1) for n in range(4)}
HALF = {"layer.attn.qk_odd.weight": (2 * E, E), "layer.attn.gate.weight": (E, E)}
TRIPLE = {"layer.self_attn.inner.weight": (3 * E, E), "layer.self_attn.outer.weight": (E, E)}
STRANGE = {"layer.attn.fc_q.weight": (5, E), "layer.attn.fc_k.weight": (7, E), "layer.attn.fc_v.weight": (E, E)}
FLUX = {
    f"blocks.{i}.{name}": shape
    for i in (0, 1)
    for name, shape in {
        "linear1.weight": (7 * E, E),
        "linear2.weight": (E, 5 * E),
        "modulation.lin.weight": (3 * E, E),
        "norm.query_norm.scale": (4,),
        "norm.key_norm.scale": (4,),
    }.items()
}


@pytest.mark.parametrize(
    ("shapes", "modules", "why"),
    [
        (RWKV, ["blocks.0.attention", "blocks.1.attention"], "k and v alone"),
        (SQUARES, ["enc.0.attn", "enc.1.attn"], "4 square matrices"),
        (TRIPLE, ["layer.self_attn"], "three times as many rows"),
        (STRANGE, ["layer.attn"], "shapes are not those of Q, K and V"),
        (HALF, ["layer.attn"], "no Q, K and V of one kind"),
        (FLUX, ["blocks.0", "blocks.1"], "norm.query_norm.scale [4] and norm.key_norm.scale [4]"),
        ({"b.q_norm.weight": (4,), "b.knorm.weight": (4,), "b.in.weight": (48, E)}, ["b"], "norms of Q and K"),
    ],
    ids=["rwkv", "squares", "triple", "strange", "half", "flux", "norms"],
)
def test_what_was_not_understood_is_said(tmp_path: Path, shapes: Shapes, modules: list[str], why: str) -> None:
    found = report(tmp_path, {**shapes, "head.weight": (10, E)})
    assert found.attentions == ()
    assert found.account is not None
    assert [strange.module for strange in found.account.unrecognised] == modules
    assert all(why in strange.why for strange in found.account.unrecognised)
    assert {f.layer for f in found.findings if f.code == "unrecognised-attention"} == set(modules)
    assert sum(found.account.counts().values()) == len(shapes) + 1


def test_norms_of_q_and_k_name_what_they_stand_beside(tmp_path: Path) -> None:
    account = report(tmp_path, FLUX).account
    assert account is not None
    assert [[info.name for info in one.tensors] for one in account.unrecognised] == [
        [f"blocks.{i}.linear{n}.weight" for n in (1, 2)] for i in (0, 1)
    ]
    assert {(one.suggestion, "flux-single" in one.no_row) for one in account.unrecognised} == {("", True)}
    told = report(tmp_path, FLUX, layouts=(("*", "flux-single"),))
    assert [one.layout and one.layout.id for one in told.attentions] == ["flux-single"] * 2
    assert told.account is not None
    assert told.account.unrecognised == ()


@pytest.mark.parametrize(
    "shapes",
    [
        {f"net.{i}.fc{n}.weight": (E, E) for i in range(4) for n in range(3)},
        {"deformable.self_attn.value_proj.weight": (E, E), "deformable.self_attn.sampling_offsets.weight": (E, E),
         "deformable.self_attn.output_proj.weight": (E, E), "deformable.self_attn.attention_weights.weight": (E, E)},
        {"critic.value.weight": (1, E), "policy.query.weight": (4, E)},
        {"mixer.in_proj.weight": (3 * E, E), "mixer.A_log": (4,), "mixer.out_proj.weight": (E, E)},
        {f"l.attn.{n}_proj.weight": (E, E) for n in "qkvo"}
        | {f"l.attn.{n}.weight": (E, E) for n in ("rel_pos", "w2e_query")},
        {"attention/output/dense/kernel": (E, E)},
        {"b.q_norm.weight": (4,), "b.k_norm.weight": (4,), "b.ff.0.weight": (4 * E, E), "b.pos_embed": (9, E)},
        {"b.q_norm.weight": (4,), "b.q_norm.bias": (4,), "b.up.weight": (4 * E, E)},
        {"b.norms.q_norm.weight": (4,), "b.norms.k_norm.weight": (4,), "b.up.weight": (4 * E, E)}
        | {f"b.core.{n}_proj.weight": (E, E) for n in "qkv"},
    ],
    ids=["mlp", "deformable", "actor and critic", "state space", "inside of what was found", "one, with slashes",
         "norms beside no matrix of their module", "a norm of Q alone", "norms of what was found"],
)  # fmt: skip
def test_nothing_is_said_of_what_is_no_attention(tmp_path: Path, shapes: Shapes) -> None:
    found = report(tmp_path, shapes)
    assert found.account is not None
    assert found.account.unrecognised == ()


def test_what_tensorflow_calls_with_slashes_is_said_under_its_own_name(tmp_path: Path) -> None:
    squares = {f"enc/layer_0/attn/fcs/{n}/kernel": (E, E) for n in range(4)}
    lone = {f"dec/attn/{n}/kernel": (E, E) for n in ("query", "output")}
    found = report(tmp_path, {**squares, **lone})
    assert found.account is not None
    said = {strange.module: strange.why for strange in found.account.unrecognised}
    assert "4 square matrices" in said["enc/layer_0/attn"]
    assert "q alone" in said["dec/attn"]
    assert len(said) == 2


def test_shapes_that_no_attention_has_are_said(tmp_path: Path) -> None:
    """The names of a known layout, and a Q that no number of heads shares with that K."""
    found = report(tmp_path, {"l.attn.q.weight": (5, E), "l.attn.k.weight": (7, E), "l.attn.v.weight": (E, E)})
    assert found.attentions == ()
    assert [finding.code for finding in found.findings] == ["unexpected-shape"]


def test_one_stream_of_two_is_not_left_out(tmp_path: Path) -> None:
    """Some layers match, others do not: each is found or said."""
    known = {f"l.attn.{n}_proj.weight": (E, E) for n in "qkvo"}
    found = report(tmp_path, {**known, "l.attn.txt_k_mod.weight": (E, E), "l.attn.txt_v_mod.weight": (E, E)})
    assert [a.layer for a in found.attentions] == ["l.attn", "l.attn.txt_mod"]
    assert [part.name for part in found.attentions[1].parts] == ["k", "v"]


def test_every_tensor_is_listed(tmp_path: Path, run: Any) -> None:
    shapes = {**SQUARES, **{f"l.attn.{n}_proj.weight": (E, E) for n in "qkvo"}, "head.weight": (10, E)}
    path = save(tmp_path, shapes)
    listed = run("show", path, "--tensors", "-f", "json").json()
    by_name = {tensor["name"]: tensor for tensor in listed["every_tensor"]}
    assert by_name.keys() == shapes.keys()
    assert by_name["head.weight"] == {
        "name": "head.weight",
        "shape": [10, E],
        "dtype": "float32",
        "belongs_to": "other",
    }
    assert by_name["l.attn.o_proj.weight"]["belongs_to"] == "attention"
    assert by_name["enc.1.attn.fcs.3.weight"]["belongs_to"] == "unrecognised"
    assert listed["tensors"] == {"attention": 4, "other": 1, "unrecognised": 8}
    for form in ("table", "csv", "markdown"):
        out = run("show", path, "--tensors", "-f", form).out.replace("\\", "")
        assert all(name in out for name in shapes)
    assert run("show", path, "--tensors", "--layer", "l.*").code == 2


def test_the_last_lines_say_what_to_do(tmp_path: Path, run: Any) -> None:
    lines = run("show", save(tmp_path, SQUARES)).out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("8 tensors in 2 modules look like attention"))
    table = tomllib.loads("\n".join(line.strip() for line in lines[start + 2 :]))["layout"][0]
    assert table == {"layer": "enc.*.attn", "q": UNKNOWN, "k": UNKNOWN, "v": UNKNOWN}
    assert "fcs.0.weight" in "\n".join(lines[start:])


def test_what_is_printed_can_be_completed_and_used(tmp_path: Path) -> None:
    found = report(tmp_path, SQUARES)
    assert found.account is not None
    text = found.account.unrecognised[0].suggestion
    for part, name in (("q", "fcs.0.weight"), ("k", "fcs.1.weight"), ("v", "fcs.2.weight")):
        text = text.replace(f'{part} = "{UNKNOWN}"', f'{part} = "{name}"')
    told = rows(tomllib.loads(text)["layout"], "qkvinspect.toml")
    again = report(tmp_path, SQUARES, told=told)
    assert [(a.layer, a.found_by) for a in again.attentions] == [("enc.0.attn", "settings"), ("enc.1.attn", "settings")]
    assert again.account is not None
    assert again.account.unrecognised == ()


def test_nothing_found_shows_the_nearest_first(tmp_path: Path, run: Any) -> None:
    shapes = {f"net.{i}.fc.weight": (E, 4) for i in range(3)} | {"x.attn.mystery.weight": (3 * E, E)}
    lines = run("show", save(tmp_path, shapes)).out.splitlines()
    assert lines[1].startswith("No attention was found")
    assert [line.split()[2] for line in lines[3:5]] == ["x.attn.mystery.weight", "net.#.fc.weight"]
    assert lines[4].split()[:2] == ["3", "x"]


def test_check_has_a_code_for_it(tmp_path: Path, run: Any) -> None:
    shapes = {**SQUARES, **{f"l.attn.{n}_proj.weight": (E, E) for n in "qkvo"}}
    told = json.loads(run("check", save(tmp_path, shapes), "-f", "json").out)
    assert "unrecognised-attention" in json.dumps(told)


def test_check_does_not_send_to_a_layer_that_show_does_not_know(tmp_path: Path, run: Any) -> None:
    path = save(tmp_path, {**SQUARES, **{f"l.attn.{n}_proj.weight": (E, E) for n in "qkvo"}})
    hint = run("check", path).out.partition("look closer:\n")[2].partition("\n")[0]
    assert "--layer enc" not in hint


def test_nothing_found_says_how_to_tell(tmp_path: Path, run: Any) -> None:
    path = save(tmp_path, {"net.0.big.weight": (3 * E, E), "net.0.last.weight": (E, E)})
    assert "--layout" in run("show", path).out
    assert (
        len(run("show", path, "--layout", '{ qkv = "big.weight", heads = 4 }', "-f", "json").json()["attentions"]) == 1
    )


def test_each_kind_of_module_has_a_row_to_complete(tmp_path: Path, run: Any) -> None:
    out = run("show", save(tmp_path, {**SQUARES, **RWKV})).out
    assert out.count("[[layout]]") == 2
    assert out.count('layer = "enc.*.attn"') == 1


@pytest.mark.parametrize(
    ("shapes", "answers", "module"),
    [
        (SQUARES, {"q": "fcs.0.weight", "k": "fcs.1.weight", "v": "fcs.2.weight"}, "enc.0.attn"),
        (TRIPLE, {"packing": "q, k, v per head"}, "layer.self_attn"),
    ],
    ids=["squares", "triple"],
)
def test_what_is_printed_is_pasted_and_works(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, shapes: Shapes, answers: dict[str, str], module: str
) -> None:
    """The lines of ``show``, completed, in a project's pyproject.toml."""
    path = save(tmp_path, shapes)
    lines = run("show", path).out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "[[layout]]")
    pasted = [line.strip() for line in lines[start:]]
    for key, value in answers.items():
        pasted = [f'{key} = "{value}"' if line.startswith(f'{key} = "{UNKNOWN}"') else line for line in pasted]
    text = "\n".join([*pasted, "heads = 4"]).replace("[[layout]]", "[[tool.qkvinspect.layout]]")
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = run("show", path, "-f", "json").json()["attentions"]
    assert found[0]["layer"] == module
    assert (found[0]["num_heads"], found[0]["found_by"]) == (4, "settings")


def test_a_row_that_was_not_completed_is_refused(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, TRIPLE)
    lines = run("show", path).out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "[[layout]]")
    (tmp_path / "qkvinspect.toml").write_text("\n".join(line.strip() for line in lines[start:]))
    monkeypatch.chdir(tmp_path)
    result = run("show", path)
    assert result.code == 2
    assert "still '?'" in result.err


def test_a_module_that_is_left_out_is_not_understood(tmp_path: Path) -> None:
    """The warning says why; it is neither attention, of which rows are shown, nor something else."""
    layer = "layers.0.attn"
    rows = {"q": 48, "k": 32, "v": 64, "o": 64}
    found = report(tmp_path, {f"{layer}.{part}_proj.weight": (size, 64) for part, size in rows.items()})
    assert found.attentions == ()
    assert [finding.code for finding in found.findings if finding.layer == layer] == ["unexpected-shape"]
    assert found.account is not None
    assert [(one.module, one.told) for one in found.account.unrecognised] == [(layer, True)]
    assert found.account.counts()["unrecognised"] == 3


def test_every_factor_of_an_adapter_is_counted(tmp_path: Path) -> None:
    names = [f"enc.0.attn.{part}_proj.lora_{factor}.weight" for part in "qkv" for factor in "AB"]
    found = report(tmp_path, {name: (4, 32) if "lora_A" in name else (32, 4) for name in names})
    assert found.account is not None
    assert found.account.counts() == {"attention": 6, "other": 0, "unrecognised": 0}
