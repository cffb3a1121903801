"""Pictures in files: a heat map of heads, and how the tie between rows fades. matplotlib, without a display."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# matplotlib declares its keywords only in part.

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkvinspect.analysis.grid import Grid
from qkvinspect.atomic import new_file, require_free
from qkvinspect.errors import UsageError
from qkvinspect.render import labels, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_UNDATED: Mapping[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
"""What makes the same picture another file."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "qkvinspect",
    "text.parse_math": False,  # a name may hold $
}
_MAPS = {"values": "cividis", "share": "cividis", "cosine": "RdBu_r"}
_MOST_VECTORS = 20_000  # cells; more are drawn as one image within an SVG or PDF
_MOST_PANELS = 12
_ROW, _COLUMN = 0.2, 0.26  # inches


@dataclass(frozen=True, slots=True)
class Profile:
    """How much two rows so far apart are tied.

    Attributes:
        title: which layers it is of.
        ties: (rows apart, nats a pair).
        width: rows of a head; 0 where that is not known.
    """

    title: str
    ties: tuple[tuple[int, float], ...]
    width: int


def require_plottable(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, what could not be plotted.

    Raises:
        UsageError: the name has another ending, the file exists already, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _UNDATED:
        raise UsageError("a plot is .png, .svg or .pdf", file=str(path))
    require_free(path, force=force)
    if find_spec("matplotlib") is None:
        raise UsageError("a plot needs matplotlib, which is not installed", hint="pip install 'qkvinspect[plot]'")


def save(grid: Grid, subtitle: str, path: Path, force: bool) -> None:
    """Draw a heat map.

    Raises:
        UsageError: as ``require_plottable``; or no head has a value.
    """
    if not any(grid.rows):
        raise UsageError("there are no heads to plot", hint="give --heads if their number is not known")
    width = max(min(3.2 + _COLUMN * grid.width, 30.0), 5.0)
    height = max(min(1.9 + _ROW * len(grid.rows), 40.0), 2.8)
    place, names = labels.shared(grid.layers)
    lines = [subtitle, *([f"layers {place}"] if place else ())]
    with drawn(path, (width, height), force=force) as figure:
        axes = figure.add_subplot()
        _entitle(axes, grid.column.title, lines, width)
        bar = figure.colorbar(_cells(axes, grid), ax=axes, pad=0.02, aspect=5 * height, format=_tick)
        bar.ax.minorticks_off()
        bar.set_label(", ".join(filter(None, (grid.column.unit, "logarithmic" if grid.logarithmic else ""))))
        bar.ax.tick_params(labelsize=8)
        _name_axes(axes, names, grid.width, height)
        _mark(axes, grid)


def save_profiles(profiles: Sequence[Profile], path: Path, force: bool) -> None:
    """Draw each profile, one below another.

    Raises:
        UsageError: as ``require_plottable``; or there is none.
    """
    if not profiles:
        raise UsageError("there is nothing to plot", hint="the weights tell no heads apart, or were not asked")
    shown = profiles[:_MOST_PANELS]
    with drawn(path, (7.0, 0.9 + 2.3 * len(shown)), force=force) as figure:
        more = f" (the first {len(shown)} of {len(profiles)} stacks)" if len(profiles) > len(shown) else ""
        figure.suptitle(f"How strongly two rows are tied{more}", x=0.02, ha="left", fontsize=12)
        for place, profile in enumerate(shown, 1):
            _draw_profile(figure.add_subplot(len(shown), 1, place), profile)


@contextmanager
def drawn(path: Path, inches: tuple[float, float], *, force: bool) -> Generator[Figure]:
    """A figure to draw on; then it is written, the same bytes for the same picture."""
    require_plottable(path, force=force)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore")  # of matplotlib, about fonts and room: nobody could act on them
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(inches, layout="constrained")
        yield figure
        kind = path.suffix.lower()
        picture = BytesIO()  # a PDF is not written from its first byte to its last, as a pipe takes it
        figure.savefig(picture, format=kind[1:], dpi=160, metadata=_UNDATED[kind])
        with new_file(path, force=force) as file:
            file.write(picture.getbuffer())


def _cells(axes: Axes, grid: Grid) -> QuadMesh:
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    values = np.full((len(grid.rows), grid.width), np.nan)
    for place, row in enumerate(grid.rows):
        values[place, : len(row)] = [np.nan if value is None else value for value in row]
    low, high = grid.limits
    spread = 0.0 if high > low else abs(low) * 0.01 or 1.0  # a scale needs two ends
    scale = LogNorm if grid.logarithmic else Normalize
    return axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=_MAPS[grid.column.scale],
        norm=scale(low - spread, high + spread),
        rasterized=values.size > _MOST_VECTORS,
    )


