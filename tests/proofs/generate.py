"""Run every case on the real library and write what it proves to captured/ (see README.md).

Usage: ``python generate.py [PART_OF_AN_ID ...]``
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shutil
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from capture import Array, Projection, ProofError, Recording, RowId, activations, reinitialise, to_numpy, watching
from case import Case, save_state
from environment import prepare
from safetensors.torch import save_file
from torch import Tensor, nn
from tracing import Found, Index, Traced, identify

CAPTURED = Path(__file__).parent / "captured"
DOUBLE, SINGLE = 1e-9, 1e-6  # how closely values agree, relative to the largest
LIBRARIES = (
    "torch", "transformers", "transformers_more", "transformers_vision", "transformers_saved", "timm",
    "timm_families", "timm_hybrids", "diffusers", "open_clip",
    "litgpt", "vit_pytorch", "esm", "megatron", "olmo", "audio", "others",
)  # fmt: skip


def record(case: Case, module: nn.Module, state: dict[str, Tensor], *, zero_late: bool) -> Recording:
    """Run the module in float64 on the stored values."""
    values = {name: t.to(case.dtype) if t.is_floating_point() else t for name, t in state.items()}
    left = module.load_state_dict(values, strict=False)
    if left.unexpected_keys or any("_extra_state" not in name for name in left.missing_keys):
        raise ProofError(str(left))
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if zero_late:
        with torch.no_grad():
            for name in case.late_biases:
                named[name].zero_()
    torch.manual_seed(1)
    with torch.no_grad(), watching({name: named[name] for name in case.tensors}) as recording:
        case.forward(module)
    return recording


def once(projections: list[Projection]) -> list[Projection]:
    """Uses of one row with all their tokens; a row used twice keeps its first use."""
    seen: set[tuple[str, int]] = set()
    kept: list[Projection] = []
    for projection in projections:
        rows = {(projection.key, row) for row in projection.rows}
        if not rows & seen:
            kept.append(projection)
            seen |= rows
    return kept


def stored_rows(key: str, tensor: Tensor, stored: dict[str, Tensor], axis: int) -> dict[RowId, RowId]:
    """Where each row of a module's weight is in the file: in the tensor of equal values, else row by row.

    transformers fuses the projections of some models again when it saves them.
    """
    equal = [name for name, other in stored.items() if other.shape == tensor.shape and other.equal(tensor)]
    if len(equal) == 1:
        return {(key, row): (equal[0], row) for row in range(tensor.shape[axis])}
    places: dict[bytes, list[RowId]] = {}
    for name, other in stored.items():
        if other.dim() == tensor.dim() and other.shape[1:] == tensor.shape[1:]:
            for row, values in enumerate(other):
                places.setdefault(values.numpy().tobytes(), []).append((name, row))
    found = [places.get(values.numpy().tobytes(), []) for values in tensor]
    if any(len(rows) != 1 for rows in found):
        raise ProofError(f"{key} is stored as {equal or [rows for rows in found if len(rows) != 1][:2]}")
    return {(key, row): rows[0] for row, rows in enumerate(found)}


def find_biases(values: dict[str, list[list[float]]], stored: dict[str, Tensor], near: str) -> dict[str, Any]:
    """Where each part's bias values are stored, looked up one by one among small tensors of the module."""
    parent = near.rsplit(".", 2)[0] if near.count(".") > 1 else ""
    vectors = {
        name: t.double().reshape(-1).tolist()
        for name, t in stored.items()
        if name.startswith(parent) and t.is_floating_point() and t.numel() == max(t.shape, default=0)
    }
    found: dict[str, Any] = {}
    for part, heads in values.items():
        for name, vector in vectors.items():
            places = [[nearest(vector, value) for value in head] for head in heads]
            if all(place is not None for head in places for place in head):
                found[part] = {"tensor": name, "heads": [runs([p for p in head if p is not None]) for head in places]}
    return found


def stored_total(tensor: Tensor, used: int) -> int:
    """All rows of a stored tensor; those of an [in, out] weight lie along its second axis."""
    return used if tensor.dim() == 2 and tensor.shape[0] < used else int(tensor.shape[0])


