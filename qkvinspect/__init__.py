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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qkvinspect.analysis import LayerFigures, analyze
    from qkvinspect.api.checkpoints import OpenCheckpoint, open
    from qkvinspect.api.state_dicts import pack, split
    from qkvinspect.checks import check
    from qkvinspect.diff import DiffOptions, compare
    from qkvinspect.diff.difference import Difference
    from qkvinspect.errors import CheckpointError, LayoutError, QkvInspectError, UsageError
    from qkvinspect.findings import Finding
    from qkvinspect.inspection import Options, inspect
    from qkvinspect.inspection.report import Attention, Part, Report

_HOMES = {
    "CheckpointError": "errors",
    "DiffOptions": "diff",
    "Difference": "diff.difference",
    "LayerFigures": "analysis",
    "LayoutError": "errors",
    "QkvInspectError": "errors",
    "UsageError": "errors",
    "analyze": "analysis:analyze",
    "check": "checks:check",
    "compare": "diff:compare",
    "OpenCheckpoint": "api.checkpoints",
    "open": "api.checkpoints:open",
    "pack": "api.state_dicts:pack",
    "split": "api.state_dicts:split",
    "Options": "inspection",
    "inspect": "inspection:inspect",
    "Attention": "inspection.report",
    "Part": "inspection.report",
    "Finding": "findings",
    "Report": "inspection.report",
}

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
    """Import what is asked for, when it is asked for: `--help` needs none of it."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'qkvinspect' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"qkvinspect.{module}"), attribute or name)