def _tick(value: float, _: object) -> str:
    return f"{value:.4g}"


def _entitle(axes: Axes, title: str, lines: Sequence[str], width: float) -> None:
    """A title, and smaller lines that fit below it."""
    fitting = [labels.shortened(drawable(line), int(11 * width)) for line in lines]
    axes.set_title("\n".join(fitting), loc="left", fontsize=8, color="0.35")
    axes.figure.suptitle(drawable(title), x=0.02, ha="left", fontsize=12)


def _name_axes(axes: Axes, names: Sequence[str], heads: int, height: float) -> None:
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_ylim(len(names), 0)
    every = max(-(-len(names) // max(int((height - 1.5) / 0.17), 1)), 1)
    rows, columns = range(0, len(names), every), range(0, heads, 1 if heads <= 32 else 4 * -(-heads // 128))
    axes.set_yticks([row + 0.5 for row in rows], [drawable(names[row]) for row in rows], fontsize=8)
    axes.set_xticks([head + 0.5 for head in columns], list(map(str, columns)), fontsize=8)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_color("0.6")


def _mark(axes: Axes, grid: Grid) -> None:
    """Tell heads that do not exist from values that are missing, and both from any colour."""
    from matplotlib.artist import Artist
    from matplotlib.patches import Patch, Rectangle

    known: list[Artist] = []
    lost = list(_lost(grid))
    if any(len(row) < grid.width for row in grid.rows):
        axes.patch.set(hatch="////", edgecolor="0.8", facecolor="white")
        known.append(Patch(hatch="////", edgecolor="0.8", facecolor="white", label="no such head, or not known"))
    for across, down in lost:
        axes.add_patch(Rectangle((across, down), 1, 1, facecolor="0.85", edgecolor="none"))
    if lost:
        places = [[across + 0.5 for across, _ in lost], [down + 0.5 for _, down in lost]]
        known.append(axes.scatter(*places, marker="x", s=20, color="0.25", linewidth=1, label="no value"))
    if known:
        axes.figure.legend(handles=known, loc="outside lower left", ncols=2, fontsize=8, frameon=False)


def _lost(grid: Grid) -> Iterator[tuple[int, int]]:
    for down, row in enumerate(grid.rows):
        for across, value in enumerate(row):
            if value is None or not isfinite(value):
                yield across, down


def _draw_profile(axes: Axes, profile: Profile) -> None:
    distances = [distance for distance, _ in profile.ties]
    step = distances[1] - distances[0] if len(distances) > 1 else 1
    ties = [tie for _, tie in profile.ties]
    axes.bar(distances, ties, width=step * 0.9, align="edge", color="#00538a")
    axes.set_title(drawable(labels.shortened(profile.title, 90)), loc="left", fontsize=8, color="0.35")
    axes.set_xlabel("rows apart")
    axes.set_ylabel("tie, nats a pair")
    axes.set_xlim(left=0)
    if profile.width:
        axes.axvline(profile.width, color="#a33b00", linestyle="--", linewidth=1.2)
        note = f" {profile.width} rows: a head ends"
        axes.annotate(note, (profile.width, max(ties)), fontsize=8, color="#a33b00", va="top")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def drawable(name: str) -> str:
    """Harmless text; what the font cannot draw is escaped."""
    from matplotlib.font_manager import findfont, get_font

    drawn = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(one if ord(one) in drawn else one.encode("unicode_escape").decode() for one in text.clean(name))