def only(names: set[str]) -> str:
    if len(names) != 1:
        raise ProofError(f"one part in several tensors: {sorted(names)}")
    return names.pop()


def nearest(vector: list[float], value: float) -> int | None:
    """Where the value stands, if it stands in one place only."""
    equal = [place for place, other in enumerate(vector) if other == value]
    near = equal or [place for place, other in enumerate(vector) if abs(other - value) < 2e-6]
    return near[0] if len(near) == 1 else None


def runs(rows: list[int]) -> list[list[int]]:
    """The same row numbers in the same order, shorter to write: [start, stop] of each run of neighbours."""
    short: list[list[int]] = []
    for row in rows:
        if short and short[-1][1] == row:
            short[-1][1] = row + 1
        else:
            short.append([row, row + 1])
    return short


def passed_biases(found: Found, projections: list[Projection]) -> dict[str, list[list[float]]]:
    """The bias of every row as it was passed with the projection."""
    bias: dict[tuple[str, int], float] = {}
    for projection in projections:
        if projection.bias is not None:
            bias |= {(projection.key, row): float(b) for row, b in zip(projection.rows, projection.bias, strict=True)}
    return {
        part: [[bias[row] for row in head] for head in traced.heads]
        for part, traced in found.parts.items()
        if all(row in bias for row in traced.rows)
    }


def late_biases(found: Found, before: Recording, after: Recording) -> dict[str, list[list[float]]]:
    """Biases added after the division: what each operand changes by when they are no longer zero."""
    values: dict[str, list[list[float]]] = {}
    for part, traced in found.parts.items():
        number, operand = found.places[part]
        old, new = (run.products[number].operands[operand] for run in (before, after))
        change = _vectors(new - old, old, traced)
        rows = [change[traced.labels == head][0] / (traced.scale or 1.0) for head in range(len(traced.heads))]
        if any(np.abs(row).max() > 1e-12 for row in rows):
            values[part] = [[float(np.float32(value)) for value in row] for row in rows]
    return values


def _vectors(change: Array, old: Array, traced: Traced) -> Array:
    """``change`` laid out as the traced operand was."""
    for axis in range(old.ndim - 1, -1, -1):
        if np.moveaxis(old, axis, -1).reshape(-1, old.shape[axis]).shape == traced.values.shape and np.array_equal(
            np.moveaxis(old, axis, -1).reshape(-1, old.shape[axis]), traced.values
        ):
            return np.moveaxis(change, axis, -1).reshape(-1, old.shape[axis])
    raise ProofError("the operand has another shape")


