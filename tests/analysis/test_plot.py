"""--plot of show and analyze: a picture with the numbers that --heat has, or one line that says why not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.long import long
from tests.some import every_value

COMMANDS = ("show", "analyze")
PDF = ("pdf", b"%PDF")
FORMS = (("png", b"\x89PNG"), ("svg", b"<?xml"), PDF)


@pytest.mark.parametrize(("command", "form"), long(lambda case: case[1] is PDF, every_value(product(COMMANDS, FORMS))))
def test_a_picture_is_written(run, samples: Path, tmp_path: Path, command: str, form: tuple[str, bytes]) -> None:
    suffix, magic = form
    target = tmp_path / f"map.{suffix}"
    line = (command, samples / "trained.safetensors", "--heads", "4", "--heat", "q_norm", "--no-evidence")
    line = (*line, "--plot", target)
    result = run(*line)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert target.read_bytes().startswith(magic)
    if suffix == "svg":
        assert "Q Frobenius norm" in target.read_text()
    again = run(*line)
    assert again.code == 2
    assert "--force" in again.err
    if suffix == "png":
        assert run(*line, "--force").code == 0


@pytest.mark.parametrize("command", ["show", "analyze"])
def test_what_cannot_be_drawn(run, samples: Path, tmp_path: Path, command: str) -> None:
    path = samples / "trained.safetensors"
    assert "--heat COLUMN" in run(command, path, "--plot", tmp_path / "map.png").err
    result = run(command, path, "--heads", "4", "--heat", "q_norm", "--plot", tmp_path / "map.gif")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    result = run(command, path, "--heads", "4", "--heat", "q_norm", "-f", "csv")
    assert (result.code, result.out) == (2, "")
    assert "--heat draws a picture, which is no csv" in result.err
