"""What ``diff`` finds, as plain dataclasses, and its form as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.diff.relation import Relation
from qkvinspect.errors import clean
from qkvinspect.findings import Finding
from qkvinspect.inspection.json_values import number, number_or_none
from qkvinspect.tabular import Tabular

SCHEMA_VERSION = 1

Status = Literal["identical", "rounding", "tolerated", "changed", "reshaped", "added", "removed"]
"""``identical``: bit for bit. ``rounding``: equal once rounded to the dtype of the other side (in the same dtype:
but for the signs of zeros and the bits of NaNs). ``tolerated``: changed within --tolerance. ``added`` and
``removed``: only in B, only in A."""

SAME: frozenset[Status] = frozenset({"identical", "rounding", "tolerated"})
STATUSES: tuple[Status, ...] = ("identical", "rounding", "tolerated", "changed", "reshaped", "added", "removed")
"""Statuses from no difference to the largest."""

MatchedBy = Literal["name", "wrapper", "prefix", "map", "order", "align"]
Side = Literal["a", "b"]
Kind = tuple[str, tuple[int, ...]]
"""dtype and shape"""


def worst(statuses: Iterable[Status]) -> Status:
    """The status of a whole that consists of several."""
    return STATUSES[max(map(STATUSES.index, statuses), default=0)]


@dataclass(frozen=True, slots=True)
class Spot:
    """A value that differs.

    Attributes:
        row, column: of the part on its own, as nn.Linear would store it; no column for a bias. Of a tensor outside
            attention: its first index, and the place among all that follow.
        head: None where heads are unknown.
    """

    row: int
    column: int | None
    a: float
    b: float
    head: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much the values of A and B differ.

    Attributes:
        relative_l2: norm of B - A over the norm of A, of values that are finite on both sides; None where values
            were not compared as numbers.
        max_difference: of those values.
        cosine: of the two as vectors; None where one is zero.
        changed: how many values differ by more than rounding.
        count: of how many; 0 where they were not compared as numbers, or are all the same.
        nonfinite: how many of them are not finite on one side or both.
        largest: the value that differs most.
        emptied: whether A holds values there and B only zeros.
        steps: the root mean square of the differences in half steps of the codes, of the row where it is largest.
    """

    status: Status
    relative_l2: float | None = 0.0
    max_difference: float | None = 0.0
    cosine: float | None = 1.0
    changed: int = 0
    count: int = 0
    nonfinite: int = 0
    largest: Spot | None = None
    emptied: bool = False
    steps: float = 0.0


IDENTICAL = Comparison("identical")


@dataclass(frozen=True, slots=True)
class PartDifference:
    """Q, K, V or the output projection of one layer, weight or bias.

    Attributes:
        name: ``q``, ``k``, ``v``, ``out``, each also with ``_bias``; where parts cannot be told apart, the stored
            tensor's own name.
        a, b: dtype and shape of each side, [out, in] or [out]; None where it has none.
        heads: of each head, where their number is known.
    """

    name: str
    a: Kind | None
    b: Kind | None
    whole: Comparison
    heads: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class LayerDifference:
    """One attention module that both sides hold.

    Attributes:
        a, b: its names.
        stored: how each side stores it, for people.
        num_heads: None where unknown, or where the two sides disagree.
        undone: what was done to B's heads before they were compared, in words.
    """

    a: str
    b: str
    matched_by: MatchedBy
    stored: tuple[str, str]
    num_heads: int | None
    parts: tuple[PartDifference, ...]
    relations: tuple[Relation, ...] = ()
    undone: tuple[str, ...] = ()

    def __repr__(self) -> str:
        changed = [part.name for part in self.parts if part.whole.status not in SAME]
        return clean(f"<LayerDifference {self.a!r}: {self.status}{': ' * bool(changed)}{', '.join(changed)}>")

    @property
    def status(self) -> Status:
        return worst(part.whole.status for part in self.parts)


