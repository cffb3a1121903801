"""Rewrite a whole checkpoint in which some layers change: rename what belongs to them, keep everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.export.merged import require_merged, require_numbers
from qkvinspect.export.parts import writable
from qkvinspect.export.pieces import OutputTensor, RowRun, unchanged
from qkvinspect.findings import QUANTISED
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.inspection.saved_modules import is_copied
from qkvinspect.weights.adapters import WRAPPED, is_sum
from qkvinspect.weights.weight import Weight, plain


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one layer.

    Attributes:
        layer: its name, and what it will be called.
        consumed: the stored tensors that ``pieces`` stand in for.
    """

    layer: tuple[str, str]
    consumed: frozenset[str]
    pieces: tuple[OutputTensor, ...]
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])


def whole(
    report: Report,
    changes: Iterable[Change],
    rename: Callable[[str], str] = lambda name: name,
    numbers_as: DType | None = None,
) -> list[OutputTensor]:
    """Every tensor of the checkpoint, in its order, with the changed layers in their places.

    Args:
        numbers_as: what weights that are stored as codes become; None: they stay as they are.

    Raises:
        LayoutError: two tensors would have the same name; an adapter would be half merged, codes half made numbers.
    """
    require_merged(report)
    require_numbers(report, numbers_as)
    changes = list(changes)
    by_tensor = {name: change for change in changes for name in change.consumed}
    moved = {old: new for change in changes for old, new in change.renamed.items()}
    prefixes = {change.layer[0]: change.layer[1] for change in changes if change.layer[0] != change.layer[1]}
    lengths = frozenset(map(len, prefixes))
    pieces: dict[str, OutputTensor] = {}
    written: set[int] = set()
    for stored in _stored(report, numbers_as):
        name = stored.name
        change = next((by_tensor[info.name] for info in stored.sources if info.name in by_tensor), None)
        if change is None:
            found = [replace(stored, name=moved.get(name) or _below(name, prefixes, lengths))]
        elif id(change) in written:
            continue
        else:
            written.add(id(change))
            found = list(change.pieces)
        for piece in found:
            new = rename(piece.name)
            if new in pieces or not new:
                raise LayoutError(
                    "two tensors would have this name" if new else "would have no name",
                    tensor=new or piece.name,
                    found=" and ".join(i.name for p in (pieces.get(new), piece) if p for i in p.sources[:1]),
                    hint="give other names with --names or --rename, or choose layers with --layer",
                )
            pieces[new] = replace(piece, name=new)
    return list(pieces.values())


def _stored(report: Report, numbers_as: DType | None) -> Iterator[OutputTensor]:
    """What is in the checkpoint, or what it becomes when its codes are made numbers, or an adapter is added.

    Raises:
        LayoutError: an adapter is added to codes, and nothing says what the numbers become.
    """
    if numbers_as is None:
        sums = {
            info.name: weight for weight in report.weights.encoded.values() if is_sum(weight) for info in weight.stored
        }
        for weight in dict.fromkeys(sums.get(name) or plain(info) for name, info in report.checkpoint.tensors.items()):
            if is_sum(weight):
                yield numbers_of(weight, writable(weight, weight.name, None).dtype)
            else:
                yield unchanged(weight.require_info())
        return
    for name in report.weights:
        weight = report.weights[name]
        if weight.encoding is None or weight.why:
            yield from map(unchanged, weight.stored)
        else:
            yield numbers_of(weight, numbers_as)


def numbers_of(weight: Weight, dtype: DType) -> OutputTensor:
    """A weight that is stored as codes, as numbers under its own name."""
    written = replace(weight, dtype=dtype)
    rows, _ = weight.as_shape("out_in")
    return OutputTensor(weight.name, weight.shape, dtype, (RowRun(range(rows), written),))


def _below(name: str, prefixes: Mapping[str, str], lengths: frozenset[int]) -> str:
    """The other tensors of a layer move with it; only prefixes of these lengths are cut out of the name."""
    at = name.rfind(".")
    while at >= 0:
        if at in lengths and (new := prefixes.get(name[:at])) is not None:
            return f"{new}{name[at:]}".removeprefix(".")
        at = name.rfind(".", 0, at)
    return name


def require_whole(report: Report, attention: Attention) -> None:
    """Refuse a layer whose rows mean nothing without tensors beside them that nobody here can read.

    Raises:
        LayoutError: it is quantised in a way that is not known, or adapted.
    """
    reason = ""
    names = [weight.name for weight in attention.weights]
    if any(WRAPPED in name or ".lora_" in name or name in report.weights.alone for name in names):
        reason = "it has an adapter; merge it into the model and save it"
    elif any(map(is_copied, names)):
        reason = "PEFT keeps two copies of it (modules_to_save); merge the adapter into the model and save it"
    elif any(f.layer == attention.layer and f.code in QUANTISED for f in report.findings):
        reason = "it is quantised; dequantise the model and save it"
    if reason:
        raise LayoutError(
            f"layer {attention.layer!r} cannot be rewritten: {reason}", hint="or leave it out with --layer"
        )
