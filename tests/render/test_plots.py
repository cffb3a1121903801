"""Pictures in files: colours where the values are, names as text, the same bytes each time, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from qkvinspect.analysis.columns import column
from qkvinspect.analysis.grid import Grid
from qkvinspect.errors import UsageError
from qkvinspect.render import labels, plots
from tests.some import crossed

Run = Callable[..., Any]

HOSTILE = ("<img src=x onerror=alert(1)>.attn", "$x^2$.attn", "\x1b[31m\u65e5\u202e.attn", "--></script><b>.attn")
SVG = "{http://www.w3.org/2000/svg}"


def heat(key: str, *rows: tuple[float | None, ...], names: tuple[str, ...] = ()) -> Grid:
    return Grid(column(key), names or tuple(f"layers.{place}.attn" for place in range(len(rows))), rows)


def centre(path: Path, colour: tuple[float, ...]) -> tuple[float, float]:
    """Across and down, where a colour is, right of the map left out: there is the scale."""
    pixels = imread(path)[..., :3]
    within = pixels[:, : int(pixels.shape[1] * 0.8)]
    down, across = np.nonzero(np.abs(within - np.array(colour[:3])).max(axis=2) < 0.005)
    assert len(down)
    return float(np.median(across)), float(np.median(down))


@pytest.mark.gate
def test_a_value_has_its_colour_in_its_place(tmp_path: Path) -> None:
    plots.save(heat("symmetric", (0.1, 0.9), (0.5, 0.3)), "a.pt", tmp_path / "a.png", force=False)
    colours = mpl.colormaps["cividis"]
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = (centre(tmp_path / "a.png", colours(v)) for v in (0.1, 0.9, 0.5, 0.3))
    assert (x1, x2) == pytest.approx((x3, x4), abs=2)
    assert (y1, y3) == pytest.approx((y2, y4), abs=2)
    assert x1 < x2
    assert y1 < y3


@pytest.mark.gate
def test_a_cosine_of_zero_is_in_the_middle_of_its_scale(tmp_path: Path) -> None:
    plots.save(heat("similar_qk", (0.0, 0.6)), "a.pt", tmp_path / "a.png", force=False)
    colours = mpl.colormaps["RdBu_r"]
    assert centre(tmp_path / "a.png", colours(0.5))[0] < centre(tmp_path / "a.png", colours(0.8))[0]


def test_missing_values_have_a_mark_and_missing_heads_a_hatch(tmp_path: Path) -> None:
    plots.save(heat("q_norm", (1.0, None, float("nan")), (2.0,)), "a.pt", tmp_path / "a.svg", force=False)
    drawing = (tmp_path / "a.svg").read_text()
    assert "no value" in drawing
    assert "no such head, or not known" in drawing
    plots.save(heat("q_norm", (1.0, 2.0)), "a.pt", tmp_path / "b.svg", force=False)
    assert "no value" not in (tmp_path / "b.svg").read_text()
    assert "no such head" not in (tmp_path / "b.svg").read_text()


def test_names_stay_text(tmp_path: Path) -> None:
    rows = ((1.0,), (2.0,), (3.0,), (4.0,))
    plots.save(heat("q_norm", *rows, names=HOSTILE), "$a$/<b>.pt", tmp_path / "a.svg", force=False)
    drawing = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(drawing, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True)))
    assert {str(one.tag).removeprefix(SVG) for one in root.iter() if isinstance(one.tag, str)}.isdisjoint(
        {"script", "img", "b", "a"}
    )
    links = [value for one in root.iter() for key, value in one.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    drawn = {
        comment.text.strip(): len(list(parent.iter(f"{SVG}use")))
        for parent in root.iter(f"{SVG}g")
        for comment in parent
        if not isinstance(comment.tag, str) and comment.text
    }
    assert drawn["$x^2$"] == 5
    assert r"\x1b[31m\u65e5\u202e" in drawing
    assert "\x1b" not in drawing


@crossed(ending=["png", "svg", "pdf"], picture=["map", "profiles"])
@pytest.mark.gate
def test_the_same_picture_is_the_same_file(tmp_path: Path, ending: str, picture: str) -> None:
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        if picture == "map":
            plots.save(heat("logit_bound", (1.0, 1000.0, None), (2.0,)), "model.pt", path, force=False)
        else:
            plots.save_profiles([plots.Profile("all", ((1, 0.5), (3, 0.1)), 2)], path, force=False)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert b"CreationDate" not in (tmp_path / f"a.{ending}").read_bytes()


def test_own_settings_of_matplotlib_do_not_count(tmp_path: Path) -> None:
    grid = heat("q_norm", (1.0, 2.0))
    plots.save(grid, "a.pt", tmp_path / "a.png", force=False)
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 20}):
        plots.save(grid, "a.pt", tmp_path / "b.png", force=False)
        assert mpl.rcParams["font.size"] == 20
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.gate
def test_many_layers_and_heads_have_room(tmp_path: Path) -> None:
    for layers, heads in ((250, 2), (2, 250)):
        rows = tuple(tuple(float(head) for head in range(heads)) for _ in range(layers))
        plots.save(heat("q_norm", *rows), "a.pt", tmp_path / f"{layers}.png", force=False)
        assert max(imread(tmp_path / f"{layers}.png").shape) <= 40 * 160


def test_a_plot_that_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    grid = heat("q_norm", (1.0, 2.0))
    with pytest.raises(UsageError, match=r"a plot is \.png, \.svg or \.pdf"):
        plots.save(grid, "", tmp_path / "a.jpg", force=False)
    with pytest.raises(UsageError, match="there are no heads to plot"):
        plots.save(heat("q_norm", (), ()), "", tmp_path / "a.png", force=False)
    with pytest.raises(UsageError, match="there is nothing to plot"):
        plots.save_profiles([], tmp_path / "a.png", force=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        plots.save(grid, "", tmp_path / "a.png", force=False)
    assert (tmp_path / "a.png").read_text() == "mine"
    plots.save(grid, "", tmp_path / "a.png", force=True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'qkvinspect\[plot\]'"):
        plots.save(heat("q_norm", (1.0,)), "", tmp_path / "a.png", force=False)


@pytest.mark.gate
def test_explain_plots_where_heads_end(run: Run, samples: Path, tmp_path: Path) -> None:
    plain = run("explain", samples / "trained.safetensors")
    result = run("explain", samples / "trained.safetensors", "--plot", tmp_path / "a.svg")
    assert (result.code, result.err, result.out) == (0, "", plain.out)
    drawing = (tmp_path / "a.svg").read_text()
    assert "16 rows: a head ends" in drawing
    assert "2 layers: encoder.layers.0.self_attn to encoder.layers.1.self_attn" in drawing
    again = run("explain", samples / "trained.safetensors", "--plot", tmp_path / "a.svg")
    assert (again.code, again.out) == (2, "")
    assert "--force" in again.err
    assert run("explain", samples / "trained.safetensors", "--plot", tmp_path / "a.svg", "--force").code == 0


def test_explain_refuses_a_plot_of_what_it_may_not_ask(run: Run, samples: Path, tmp_path: Path) -> None:
    result = run("explain", samples / "trained.safetensors", "--no-evidence", "--plot", tmp_path / "a.png")
    assert (result.code, result.out) == (2, "")
    assert "--no-evidence" in result.err


@pytest.mark.parametrize(
    ("names", "place", "rest"),
    [
        (["model.layers.0.attn", "model.layers.11.attn"], "model.layers.*.attn", ["0", "11"]),
        (["a.0.x", "b.0.x"], "*.0.x", ["a", "b"]),
        (["a", "b.c"], "", ["a", "b.c"]),
        (["x.attn", "x.attn.attn"], "x.*", ["attn", "attn.attn"]),
        (["one.layer"], "", ["one.layer"]),
        (["", "0"], "", ["(the module itself)", "0"]),
        ([], "", []),
        (["a" * 50], "", ["a" * 17 + "…" + "a" * 17]),
    ],
)
def test_what_names_share_is_said_once(names: list[str], place: str, rest: list[str]) -> None:
    assert labels.shared(names) == (place, rest)
