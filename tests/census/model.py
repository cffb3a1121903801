"""What a census model is, and the line that is kept of it."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.census.labels import Trace, following
from tests.census.reading import Part, Seen, read, runs

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
CALLED_ATTENTION = re.compile(r"(?i)att(entio)?n|mha\b|lambda(layer|module)|halo|bottleneckattn")


@dataclass(frozen=True)
class Model:
    """One model of a library.

    Attributes:
        build: makes it, as small as its library lets it be.
        run: computes something with it; raises where that is not possible.
        files: what stands beside its weights.
        save: the tensors of its file from a state_dict of numbers, where the library's own save changes them.
        prefix: the path under which a checkpoint holds it, where it is a block on its own.
    """

    lib: str
    name: str
    build: Callable[[], nn.Module]
    run: Callable[[nn.Module], object]
    files: Callable[[nn.Module], Mapping[str, Any]] = lambda _: {}
    save: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] | None = None
    seed: int = 0


class Stored:
    """Where each weight of each parameter is in the file."""

    def __init__(self, model: Model, module: nn.Module, trace: Trace | None) -> None:
        state = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
        self.places: dict[int, tuple[list[str], np.ndarray, np.ndarray]] | None = None
        self.trace = trace
        if model.save is None:
            self.tensors = {name: (DTYPES[t.dtype], list(t.shape)) for name, t in state.items() if t.dtype in DTYPES}
            return
        self.places = {}
        numbers, start = {}, 1
        starts: dict[str, int] = {}
        for name, tensor in state.items():
            numbers[name] = torch.arange(start, start + tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
            starts[name] = start
            start += tensor.numel()
        saved = model.save(module, numbers)
        self.tensors = {
            name: (DTYPES[state[name].dtype if name in state else torch.float32], list(t.shape))
            for name, t in saved.items()
        }
        which = np.full(start, -1, dtype=np.int32)
        where = np.full(start, -1, dtype=np.int64)
        self.names = list(saved)
        for number, tensor in enumerate(saved.values()):
            flat = tensor.double().reshape(-1).numpy()
            exact = (flat > 0) & (flat < start) & (flat == np.round(flat))
            ids = flat[exact].astype(np.int64)
            which[ids], where[ids] = number, np.flatnonzero(exact)
        self.starts, self.which, self.where = starts, which, where

    def place(self, name: str, address: int) -> tuple[str, int]:
        """The tensor of the file and the place in it.

        Raises:
            KeyError: the file does not hold this weight.
        """
        if self.places is None:
            if name not in self.tensors:
                raise KeyError(name)
            return name, address
        at = self.starts[name] + address
        if self.which[at] < 0:
            raise KeyError(name)
        return self.names[self.which[at]], int(self.where[at])

    def path(self, module: nn.Module, path: str) -> str:
        """Where a module is in the file: what the name there of one of its parameters begins with."""
        for name, _ in module.get_submodule(path).named_parameters():
            with contextlib.suppress(KeyError):
                stored, _ = self.place(f"{path}.{name}", 0)
                return stored.rsplit(".", name.count(".") + 1)[0]
        return path

    def part(self, trace: Trace, part: Part) -> dict[str, Any]:
        """A part of an attention as a census keeps it."""
        heads: list[list[tuple[str, int]]] = []
        flats: dict[str, list[int]] = defaultdict(list)
        steps: dict[str, int] = {}
        for head in part.heads:
            placed = []
            for owner, address in head:
                name, flat = self.place(trace.names[owner], address)
                flats[name].append(flat)
                if name not in steps and owner in trace.contracted:
                    other, after = self.place(trace.names[owner], address + trace.contracted[owner])
                    steps[name] = after - flat if other == name else 0
                placed.append((name, flat))
            heads.append(placed)
        turn = {name: _numbering(self.tensors[name][1], flats[name], steps.get(name, 1)) for name in flats}
        first = [(name, turn[name](flat)) for name, flat in heads[0]]
        lead = first[0][0]
        found = {
            "tensors": list(flats),
            "heads": len(heads),
            "head": runs(row for name, row in first if name == lead),
            "rows": sum(len(head) for head in heads),
        }
        if part.mixed or len({name for name, _ in first}) > 1:
            found["mixed"] = True
            found["also"] = sorted({self.place(trace.names[number], 0)[0] for number in part.also})
        return found


def _numbering(shape: list[int], flats: list[int], step: int) -> Callable[[int], int]:
    """From places in a tensor to the numbers of its rows: places along every axis that was not summed over."""
    rest = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    if all(flat % rest == 0 for flat in flats):
        return lambda flat: flat // rest
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    kept = [axis for axis in range(len(shape)) if strides[axis] != abs(step) or shape[axis] == 1]

    def number(flat: int) -> int:
        index = np.unravel_index(flat, shape)
        return int(np.ravel_multi_index([index[axis] for axis in kept], [shape[axis] for axis in kept]))

    return number


def truth_of(stored: Stored, trace: Trace, module: nn.Module, seen: Seen) -> dict[str, Any]:
    cls = type(module.get_submodule(seen.path)).__name__
    found = {name: stored.part(trace, seen.parts[name]) for name in "qkv" if name in seen.parts}
    return {"path": seen.path, "class": cls, "kind": seen.kind, **found}


def untraced(stored: Stored, module: nn.Module, known: Iterable[str]) -> list[str]:
    """Modules that their library calls attention and that were not seen at work, by the names in the file.

    A report may find them or not: the census knows nothing of them.

    Args:
        known: parameters of what was seen.
    """
    seen, found = set(known), []
    for path, part in module.named_modules():
        if path and CALLED_ATTENTION.search(type(part).__name__):
            names = [f"{path}.{name}" for name, _ in part.named_parameters()]
            if names and not seen & set(names):
                found.append(path)
    outer = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    return list(dict.fromkeys(stored.path(module, path) for path in outer))


def line_of(model: Model) -> dict[str, Any]:
    """Build it, run it, and write down what was seen."""
    torch.manual_seed(model.seed)
    module = model.build().eval()
    trouble = ""
    with following(module) as trace:
        try:
            model.run(module)
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"[:200]
    stored = Stored(model, module, trace)
    truths, known = [], set[str]()
    for seen in read(trace, module):
        known |= {trace.names[number] for part in seen.parts.values() for number in part.parameters}
        try:
            truths.append(truth_of(stored, trace, module, seen))
        except KeyError:
            continue
    line = {
        "lib": model.lib, "name": model.name, "class": type(module).__name__, "files": dict(model.files(module)),
        "tensors": [[name, *rest] for name, rest in stored.tensors.items()], "truth": truths,
    }  # fmt: skip
    if rest := untraced(stored, module, known):
        line["untraced"] = rest
    if trouble:
        line["trouble"] = trouble
    if trace.failed:
        line["failed"] = trace.failed
    return shortened(line)


NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


def shortened(line: dict[str, Any]) -> dict[str, Any]:
    """Without the members of a list that are like two earlier ones: their names in the file say which were left out."""
    owned: dict[str, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    for name, dtype, shape in line["tensors"]:
        for found in NUMBER.finditer(name):
            parent, rest = name[: found.start()], name[found.end() :]
            owned[parent][found[0]].add((rest, dtype, tuple(shape)))
    dropped: set[str] = set()
    for parent, members in owned.items():
        alike: dict[Any, int] = defaultdict(int)
        for number in sorted(members, key=int):
            kind = frozenset(members[number])
            alike[kind] += 1
            if alike[kind] > 2 and any("attn" in r[0].lower() or "att" in r[0].lower() or len(kind) > 6 for r in kind):
                dropped.add(f"{parent}{number}.")
    if not dropped:
        return line

    def kept(name: str) -> bool:
        return not any(f"{name}."[: found.end() + 1] in dropped for found in NUMBER.finditer(f"{name}."))

    line["tensors"] = [entry for entry in line["tensors"] if kept(entry[0])]
    left = {entry[0] for entry in line["tensors"]}
    line["truth"] = [t for t in line["truth"] if all(n in left for p in "qkv" if p in t for n in t[p]["tensors"])]
    if "untraced" in line:
        line["untraced"] = [path for path in line["untraced"] if kept(path + ".")]
    return line
