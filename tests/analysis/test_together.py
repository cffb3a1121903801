"""Layers that are alike are dealt with in one call: each has the figures that it has alone, whatever lies beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

import qkvinspect.analysis as analysis
from qkvinspect.analysis import LayerFigures, analyze
from qkvinspect.analysis import layer as modules
from qkvinspect.analysis.circuits import CircuitSide
from qkvinspect.cli import main
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

HEADS, KV_HEADS, DIM, LAYERS = 4, 2, 6, 9
WIDTH = HEADS * DIM
NAN, HUGE, NARROW, ZERO, ILL, NO_OUT = 1, 2, 3, 4, 5, 6
"""Layers that have something of their own."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for number in range(LAYERS):
        at, inputs = f"model.layers.{number}", WIDTH // 2 if number == NARROW else WIDTH
        rows = {"q": HEADS * DIM, "k": KV_HEADS * DIM, "v": KV_HEADS * DIM}
        layer = {name: torch.randn(count, inputs) for name, count in rows.items()} | {"o": torch.randn(inputs, WIDTH)}
        if number == NAN:
            layer["v"][0, 0] = torch.nan
        if number == HUGE:
            layer["k"] = layer["k"].double() * 1e70
        if number == ZERO:
            layer["q"][:DIM] = 0
        if number == ILL:
            layer["k"][1] = layer["k"][0] * (1 + 1e-5)
        if number == NO_OUT:
            del layer["o"]
        state |= {f"{at}.self_attn.{name}_proj.weight": rows for name, rows in layer.items()}
        state[f"{at}.input_layernorm.weight"] = torch.rand(inputs)
    path = tmp_path_factory.mktemp("together") / "model.pt"
    torch.save(state, path)
    with open_checkpoint(path) as checkpoint:
        yield inspect(checkpoint, Options((f"{HEADS}/{KV_HEADS}",), norms=False))


def same(found: LayerFigures, alone: LayerFigures) -> None:
    assert (found.layer, found.why, found.bound_from) == (alone.layer, alone.why, alone.bound_from)
    for one, other in zip((*found.parts, *found.heads), (*alone.parts, *alone.heads), strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12, nan_ok=True)


def numbers(figures: object) -> list[float | str]:
    """All figures of a head, or of a part with its name; NaN where there is none."""
    values = figures if isinstance(figures, tuple) else astuple(figures)  # type: ignore[call-overload]
    flat: list[float | str] = []
    for value in values:
        if value is None:
            flat.append(float("nan"))
        elif isinstance(value, int | float | str):
            flat.append(value)
        else:
            flat += numbers(value)
    return [value for value in flat if not isinstance(value, str)]


def test_a_layer_among_others_has_the_figures_that_it_has_alone(report: Report) -> None:
    found = list(analyze(report))
    assert [bool(one.why) for one in found] == [number in (NAN, HUGE) for number in range(LAYERS)]
    assert "V has values that are not finite" in found[NAN].why
    assert "K has values above" in found[HUGE].why
    assert {head.ov for head in found[NO_OUT].heads} == {None}
    for one, attention in zip(found, report.attentions, strict=True):
        (alone,) = analyze(report, [attention])
        same(one, alone)


def test_alike_layers_are_dealt_with_in_one_call(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    factor = modules.Factor
    monkeypatch.setattr(modules, "Factor", lambda rows, heads: sizes.append(len(rows)) or factor(rows, heads))
    together = list(analyze(report))
    usual = [number for number in range(LAYERS) if number not in (NAN, HUGE, NARROW, NO_OUT)]
    assert max(sizes) >= len(usual)
    sizes.clear()
    monkeypatch.setattr(analysis, "_TOGETHER", 1)
    for one, other in zip(analyze(report), together, strict=True):
        same(one, other)
    assert set(sizes) == {1}


def test_a_layer_that_lapack_fails_on_spoils_no_other(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = list(analyze(report))
    bad = usual[0].heads[0].q
    assert bad is not None
    eigvalsh = np.linalg.eigvalsh

    def failing(matrices: np.ndarray) -> np.ndarray:
        found = eigvalsh(matrices)
        if np.isclose(found[:, -1], bad.largest**2, rtol=1e-9).any():
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return found

    monkeypatch.setattr(np.linalg, "eigvalsh", failing)
    found = list(analyze(report))
    assert found[0].why == "LAPACK does not decompose its matrices"
    for one, other in zip(found[1:], usual[1:], strict=True):
        same(one, other)


def test_a_circuit_that_is_small_beside_its_factors(tmp_path: Path) -> None:
    """Squares of its singular values would be lost in those of Q and K, which all but miss each other."""
    torch.manual_seed(0)
    width = 48
    basis = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]
    q = torch.randn(DIM, DIM, dtype=torch.float64) @ basis[:DIM]
    k = torch.randn(DIM, DIM, dtype=torch.float64) @ basis[DIM : 2 * DIM] + 1e-5 * basis[:DIM]
    state = {f"model.layers.0.self_attn.{name}_proj.weight": rows for name, rows in (("q", q), ("k", k), ("v", k))}
    torch.save(state, tmp_path / "m.pt")
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options(("1",), norms=False)))
    values = torch.linalg.svdvals(q.T @ k)[:DIM]
    share = values / values.sum()
    found = layer.heads[0].qk
    assert found is not None
    assert found.largest == pytest.approx(float(values[0]), rel=1e-9)
    assert found.effective_rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-9)


@pytest.mark.parametrize(("options", "needed"), [
    (["-f", "csv"], False), (["--sort", "symmetric"], False), (["-f", "json", "--sort", "symmetric"], True), ([], True),
])  # fmt: skip
def test_parts_as_wholes_are_reckoned_where_they_are_shown(
    options: list[str],
    needed: bool,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[CircuitSide] = []
    wholes = CircuitSide.wholes
    monkeypatch.setattr(CircuitSide, "wholes", lambda side: asked.append(side) or wholes(side))
    assert main(["analyze", report.checkpoint.path, "--heads", f"{HEADS}/{KV_HEADS}", "--no-evidence", *options]) == 0
    assert capsys.readouterr().out
    assert bool(asked) == needed