@dataclass(frozen=True, slots=True)
class HeadLoss:
    """The error that quantisation made in a head.

    Attributes:
        layer: as A calls it.
        errors: the relative error of ``q``, ``k``, ``v``, ``out`` and of the circuits ``qk`` and ``ov``, Frobenius.
        beyond: how many of its values are farther away than the rounding of their encoding explains.
        steps: the largest of its parts; see ``Comparison``.
        floors: of each error, what the rounding of the stored numbers alone may have made of it.
    """

    layer: str
    head: int
    errors: Mapping[str, float]
    beyond: int
    steps: float
    floors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor outside attention.

    Attributes:
        a, b: its names; None where only the other side has it.
        kinds: dtype and shape of each side that has it.
    """

    a: str | None
    b: str | None
    kinds: tuple[Kind, ...]
    whole: Comparison


@dataclass(frozen=True, slots=True, repr=False)
class Difference(Tabular):
    """Everything that ``diff`` prints.

    >>> import qkvinspect
    >>> files = "sample_checkpoints/trained.safetensors", "sample_checkpoints/miswritten.safetensors"
    >>> found = qkvinspect.compare(*files, heads=4)
    >>> found.layers[1]
    <LayerDifference 'encoder.layers.1.self_attn': changed: k, k_bias>
    >>> [row["part"] for row in found.records() if row["status"] == "changed"]
    ['k', 'k_bias']

    Attributes:
        added, removed: names of layers that only B, only A holds.
        others: tensors outside attention; None where they were left out.
        findings: warnings about one side.
        notes: remarks about how the two were compared.
        removed_heads, added_heads: of layers that both hold, where they were aligned: each layer and its heads that
            only A, only B has.
        losses: every head of the layers of which one side is quantised, the worst first.
    """

    a: Checkpoint
    b: Checkpoint
    layers: tuple[LayerDifference, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    others: tuple[TensorDifference, ...] | None
    findings: tuple[tuple[Side, Finding], ...]
    notes: tuple[str, ...]
    tolerance: float | None = None
    losses: tuple[HeadLoss, ...] = ()
    removed_heads: tuple[str, ...] = ()
    added_heads: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = Counter(layer.status for layer in self.layers)
        said = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        said += [f"{len(names)} {what}" for what, names in (("added", self.added), ("removed", self.removed)) if names]
        verdict = ", ".join(("same" if self.same else "different", *(said or ["no layers"])))
        return clean(f"<Difference of {self.a.path!r} and {self.b.path!r}: {verdict}>")

    @property
    def same(self) -> bool:
        """Whether nothing is changed, added or removed."""
        statuses = [layer.status for layer in self.layers] + [other.whole.status for other in self.others or ()]
        apart = (self.added, self.removed, self.added_heads, self.removed_heads)
        return not any(apart) and SAME.issuperset(statuses)

    def to_dict(self) -> dict[str, object]:
        """The JSON contract: see difference.schema.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "same": self.same,
            "tolerance": self.tolerance,
            "a": _checkpoint(self.a),
            "b": _checkpoint(self.b),
            "layers": [_layer(layer) for layer in self.layers],
            "added": list(self.added),
            "removed": list(self.removed),
            **({"removed_heads": list(self.removed_heads)} if self.removed_heads else {}),
            **({"added_heads": list(self.added_heads)} if self.added_heads else {}),
            "others": None if self.others is None else _others(self.others),
            "findings": [{"side": side, **finding.to_dict()} for side, finding in self.findings],
            "notes": list(self.notes),
            "losses": [
                {
                    "layer": loss.layer,
                    "head": loss.head,
                    "errors": {name: number(error) for name, error in loss.errors.items()},
                    "values_beyond_rounding": loss.beyond,
                }
                for loss in self.losses
            ],
        }


def _checkpoint(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "path": checkpoint.path,
        "format": checkpoint.format,
        "container": checkpoint.container,
        "num_tensors": len(checkpoint.tensors),
        "num_bytes": checkpoint.num_bytes,
    }


def _layer(layer: LayerDifference) -> dict[str, object]:
    return {
        "a": layer.a,
        "b": layer.b,
        "matched_by": layer.matched_by,
        "status": layer.status,
        "num_heads": layer.num_heads,
        "parts": [
            {
                "part": part.name,
                "a": _kind(part.a),
                "b": _kind(part.b),
                **_comparison(part.whole),
                "heads": [{"head": head, **_comparison(one)} for head, one in enumerate(part.heads)],
            }
            for part in layer.parts
        ],
        "relations": [{"code": r.code.value, "parts": list(r.parts), "message": r.message} for r in layer.relations],
        **({"undone": list(layer.undone)} if layer.undone else {}),
    }


def _kind(kind: Kind | None) -> dict[str, object] | None:
    return None if kind is None else {"dtype": kind[0], "shape": list(kind[1])}


def _comparison(found: Comparison) -> dict[str, object]:
    spot = found.largest
    return {
        "status": found.status,
        "relative_l2": number_or_none(found.relative_l2),
        "max_difference": number_or_none(found.max_difference),
        "cosine": number_or_none(found.cosine),
        "values_changed": found.changed,
        "nonfinite_changed": found.nonfinite,
        "largest": None
        if spot is None
        else {"head": spot.head, "row": spot.row, "column": spot.column, "a": number(spot.a), "b": number(spot.b)},
    }


def _others(others: tuple[TensorDifference, ...]) -> dict[str, object]:
    """Count all tensors outside attention, and list those that are not identical."""
    counts = dict.fromkeys(STATUSES, 0)
    for other in others:
        counts[other.whole.status] += 1
    named = [other for other in others if other.whole.status != "identical"]
    return {**counts, "tensors": [{"a": other.a, "b": other.b, **_comparison(other.whole)} for other in named]}
