"""Pictures in the terminal: goldens at two widths, with colour and without; what the digits stand for."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from qkvinspect.analysis import column
from qkvinspect.analysis.grid import Grid
from qkvinspect.render.heatmap import render
from qkvinspect.render.view import ViewOptions

GOLDEN = Path(__file__).parent / "heatmaps"

LAYERS = tuple(f"model.layers.{number}.self_attn" for number in range(12))


def values(scale: float = 1.0, shift: float = 0.0) -> tuple[tuple[float | None, ...], ...]:
    """40 heads each; layer 4 has fewer, layer 7 is not known."""
    rows: list[tuple[float | None, ...]] = []
    for layer in range(12):
        row: list[float | None] = [math.sin(layer + head / 7) * scale + shift for head in range(40)]
        rows.append(() if layer == 7 else tuple(row[:10] if layer == 4 else row))
    rows[2] = (None, math.inf, *rows[2][2:])
    return tuple(rows)


GRIDS = {
    "values": Grid(column("q_norm"), LAYERS, values(2.0, 10.0)),
    "cosine": Grid(column("similar_qk"), LAYERS, values()),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_golden(name: str, width: int, colour: bool) -> None:
    shown = render(GRIDS[name], ViewOptions(width=width, colour=colour))
    assert shown == (GOLDEN / f"{name}-{width}{'-colour' if colour else ''}.txt").read_text()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= width
    assert [line.rstrip() for line in plain.splitlines()] == render(
        GRIDS[name], ViewOptions(width=width, colour=False)
    ).splitlines()


@pytest.mark.parametrize("width", [None, 300])
def test_every_digit_is_its_value(width: int | None) -> None:
    grid = GRIDS["values"]
    lines = render(grid, ViewOptions(width=width)).splitlines()[3:]
    low, high = grid.limits
    for label, row, line in zip(range(12), grid.rows, lines, strict=True):
        name, *digits = line.split()
        assert name == str(label)
        if not row:
            assert digits == ["-"]
        for value, digit in zip(row, digits, strict=bool(row)):
            if value is None or math.isinf(value):
                assert digit == ("." if value is None else "!")
            else:
                assert abs((value - low) / (high - low) - (int(digit) + 0.5) / 10) <= 0.0501


def test_a_wide_scale_is_logarithmic_and_says_so() -> None:
    grid = Grid(column("logit_bound"), ("a", "b"), ((1.0, 10.0, 100.0), (1000.0, 3.0, 31.0)))
    shown = render(grid, ViewOptions())
    assert "0 for 1.000, 9 for 1000.000, logarithmic" in shown
    assert [line.split() for line in shown.splitlines()[-2:]] == [["a", "0", "3", "6"], ["b", "9", "1", "4"]]


def test_a_scale_of_one_value() -> None:
    shown = render(Grid(column("q_norm"), ("a",), ((2.0, 2.0),)), ViewOptions())
    assert "all 2.000" in shown
    assert shown.splitlines()[-1].split() == ["a", "0", "0"]


def test_names_stay_text() -> None:
    names = ("[red]x[/red].\x1b[31my.attn", "[red]x[/red].z\n.attn")
    shown = render(Grid(column("q_norm"), names, ((1.0,), (2.0,))), ViewOptions(width=80))
    assert "[red]x[/red].*.attn" in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 5


def test_nothing_known() -> None:
    assert "nothing to draw" in render(Grid(column("q_norm"), ("a",), ((),)), ViewOptions())


if __name__ == "__main__":
    for name, grid in GRIDS.items():
        for width in (80, 200):
            for colour in (False, True):
                path = GOLDEN / f"{name}-{width}{'-colour' if colour else ''}.txt"
                path.write_text(render(grid, ViewOptions(width=width, colour=colour)))
