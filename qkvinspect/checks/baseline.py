"""Baselines: a record of a checkpoint, one line a layer, for people to review and for later runs to compare with.

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
from qkvinspect.inspection.json_values import number
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.parsed import is_mapping
from qkvinspect.small_files import contents

VERSION = 1
_KEY = "qkvinspect_baseline"
_MAX_BYTES = 64 << 20
_WHOLE = 1e18
"""Whole numbers are shapes and counts, which never reach this; larger ones are taken as floats."""

Layer = Mapping[str, object]
Baseline = Mapping[str, Layer]
"""What is recorded of each layer, by its name."""


def record(report: Report) -> Baseline:
    """The baseline of a checkpoint."""
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


def write(baseline: Baseline, path: Path, *, force: bool = False) -> None:
    """Write it whole or not at all; one that is there is replaced only if ``force``."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(layer)}" for name, layer in baseline.items())
    text = f'{{\n "{_KEY}": {VERSION},\n "layers": {{\n{lines}\n }}\n}}\n'
    with new_file(path, force=force) as file:
        file.write(text.encode())


def _finite(text: str) -> int | float:
    """Parse a number of a baseline. It must be finite: norms that are not are written as text."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that a baseline holds")
    return int(text) if text.lstrip("-").isdecimal() and abs(number) < _WHOLE else number


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UsageError: it cannot be read, or is no baseline.
    """
    data = contents(path, "a baseline", _MAX_BYTES, hint="--write-baseline FILE writes one")
    try:
        root: object = json.loads(data.decode(), parse_constant=_finite, parse_float=_finite, parse_int=_finite)
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
