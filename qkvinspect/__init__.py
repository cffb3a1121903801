"""qkvinspect: which rows of a checkpoint's attention weights are Q, K and V, of which head.

>>> import qkvinspect
>>> with qkvinspect.open("sample_checkpoints/transformer.pt") as checkpoint:
...     report = qkvinspect.inspect(checkpoint, qkvinspect.Options(heads=("2",)))
>>> attention = report.attentions[0]
>>> attention.layer, attention.part("k").rows, attention.part("k").shape
('encoder.layers.0.self_attn', (range(16, 32),), (16, 16))

>>> with qkvinspect.open("sample_checkpoints/transformer.pt", heads="2") as checkpoint:
...     checkpoint.attentions["encoder.layers.0.self_attn"].heads[1].k.numpy().shape
(8, 16)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkvinspect.tabular import drawn_by
from qkvinspect.version import __version__

if TYPE_CHECKING:
    from qkvinspect.analysis import Analysis, LayerFigures
    from qkvinspect.api.checkpoints import OpenCheckpoint, analyze, check, compare, inspect, open
    from qkvinspect.api.layers import Layer
    from qkvinspect.api.state_dicts import pack, split
    from qkvinspect.diff import DiffOptions
    from qkvinspect.diff.difference import Difference
    from qkvinspect.errors import CheckpointError, LayoutError, QkvInspectError, UsageError
    from qkvinspect.findings import Finding
    from qkvinspect.inspection import Options
    from qkvinspect.inspection.report import Attention, Part, Report
    from qkvinspect.tabular import Drawing

__all__ = [
    "Analysis",
    "Attention",
    "CheckpointError",
    "DiffOptions",
    "Difference",
    "Finding",
    "Layer",
    "LayerFigures",
    "LayoutError",
    "OpenCheckpoint",
    "Options",
    "Part",
    "QkvInspectError",
    "Report",
    "UsageError",
    "__version__",
    "analyze",
    "check",
    "compare",
    "inspect",
    "open",
    "pack",
    "split",
]


def __getattr__(name: str) -> object:
    """Import each public name on first use: `--help` needs none of them, and `open` not all."""
    match name:
        case "CheckpointError" | "LayoutError" | "QkvInspectError" | "UsageError":
            from qkvinspect import errors as home
        case "Finding":
            from qkvinspect import findings as home
        case "OpenCheckpoint" | "analyze" | "check" | "compare" | "inspect" | "open":
            from qkvinspect.api import checkpoints as home
        case "Layer":
            from qkvinspect.api import layers as home
        case "pack" | "split":
            from qkvinspect.api import state_dicts as home
        case "Options":
            from qkvinspect import inspection as home
        case "Attention" | "Part" | "Report":
            from qkvinspect.inspection import report as home
        case "DiffOptions":
            from qkvinspect import diff as home
        case "Difference":
            from qkvinspect.diff import difference as home
        case "Analysis" | "LayerFigures":
            from qkvinspect import analysis as home
        case _:
            raise AttributeError(f"module 'qkvinspect' has no attribute {name!r}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _drawing() -> Drawing:
    from qkvinspect.api import drawing

    return drawing


drawn_by(_drawing)
