"""Baselines: what a checkpoint was like, one line a layer, for people to review and later runs to compare with.

A JSON object with "qkvinspect_baseline" (the version of the form, 1) and "layers": by name the layout, the heads,
the dtype, and of every part and bias the shape and Frobenius norm, to six digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from qkvinspect.atomic import new_file
from qkvinspect.errors import UsageError
from qkvinspect.inspection.report import Attention, Report, number
from qkvinspect.parsed import is_mapping

VERSION = 1
_KEY = "qkvinspect_baseline"
_MAX_BYTES = 64 << 20

Layer = Mapping[str, object]
Baseline = Mapping[str, Layer]
"""What is recorded of each layer, by its name."""


def record(report: Report) -> Baseline:
    """What a baseline holds of a checkpoint."""
    return {attention.layer: _layer(attention) for attention in report.attentions}


def _layer(attention: Attention) -> Layer:
    heads = attention.heads
    found: dict[str, object] = {
        "layout": attention.layout.id if attention.layout else None,
        "dtype": attention.dtype,
        "num_heads": heads.num_heads if heads else None,
        "num_kv_heads": heads.num_kv_heads if heads else None,
    }
    for part in attention.parts:
        found[f"{part.name}_shape"] = list(part.shape)
        for what, measure in (("norm", part.measured), ("bias_norm", part.bias_measured)):
            if measure is not None:
                rounded = float(f"{measure.norm:.6g}") if math.isfinite(measure.norm) else measure.norm
                found[f"{part.name}_{what}"] = number(rounded)
    return found


def write(baseline: Baseline, path: Path) -> None:
    """Write it whole or not at all; one that is there is replaced."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(layer)}" for name, layer in baseline.items())
    text = f'{{\n "{_KEY}": {VERSION},\n "layers": {{\n{lines}\n }}\n}}\n'
    with new_file(path, force=True) as file:
        file.write(text.encode())


def read(path: Path) -> Baseline:
    """A baseline that was written.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError("is too large for a baseline", file=str(path), expected=f"at most {_MAX_BYTES} bytes")
        root: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        raise UsageError(text, file=str(path), hint="--write-baseline FILE writes one") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON: {error}", file=str(path), hint="--write-baseline FILE writes one") from error
    found = root if is_mapping(root) else {}
    layers = found.get("layers")
    if not is_mapping(layers) or found.get(_KEY) != VERSION:
        hint = "--write-baseline FILE writes one"
        raise UsageError("is no baseline of this version", file=str(path), expected=f"{_KEY}: {VERSION}", hint=hint)
    entries: dict[str, Layer] = {}
    for name, layer in layers.items():
        if not is_mapping(layer):
            raise UsageError(f"has no table for layer {name!r}", file=str(path))
        entries[name] = layer
    return entries
