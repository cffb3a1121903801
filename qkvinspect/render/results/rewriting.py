"""``export``, ``pack`` and ``convert``: what was written, or would be, and where every row of it comes from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qkvinspect.export import OutputTensor
from qkvinspect.findings import Finding
from qkvinspect.inspection.json_values import row_ranges
from qkvinspect.render import alike_names
from qkvinspect.render.document import Block, Cell, CodeBlock, Conclusion, Document
from qkvinspect.render.results import head_changes
from qkvinspect.render.text import count, ranges, shape, size
from qkvinspect.weights.mixed_heads import MixedHeads

if TYPE_CHECKING:
    from qkvinspect.lineage.anew import HeadChanges

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A checkpoint that was written, or that would be.

    Attributes:
        path: of the file or folder.
        num_tensors: of the whole checkpoint, however many ranks share it.
        tensors: all of them; where ranks share them, what the first rank holds.
        layers: how many attention modules are stored otherwise than before.
        nbytes: of all tensors in all files.
        files: how many files it is cut into; None where that was not asked for.
        ranks: how many ranks of tensor parallelism share it; None where it is whole.
        written: whether it is there now; else it was only planned.
        verified: whether it was read again and compared.
        findings: about the checkpoint that it was made from.
        heads: what was done to them, where they were aligned or merged.
    """

    path: str
    num_tensors: int
    tensors: Sequence[OutputTensor]
    layers: int
    nbytes: int
    files: int | None
    ranks: int | None
    written: bool
    verified: bool
    findings: Sequence[Finding]
    heads: HeadChanges | None = None


@dataclass(frozen=True, slots=True)
class _From:
    """Where some rows come from: a stored tensor, all of it if ``rows`` is None; zeros if there is no tensor.

    Attributes:
        how: what was done to it, before its name.
        made: what it says of the rows that were cut out, where nothing is copied.
    """

    tensor: str | None
    axis: int = 0
    rows: Sequence[range] | None = None
    made: str = ""
    how: str = ""

    @property
    def alike(self) -> Hashable:
        """Equal where nothing but numbers in the tensors' names differ."""
        rows = None if self.rows is None else tuple(self.rows)
        return alike_names.stem(self.tensor or ""), self.axis, rows, self.made

    def __str__(self) -> str:
        if self.tensor is None:
            return self.made or "zeros"
        return f"{self.how}{self.tensor}" if self.rows is None else f"{self.tensor} {ranges(self.rows, self.axis)}"


def document(result: Rewriting, command: str) -> Document:
    """The tensors that are new or not what they were, and the file in a line."""
    return Document(
        command, blocks=lambda: _blocks(result), records=lambda: _records(result), data=lambda: _data(result)
    )


def _blocks(result: Rewriting) -> Iterator[Block]:
    if not result.written:
        yield CodeBlock(tuple(_lines(result.tensors)), indent=0, wrapped=True)
    if result.heads is not None:
        yield from head_changes.blocks(result.heads)
    of_layers = f"{count(result.num_tensors, 'tensor')} of {count(result.layers, 'layer')}"
    on_ranks = f" on {count(result.ranks, 'rank')}" if result.ranks is not None else ""
    in_files = f" in {count(result.files, 'file')}" if result.files is not None else ""
    state = ", not written" if not result.written else ", verified" if result.verified else ""
    yield Conclusion(f"{result.path}: {of_layers}{on_ranks}, {size(result.nbytes)}{in_files}{state}")


def _lines(tensors: Sequence[OutputTensor]) -> Iterator[str]:
    """New tensors, each with where its rows come from, alike ones together; those that stay as they are, counted."""
    new = [tensor for tensor in tensors if tensor.whole is None or tensor.whole.name != tensor.name]
    groups: dict[tuple[Hashable, ...], list[tuple[OutputTensor, Sequence[_From]]]] = {}
    for tensor in new:
        origin = tuple(_origin(tensor))
        alike = (alike_names.stem(tensor.name), tensor.shape, tensor.dtype, *(one.alike for one in origin))
        groups.setdefault(alike, []).append((tensor, origin))
    for group in groups.values():
        first, origin = group[0]
        (name,) = alike_names.together([tensor.name for tensor, _ in group], few=1)
        named = [_common([found[place].tensor for _, found in group]) for place in range(len(origin))]
        shown = "; ".join(str(replace(one, tensor=name)) for one, name in zip(origin, named, strict=True))
        yield f"{name} {shape(first.shape)} {first.dtype.name}  from {shown}"
    if same := len(tensors) - len(new):
        yield f"and {count(same, 'tensor')} as in the checkpoint"


def _common(names: Sequence[str | None]) -> str | None:
    """The name of stored tensors that differ only in numbers, ``*`` for those."""
    known = [name for name in names if name is not None]
    return alike_names.name(known[0], alike_names.varied(known)) if known else None


def _records(result: Rewriting) -> Iterator[Sequence[Cell]]:
    yield "tensor", "shape", "dtype", "bytes", "from"
    for tensor in result.tensors:
        origin = "; ".join(map(str, _origin(tensor)))
        yield tensor.name, "x".join(map(str, tensor.shape)), tensor.dtype.name, tensor.nbytes, origin


def _data(result: Rewriting) -> dict[str, object]:
    """The JSON contract: see rewriting.schema.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "path": result.path,
        "written": result.written,
        "verified": result.verified,
        "num_tensors": result.num_tensors,
        "num_layers": result.layers,
        "num_bytes": result.nbytes,
        "num_files": result.files,
        "num_ranks": result.ranks,
        "tensors": [_tensor(tensor) for tensor in result.tensors],
        "findings": [finding.to_dict() for finding in result.findings],
        **({} if result.heads is None else {"heads": result.heads.to_dict()}),
    }


def _tensor(tensor: OutputTensor) -> dict[str, object]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "from": [
            {"tensor": one.tensor, "axis": one.axis, "rows": None if one.rows is None else row_ranges(one.rows)}
            for one in _origin(tensor)
        ],
    }


def _origin(tensor: OutputTensor) -> Iterator[_From]:
    if tensor.whole is not None:
        yield _From(tensor.whole.name)
    if tensor.made is not None:
        yield _From(None, made="the sizes of its rows")
    found: dict[tuple[str | None, int], list[range]] = {}
    mixed: dict[str, str] = {}
    for run in tensor.runs:
        axis = 0 if run.orientation == "out_in" else 1
        if run.weight is not None and isinstance(run.weight.encoding, MixedHeads):
            mixed[run.weight.name] = "heads anew of "
            continue
        found.setdefault((run.weight.name if run.weight else None, axis), []).append(run.rows)
    for name, how in mixed.items():
        yield _From(name, how=how)
    for (name, axis), rows in found.items():
        yield _From(name, axis, rows)
