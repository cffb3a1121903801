"""Lasting answers in qkvinspect.toml or pyproject.toml: found upwards, outranked by flags, unknown keys refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qkvinspect.errors import UsageError
from qkvinspect.settings import Settings, find


def test_none(tmp_path: Path) -> None:
    assert find(tmp_path) == Settings()


@pytest.mark.parametrize(
    ("name", "prefix"), [("qkvinspect.toml", ""), ("pyproject.toml", "tool.qkvinspect.")], ids=["own", "pyproject"]
)
def test_the_nearest_above_is_used(tmp_path: Path, name: str, prefix: str) -> None:
    (tmp_path / name).write_text(f'[{prefix}heads]\n"*" = 8\n"dec.*" = "32/8"\n[{prefix}layouts]\n"a.*" = "bloom"\n')
    (tmp_path / "below" / "deep").mkdir(parents=True)
    (tmp_path / "below" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    found = find(tmp_path / "below" / "deep")
    assert found == Settings(("*=8", "dec.*=32/8"), (("a.*", "bloom"),), str(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        '[tool.qkvinspect.heads]\n"*" = 8',
        "[ tool . 'qkvinspect' . heads ]\n'*' = 8",
        '["tool".qkvinspect]\nheads = {"*" = 8}',
        'tool = {qkvinspect = {heads = {"*" = 8}}}',
        'tool.qkvinspect.heads."*" = 8',
        '[tool]\nqkvinspect.heads."*" = 8',
        '["\\u0074ool".qkvinspect.heads]\n"*" = 8',
        '[tool."\\U00000071kvinspect".heads]\n"*" = 8',
    ],
)
def test_however_a_project_writes_its_table(tmp_path: Path, text: str) -> None:
    before = "" if text.startswith("tool") else "[project]\nname = 'other'\n"
    (tmp_path / "pyproject.toml").write_text(before + text)
    assert find(tmp_path).heads == ("*=8",)


@pytest.mark.parametrize(
    "text", ["nonsense", "select = 1", "heads = 8", "[heads]\na = 1.5", "[layouts]\na = ['x']", "[heads\n", "\x00"]
)
def test_what_is_not_known_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "qkvinspect.toml").write_text(text)
    with pytest.raises(UsageError, match=r"qkvinspect\.toml"):
        find(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 20_000 + "]" * 20_000,
        "a = " + "{a=" * 20_000,
        "a." * 20_000 + "a = 1",
        "[" + "a." * 100_000 + "a]\n" + "x = 1\n" * 100_000,
        "a = " + "9" * 5_000,
        "#" * 2_000_000,
    ],
)
def test_a_file_that_asks_for_much_is_one_line(
    tmp_path: Path, samples: Path, run, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "qkvinspect.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    result = run("show", samples / "transformer.pt")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "qkvinspect.toml" in result.err


def test_settings_reach_the_commands_and_flags_outrank_them(
    tmp_path: Path, samples: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qkvinspect.toml").write_text('[heads]\n"encoder.*" = 2\n')
    monkeypatch.chdir(tmp_path)
    assert [a["num_heads"] for a in run("show", samples / "transformer.pt", "-f", "json").json()["attentions"]] == [
        2,
        None,
        None,
    ]
    flagged = run("show", samples / "transformer.pt", "-f", "json", "--heads", "4").json()
    assert [attention["num_heads"] for attention in flagged["attentions"]] == [4, 4, 4]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "a named pipe"),
        ("folder", "a directory"),
        ("device", "a character device"),
        ("dangling link", "No such file"),
    ],
)
def test_settings_that_are_no_file_are_refused_and_not_waited_for(
    kind: str, words: str, tmp_path: Path, samples: Path, run, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("qkvinspect.toml")
    if kind == "pipe":
        os.mkfifo(own)
    elif kind == "folder":
        own.mkdir()
    else:
        own.symlink_to("/dev/zero" if kind == "device" else "nothing")
    result = run("show", samples / "training.pt")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "qkvinspect.toml" in result.err
    assert words in result.err


def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path: Path, samples: Path, run, monkeypatch) -> None:
    (tmp_path / "qkvinspect.toml").write_text("baseline = 1\n")
    monkeypatch.chdir(tmp_path)
    result = run("show", samples / "transformer.pt")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "'baseline'" in result.err