def prove(case: Case) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Run a case: truth, the tensors of the checkpoint, its config."""
    torch.manual_seed(0)
    module = case.build().eval()
    inner = module
    while type(inner) is nn.Module and len(list(inner.children())) == 1:
        (inner,) = inner.children()
    cls = type(inner)
    reinitialise(module, keep=lambda name: any(part in name for part in case.frozen))
    state, _ = save_state(module)
    stored, config = (case.save or save_state)(module)
    if case.loads is not None:
        stored = state = case.loads(module)
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    config = dict(case.config) if case.config is not None else config
    module = module.to(case.dtype)
    recording = record(case, module, state, zero_late=True)
    projections = once(recording.projections)
    if {projection.key for projection in projections} != set(case.tensors):
        raise ProofError(f"only {sorted({p.key for p in projections})} were used")
    for key, name in case.renamed.items():
        projections = [replace(p, weight=to_numpy(stored[name])) if p.key == key else p for p in projections]
    index = Index(
        activations(projections, case.post), DOUBLE if not case.single and case.dtype == torch.float64 else SINGLE
    )
    widths = {"q": case.head_dim, "k": case.head_dim, "v": case.v_head_dim or case.head_dim}
    found = identify(
        recording.products, index, widths, wanted=case.wanted, roles=case.roles,
        free="tokens" if case.over_tokens else "heads" if case.directions else "", partial=case.partial,
    )  # fmt: skip
    kv_heads = case.kv_heads or case.heads
    expected = {"q": case.q_heads or case.heads, "k": case.q_heads or kv_heads, "v": kv_heads}
    for part, traced in found.parts.items():
        if len(traced.heads) != expected[part]:
            raise ProofError(f"{len(traced.heads)} heads of {part}, not {expected[part]}")
    values = passed_biases(found, projections)
    if case.late_biases:
        values |= late_biases(found, recording, record(case, module, state, zero_late=False))
    rows: dict[RowId, RowId] = {}
    for key in case.tensors:
        used = max(row for p in projections if p.key == key for row in p.rows) + 1
        name = case.renamed.get(key)
        axis = 0 if used == state.get(key, stored.get(name or key)).shape[0] else 1  # pyright: ignore
        rows |= ({(key, row): (name, row) for row in range(used)} if name
                 else stored_rows(key, state[key], stored, axis))  # fmt: skip
    names = list(dict.fromkeys(name for name, _ in rows.values()))
    total = {name: 1 + max(row for other, row in rows.values() if other == name) for name in names}
    stored = {name: t for name, t in stored.items() if not case.keep or name.startswith(case.keep)}
    biases = find_biases(values, stored, names[0])
    truth: dict[str, Any] = {
        "id": case.id,
        "library": case.library,
        "version": importlib.metadata.version(case.library).partition("+")[0],
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "num_heads": case.heads,
        "num_kv_heads": kv_heads,
        "head_dim": case.head_dim,
        "v_head_dim": case.v_head_dim or case.head_dim,
        "subheads": (case.q_heads or case.heads) // case.heads,
        "proven": [part for part in "qkv" if part in found.parts],
        "tensors": names,
        "total": {name: stored_total(stored[name], count) for name, count in total.items()},
        "heads_flag": case.heads_flag,
        "layout_flag": case.layout_flag,
        "subset": bool(case.keep),
        "note": case.note,
        "parts": {
            part: {
                "tensor": only({rows[row][0] for row in traced.rows}),
                "heads": [runs([rows[row][1] for row in head]) for head in traced.heads],
                "scale": traced.scale,
                "bias": biases.get(part),
            }
            for part, traced in sorted(found.parts.items(), key=lambda item: "qkv".index(item[0]))
        },
    }  # fmt: skip
    return truth, stored, config


def write(case: Case) -> dict[str, Any]:
    """Write the folder of one case, and its truth outside: what lies beside a checkpoint may be read as a config."""
    truth, stored, config = prove(case)
    folder = CAPTURED / case.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    text = json.dumps(truth, indent=1)
    (CAPTURED / f"{case.id}.truth.json").write_text(_short_lists(text) + "\n")
    return truth


def _short_lists(text: str) -> str:
    """Lists of numbers, and of such lists, on one line."""

    def one_line(found: re.Match[str]) -> str:
        return re.sub(r"\s+", "", found[0]).replace(",", ", ")

    for _ in range(3):
        text = re.sub(r"\[[\d\s,\[\]]+\]", one_line, text)
    return text


def main(wanted: list[str]) -> int:
    keep_alive = prepare()
    failed = 0
    for library in LIBRARIES:
        if not Path(__file__).with_name(f"cases_{library}.py").exists():
            continue
        for case in importlib.import_module(f"cases_{library}").CASES:
            if wanted and not any(part in f"{library}:{case.id}" for part in wanted):
                continue
            start = time.monotonic()
            try:
                truth = write(case)
            except Exception as error:
                failed += 1
                print(f"FAILED {case.id}: {type(error).__name__}: {str(error)[:300]}")
                if wanted:
                    traceback.print_exc()
                continue
            size = sum(path.stat().st_size for path in (CAPTURED / case.id).iterdir())
            first = {part: entry["heads"][0] for part, entry in truth["parts"].items()}
            biases = "".join(part for part, entry in truth["parts"].items() if entry["bias"])
            print(f"{case.id}: {truth['total']} {first} bias={biases} {size} B {time.monotonic() - start:.1f} s")
    del keep_alive
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
