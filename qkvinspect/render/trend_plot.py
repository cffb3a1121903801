"""A trend as a picture in a file, by matplotlib: figures down, parts across, a curve for each layer."""
# pyright: reportUnknownMemberType=false
# matplotlib declares its keywords only in part.

from __future__ import annotations

from pathlib import Path
from typing import Any

from qkvinspect.errors import UsageError
from qkvinspect.render import text
from qkvinspect.render.plots import drawable, drawn
from qkvinspect.render.results.trend import summary
from qkvinspect.scans.trend import Trend

_KINDS = (".png", ".svg", ".pdf")
_NAMED = 12
"""Layers that a legend has room for."""


def plot(trend: Trend, out: Path, *, force: bool) -> None:
    """Draw all figures.

    Raises:
        UsageError: matplotlib is not there, the suffix is not known, or the file exists.
    """
    if out.suffix not in _KINDS:
        raise UsageError("cannot be drawn", file=str(out), expected=" or ".join(_KINDS))
    parts = {column: list(dict.fromkeys(line.key.part for line in trend.of(column))) for column in trend.columns}
    wide = max(map(len, parts.values()), default=1)
    order = {layer: number for number, layer in enumerate(trend.run.layers)}
    with drawn(out, (1.5 + 4 * wide, 1 + 3 * len(parts)), force=force) as figure:
        from matplotlib import colormaps

        panels: Any = figure.subplots(len(parts), wide, squeeze=False, sharex=True)
        for row, (column, names) in zip(panels, parts.items(), strict=True):
            for panel in row[len(names) :]:
                panel.set_visible(False)
            for panel, part in zip(row, names, strict=False):
                for line in (line for line in trend.of(column) if line.key.part == part):
                    shade = order[line.key.layer] / max(len(order) - 1, 1)
                    label = drawable(text.layer(line.key.layer))
                    colour = colormaps["viridis"](0.9 * shade)
                    panel.plot(list(line.series.steps), list(line.series.values), color=colour, lw=1.2, label=label)
                panel.set_title(part.upper() if len(part) == 1 else "heads")
                panel.set_ylabel(column.replace("_", " "))
                panel.set_xlabel("step")
                panel.tick_params(labelbottom=True)
        figure.suptitle(summary(trend))
        if len(order) <= _NAMED:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", fontsize="small")
