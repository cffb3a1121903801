"""Layouts that a user describes, and what is said of one that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.from_settings import is_row, parse, rows
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, Packing
from tests.inspection.test_patterns import report as of_shapes

E = 16
APART = {f"blocks.{i}.fcs.{n}.weight": torch.zeros(E, E) for i in (0, 1) for n in range(4)}
FUSED = {
    "blocks.0.mix.big.weight": torch.arange(3.0 * E * E).reshape(3 * E, E),
    "blocks.0.mix.last.weight": torch.ones(E, E),
}


def report(folder: Path, tensors: dict[str, torch.Tensor], **options: Any) -> Report:
    save_file(tensors, folder / "model.safetensors")
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        return inspect(checkpoint, Options(norms=False, **options))


def test_a_row_finds_what_no_name_tells(tmp_path: Path) -> None:
    assert report(tmp_path, APART).attentions == ()
    (row,) = rows([{"id": "mine", "q": "fcs.2.weight", "k": "fcs.0.weight", "v": "fcs.1.weight", "heads": 4}], "x.toml")
    found = report(tmp_path, APART, told=(row,))
    assert [attention.layer for attention in found.attentions] == ["blocks.0", "blocks.1"]
    first = found.attentions[0]
    assert (first.layout.id if first.layout else None, first.found_by, first.layout_from) == (
        "mine",
        "settings",
        "settings",
    )
    assert {part.name: part.weight.name for part in first.parts} == {
        "q": "blocks.0.fcs.2.weight", "k": "blocks.0.fcs.0.weight", "v": "blocks.0.fcs.1.weight",
    }  # fmt: skip
    assert first.heads is not None
    assert (first.heads.num_heads, first.heads_from) == (4, "settings")


def test_a_row_outranks_the_registry(tmp_path: Path) -> None:
    tensors = {"blocks.0.attn.qkv.weight": torch.zeros(3 * E, E), "blocks.0.attn.proj.weight": torch.zeros(E, E)}
    row = parse('{ qkv = "qkv.weight", packing = "q, k, v per head", heads = "4" }')
    (attention,) = report(tmp_path, tensors, told_now=(row,)).attentions
    assert attention.found_by == "settings"
    assert attention.part("q").heads[:2] == (range(4), range(12, 16))  # pyright: ignore[reportOptionalMemberAccess]


def test_a_glob_says_which_layers(tmp_path: Path) -> None:
    row = parse('{ layer = "*.1", q = "fcs.0.weight", k = "fcs.1.weight", v = "fcs.2.weight" }')
    assert [a.layer for a in report(tmp_path, APART, told_now=(row,)).attentions] == ["blocks.1"]


@pytest.mark.parametrize(
    ("packing", "expected"),
    [
        ("per head", PER_HEAD),
        ("q, k, v per kv head", GROUPED),
        ("k, v, q in blocks", Packing(("k", "v", "q"))),
        ("row by row", Packing(("q", "k", "v"), groups="heads", slot_innermost=True)),
        ("q, v, k in 4 groups", Packing(("q", "v", "k"), groups=4)),
        ("q, gate, k, v in blocks", Packing(("q", "gate", "k", "v"))),
    ],
)
def test_packings_are_written_as_explain_writes_them(packing: str, expected: Packing) -> None:
    (row,) = rows([{"qkv": "big.weight", "packing": packing}], "x.toml")
    assert row.weights[0].packing == expected


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"q": "a", "size": 3}, "'size'"),
        ({}, "none of them"),
        ({"id": "mine"}, "none of them"),
        ({"qkv": "a", "k": "b"}, "once"),
        ({"qkv": "a", "packing": "somehow"}, "no packing"),
        ({"qkv": "a", "packing": "q, k per head"}, "other parts"),
        ({"qkv": "a", "packing": "q, k, v, v in blocks"}, "other parts"),
        ({"q": "a", "orientation": "sideways"}, "no orientation"),
        ({"q": "a", "heads": "many"}, "no number"),
        ({"q": "a", "heads": "0"}, "no number"),
        ({"q": ["a"]}, "no text"),
        ({"q": ""}, "no text"),
        ({"q": "?", "k": "b", "v": "c"}, "still '?'"),
    ],
)
def test_what_describes_no_layout_is_refused(table: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=r"x\.toml") as raised:
        rows([table], "x.toml")
    assert words in str(raised.value)


@pytest.mark.parametrize("text", ["{", "{ q = }", "{ q = 'a' } }", "{" + "a = {" * 3000])
def test_a_row_that_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no table of TOML"):
        parse(text)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{ q = "nowhere.weight", k = "fcs.1.weight", v = "fcs.2.weight" }', "no tensor is called nowhere.weight"),
        ('{ q = "fcs.0.weight", k = "head.weight", v = "fcs.2.weight" }', "but no head.weight beside it"),
        ('{ layer = "other.*", q = "fcs.0.weight", k = "fcs.1.weight", v = "fcs.2.weight" }', "does not name"),
    ],
)
def test_why_a_row_does_not_fit(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(LayoutError) as raised:
        report(tmp_path, {**APART, "head.weight": torch.zeros(4, E)}, told_now=(parse(row),))
    assert words in str(raised.value)


_PARTS = ('q = "fcs.0.weight"', 'k = "fcs.1.weight"', 'v = "fcs.2.weight"')


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (f"{{ {', '.join(_PARTS)} }}", 2),
        (f"blocks.1={{ {', '.join(_PARTS)} }}", 1),
        (f"blocks.* = {{ {', '.join(_PARTS)} }}", 2),
        ("\n".join(["[[layout]]", *_PARTS]), 2),
        ("\n".join(_PARTS), 2),
    ],
)
def test_a_row_of_the_command_line_is_taken_as_it_is_printed_and_after_a_glob(
    tmp_path: Path, text: str, layers: int
) -> None:
    assert is_row(text)
    assert len(report(tmp_path, APART, told_now=(parse(text),)).attentions) == layers


@pytest.mark.parametrize("text", ["qkv-proj", "*.0.*=gpt2", "pattern-per-head", "a=b=bert"])
def test_an_id_is_no_row(text: str) -> None:
    assert not is_row(text)


def test_layers_are_named_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse('a.*={ layer = "b.*", q = "q.weight" }')


def test_an_output_that_is_not_there_is_said(tmp_path: Path) -> None:
    row = parse(f'{{ {", ".join(_PARTS)}, out = "nope.weight" }}')
    with pytest.raises(LayoutError, match=r"no out is called nope\.weight"):
        report(tmp_path, APART, told_now=(row,))


def test_settings_speak_of_many_checkpoints(tmp_path: Path) -> None:
    """A row of the settings that fits nothing in this file is no error."""
    (row,) = rows([{"q": "nowhere.weight", "k": "b.weight", "v": "c.weight"}], "x.toml")
    assert report(tmp_path, APART, told=(row,), settled=(("nowhere.*", "bloom"),)).attentions == ()


@pytest.mark.parametrize(
    ("id", "close"),
    [
        ("brt", "bert"),
        ("qkv-prj", "qkv-proj"),
        ("nosuch-thing", "lists them all"),
        ("patern-per-head", "pattern-per-head"),
    ],
)
def test_an_unknown_id_is_an_error_with_near_names(tmp_path: Path, id: str, close: str) -> None:
    with pytest.raises(UsageError, match="there is no layout") as raised:
        report(tmp_path, APART, layouts=(("*", id),))
    assert close in str(raised.value)


def test_a_known_layout_fits_wherever_its_names_are(tmp_path: Path) -> None:
    """The registry lists parents; a person who names the layout knows better."""
    tensors = {f"odd.place.{n}.weight": torch.zeros(E, E) for n in ("query", "key", "value")}
    (attention,) = report(tmp_path, tensors, layouts=(("*", "bert"),)).attentions
    assert (attention.layout.id if attention.layout else None, attention.layout_from) == ("bert", "flag")


def test_a_pattern_s_packing_can_be_chosen(tmp_path: Path) -> None:
    tensors = {"l.attn.my_qkv.weight": torch.zeros(3 * E, E), "l.attn.proj.weight": torch.zeros(E, E)}
    (open,) = report(tmp_path, tensors).attentions
    assert open.candidates == ("pattern-blocks", "pattern-per-head", "pattern-row-by-row", "pattern-heads-in-turn")
    (chosen,) = report(tmp_path, tensors, layouts=(("l.*", "pattern-per-head"),), heads=("4",)).attentions
    assert chosen.part("k").heads[0] == range(4, 8)  # pyright: ignore[reportOptionalMemberAccess]


def test_from_the_command_line_and_the_settings(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(APART, tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    row = '{ q = "fcs.0.weight", k = "fcs.1.weight", v = "fcs.2.weight", heads = 2 }'
    once = run("show", "m.safetensors", "--layout", row, "-f", "json").json()
    assert [(a["found_by"], a["num_heads"]) for a in once["attentions"]] == [("settings", 2)] * 2
    (tmp_path / "qkvinspect.toml").write_text(
        '[[layout]]\nq = "fcs.0.weight"\nk = "fcs.1.weight"\nv = "fcs.2.weight"\n'
    )
    lasting = run("show", "m.safetensors", "-f", "json").json()
    assert [a["layer"] for a in lasting["attentions"]] == ["blocks.0", "blocks.1"]
    (tmp_path / "qkvinspect.toml").write_text("[[layout]]\nq = 3.5\n")
    refused = run("show", "m.safetensors")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def one(shapes: dict[str, tuple[int, ...]], row: str) -> tuple[Attention, list[str]]:
    """What a row makes of one module, and what is said of it."""
    told = of_shapes(shapes, told_now=(parse(row),))
    (attention,) = told.attentions
    return attention, [finding.message for finding in told.findings]


SQUARES = {f"l.{name}.weight": (48, 48) for name in "abc"}
WIDE_V = {"l.big.weight": (96, 48), "l.out.weight": (48, 48)}


def test_kv_heads_that_the_rows_contradict_are_refused_with_the_reason() -> None:
    """K is as wide as Q, so that it has as many heads."""
    attention, said = one(SQUARES, '{ q = "a.weight", k = "b.weight", v = "c.weight", heads = "8/2" }')
    assert attention.heads is None
    assert any("8 kv heads, not 2" in text for text in said)
    attention, said = one(SQUARES, '{ q = "a.weight", k = "b.weight", v = "c.weight", heads = "8/8" }')
    assert attention.heads is not None
    assert (attention.heads.num_heads, attention.heads.num_kv_heads, said) == (8, 8, [])


@pytest.mark.parametrize(("heads", "widths"), [("8/8", (24, 24, 48)), ("8/4", (48, 24, 24))])
def test_kv_heads_decide_where_v_begins(heads: str, widths: tuple[int, ...]) -> None:
    """96 rows beside 48 columns are [24; 24; 48] of 8 heads each, or [48; 24; 24] of 8 heads over 4."""
    attention, _ = one(WIDE_V, f'{{ qkv = "big.weight", out = "out.weight", heads = "{heads}" }}')
    assert tuple(part.shape[0] for part in attention.parts) == widths
