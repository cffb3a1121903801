"""Two files of one format, of which one has Q and K permuted otherwise: neither is what the other was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checks import test_rotary_order as made
from tests.some import crossed

Weights = list[dict[str, Any]]


def noise(seed: int = 0) -> Weights:
    """Layers that show no order."""
    rng = np.random.default_rng(seed)
    return [{part: rng.standard_normal(rows.shape) for part, rows in layer.items()} for layer in made.turning(seed)]


def said(run: Callable[..., Any], a: Path, b: Path) -> set[str]:
    """What is said of permuted rows, of all layers."""
    found = json.loads(run("diff", a, b, "-f", "json", "--no-evidence").out)
    relations = [one for layer in found["layers"] for one in layer["relations"]]
    assert {one["code"] for one in relations} == {"rotary-permuted"}
    return {one["message"] for one in relations}


@crossed(kind=["F32", "Q8_0"], wrong_first=[False, True])
def test_the_weights_say_which_gguf_file_is_wrong(
    kind: str, wrong_first: bool, tmp_path: Path, run: Callable[..., Any]
) -> None:
    right = made.as_gguf(tmp_path / "r.gguf", made.converted(made.turning(), *made.RIGHT), kind=kind)
    left = made.as_gguf(tmp_path / "w.gguf", made.turning(), kind=kind)
    (message,) = said(run, left, right) if wrong_first else said(run, right, left)
    wrong, other = "AB" if wrong_first else "BA"
    assert f"{wrong} were not permuted, where they should be permuted once, as llama.cpp needs it" in message
    assert f"the weights show that those of {other} are as they must be" in message


def test_both_may_be_wrong(tmp_path: Path, run: Callable[..., Any]) -> None:
    layers = made.turning()
    left = made.as_gguf(tmp_path / "left.gguf", layers)
    twice = made.as_gguf(tmp_path / "twice.gguf", made.converted(layers, made.of(4, 2), made.of(2, 2)))
    (message,) = said(run, left, twice)
    assert "of both lie otherwise than they must, by their weights" in message


def test_where_the_weights_show_nothing_neither_is_blamed(tmp_path: Path, run: Callable[..., Any]) -> None:
    layers = noise()
    right = made.as_gguf(tmp_path / "right.gguf", made.converted(layers, *made.RIGHT))
    left = made.as_gguf(tmp_path / "left.gguf", layers)
    (message,) = said(run, right, left)
    assert message.startswith("the rows of Q and K of B were not permuted, or else those of A were permuted twice")
    assert "which of the two it is the weights do not show" in message


@pytest.mark.parametrize("model_type", ["llama", "nobodys"])
def test_files_of_transformers_too(model_type: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    layers = made.turning()
    right = made.as_transformers(tmp_path / "right", layers, model_type)
    twice = made.converted(layers, made.of(4, 2), made.of(2, 2))
    (message,) = said(run, right, made.as_transformers(tmp_path / "twice", twice, model_type))
    if model_type == "llama":
        assert "B were permuted twice, where they should not be: the weights show that those of A" in message
    else:
        assert message.endswith("what order they must have is not known")


def test_an_unknown_architecture_is_not_judged(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The converter permutes for some; weights cannot tell which rows the code of this one turns together."""
    layers = made.turning()
    source = made.as_transformers(tmp_path / "hf", layers, "nobodys")
    permuted = made.as_gguf(tmp_path / "p.gguf", made.converted(layers, *made.RIGHT), "nobodys")
    plain = made.as_gguf(tmp_path / "n.gguf", layers, "nobodys")
    (message,) = said(run, source, permuted)
    assert "should" not in message
    assert message.endswith("whether its architecture needs that is not known")
    (message,) = said(run, plain, permuted)
    assert "should" not in message
    assert message.endswith("what order they must have is not known")
    assert run("diff", "--no-evidence", source, plain).code == 0  # rounded to 16 bits
