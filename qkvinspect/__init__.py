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

from qkvinspect.version import __version__

if TYPE_CHECKING:
    from qkvinspect.analysis import LayerFigures, analyze
    from qkvinspect.api.checkpoints import OpenCheckpoint, inspect, open
    from qkvinspect.api.state_dicts import pack, split
    from qkvinspect.checks import check
    from qkvinspect.diff import DiffOptions, compare
    from qkvinspect.diff.difference import Difference
    from qkvinspect.errors import CheckpointError, LayoutError, QkvInspectError, UsageError
    from qkvinspect.findings import Finding
    from qkvinspect.inspection import Options
    from qkvinspect.inspection.report import Attention, Part, Report

__all__ = [
    "Attention",
    "CheckpointError",
    "DiffOptions",
    "Difference",
    "Finding",
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
        case "OpenCheckpoint" | "inspect" | "open":
            from qkvinspect.api import checkpoints as home
        case "pack" | "split":
            from qkvinspect.api import state_dicts as home
        case "Options":
            from qkvinspect import inspection as home
        case "Attention" | "Part" | "Report":
            from qkvinspect.inspection import report as home
        case "check":
            from qkvinspect import checks as home
        case "DiffOptions" | "compare":
            from qkvinspect import diff as home
        case "Difference":
            from qkvinspect.diff import difference as home
        case "LayerFigures" | "analyze":
            from qkvinspect import analysis as home
        case _:
            raise AttributeError(f"module 'qkvinspect' has no attribute {name!r}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
