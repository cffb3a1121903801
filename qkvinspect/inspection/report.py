"""The result of inspection as plain dataclasses, and its JSON form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from qkvinspect.checkpoint import Checkpoint, Orientation
from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.findings import Finding
from qkvinspect.inspection import model
from qkvinspect.inspection.account import Account
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.json_values import number, row_ranges
from qkvinspect.inspection.verdict import Evidence
from qkvinspect.inspection.weighed import WeighedFact
from qkvinspect.layouts import Layout
from qkvinspect.layouts.layout import FoundBy
from qkvinspect.layouts.packing import Geometry, describe, merge, span
from qkvinspect.weights.encodings import Weights, no_weights
from qkvinspect.weights.weight import Weight

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Measure:
    """Frobenius norm of some rows, and how many of their values are NaN or infinite."""

    norm: float
    nonfinite: int


@dataclass(frozen=True, slots=True)
class Part:
    """Q, K or V of one layer: which rows of which stored tensor.

    Attributes:
        name: ``q``, ``k``, ``v``; ``gate``, ``vgate``, ``mlp`` of ``Attention.others``; ``out``.
        weight: what it is a part of; rows are counted along its output axis.
        heads: the rows of each head, in order; a single entry where the number of heads is unknown. Of the
            output projection they are the columns that read a head.
        bias: the stored tensor that holds the bias, or None.
        bias_heads: the entries of the bias that belong to each head.
        measured: of all the part's weights; None when norms were not asked for or have no meaning.
        head_measures: of each head, as ``heads``.
        head_ranks: the ranks of tensor parallelism that hold each head; empty unless the files of ranks were joined.
    """

    name: str
    weight: Weight
    orientation: Orientation
    in_features: int
    heads: tuple[range, ...]
    bias: Weight | None = None
    bias_heads: tuple[range, ...] = ()
    measured: Measure | None = None
    bias_measured: Measure | None = None
    head_measures: tuple[Measure, ...] = ()
    head_ranks: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        ranges = ", ".join(map(span, self.rows[:4])) + ", ..." * (len(self.rows) > 4)
        return clean(f"<Part {self.name}: {self.axis_name} {ranges} of {self.weight.name} {list(self.weight.shape)}>")

    @property
    def rows(self) -> tuple[range, ...]:
        """The part's rows, neighbouring heads joined."""
        return merge(self.heads)

    @property
    def axis(self) -> int:
        """The axis of the stored tensor that the rows are a range of.

        It is 1 where the tensor lies the other way round, as those of GPT-2's Conv1D do: there they are columns;
        of XLNet's [in, num_heads, head_dim] they are columns of ``tensor.flatten(1)``.
        """
        return 0 if self.orientation == "out_in" else 1

    @property
    def axis_name(self) -> str:
        """What a reader calls what lies along the axis: ``rows`` or ``columns``."""
        return "columns" if self.axis else "rows"

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the part on its own, as nn.Linear would store it."""
        return sum(map(len, self.heads)), self.in_features


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention module of a checkpoint.

    Attributes:
        layer: the module's name as stored in the file.
        layout: how it is stored; None where the candidates cannot be told apart.
        layout_from: what decided that.
        candidates: ids of the layouts that it may be, if there is more than one.
        found_by: which of the three ways led to it: the registry, its names' pattern, the user's settings.
        geometry: the sizes; one "head" a part where their number is unknown; None where parts cannot be told apart.
        weighed_facts: what each source says of the heads and what became of it, the most trusted first.
        heads_fact: what that number came from; None where it is unknown.
        possible_heads: the counts that the shapes allow, where it is unknown.
        parts: Q, K and V, as far as the module holds them.
        others: what else its tensors hold: gates, the rows of an MLP.
        output: the output projection; its heads are columns of ``out``.
        weights, biases: the tensors that hold the parts.
        evidence: what the weights say, where they were asked.
    """

    layer: str
    layout: Layout | None
    layout_from: str
    candidates: tuple[str, ...]
    tensors: dict[str, str]
    dtype: str
    embed_dim: int | None
    geometry: Geometry | None = None
    heads_fact: HeadFact | None = None
    possible_heads: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    others: tuple[Part, ...] = ()
    output: Part | None = None
    out_bias: Weight | None = None
    weights: tuple[Weight, ...] = ()
    biases: tuple[Weight, ...] = ()
    out: Weight | None = None
    extras: tuple[tuple[Weight, str], ...] = ()
    evidence: Evidence | None = None
    weighed_facts: tuple[WeighedFact, ...] = ()
    found_by: FoundBy = "layout"

    def __repr__(self) -> str:
        layout = self.layout.id if self.layout else f"{' or '.join(self.candidates)}, ambiguous"
        heads = f"{describe(self.heads)} ({self.heads_from})" if self.heads else "heads unknown"
        return clean(f"<Attention {self.layer!r}: {layout}, {heads}>")

    @property
    def heads(self) -> Geometry | None:
        """The sizes of the heads, or None where their number is unknown."""
        return None if self.heads_fact is None else self.geometry

    @property
    def heads_from(self) -> str:
        """Where their number came from, as in the JSON contract; "unknown"."""
        return self.heads_fact.origin if self.heads_fact else "unknown"

    @property
    def heads_said_by(self) -> SaidBy | None:
        return self.heads_fact.said_by if self.heads_fact else None

    @property
    def tensor_names(self) -> set[str]:
        """The names of all tensors that belong to the module, as far as they are known."""
        named = {name for name in self.tensors.values() if name}
        return named | {one.name for one in self.weights} | {one.name for one, _ in self.extras}

    def part(self, name: str) -> Part | None:
        """``q``, ``k`` or ``v``; None where the layer does not hold it or it cannot be told."""
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of inspecting a checkpoint: everything that ``show`` prints.

    Attributes:
        weights: all weights of the checkpoint, attention or not.
        selected: whether --layer left some modules out.
        account: where every tensor belongs; None where --layer left some modules out.
    """

    checkpoint: Checkpoint
    attentions: tuple[Attention, ...]
    findings: tuple[Finding, ...]
    selected: bool = False
    weights: Weights = field(default_factory=no_weights, repr=False)
    account: Account | None = None

    def __repr__(self) -> str:
        path, found = self.checkpoint.path, (len(self.attentions), len(self.findings))
        return clean(f"<Report of {path!r}: {found[0]} attention modules, {found[1]} findings>")

    def to_dict(self, *, tensors: bool = False) -> dict[str, object]:
        """The JSON contract: see report.schema.json; where ``tensors`` is true, with all tensors and their places."""
        checkpoint, account = self.checkpoint, self.account
        every = (account.statuses() if account is not None else {}) if tensors else None
        listed = None if every is None else [_tensor(self.weights[name], status) for name, status in every.items()]
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": {
                "path": checkpoint.path,
                "format": checkpoint.format,
                "container": checkpoint.container,
                "num_files": checkpoint.num_files,
                "num_tensors": len(checkpoint.tensors),
                "num_bytes": checkpoint.num_bytes,
                **model.in_short(checkpoint).to_dict(),
            },
            "attentions": [_attention(attention) for attention in self.attentions],
            "findings": [finding.to_dict() for finding in self.findings],
            "tensors": account.counts() if account else None,
            "unrecognised": [found.to_dict() for found in account.unrecognised] if account else [],
            **({} if listed is None else {"every_tensor": listed}),
        }


def _tensor(weight: Weight, status: str) -> dict[str, object]:
    return {"name": weight.name, "shape": list(weight.shape), "dtype": weight.dtype.name, "belongs_to": status}


def _attention(attention: Attention) -> dict[str, object]:
    layout, heads = attention.layout, attention.heads
    return {
        "layer": attention.layer,
        "layout": layout.id if layout else None,
        "layout_from": attention.layout_from,
        "candidates": list(attention.candidates),
        "found_by": attention.found_by,
        "kind": layout.kind if layout else None,
        "tensors": attention.tensors,
        "stored": {info.name: list(info.shape) for info in attention.weights},
        "dtype": attention.dtype,
        "embed_dim": attention.embed_dim,
        "num_heads": heads.num_heads if heads else None,
        "num_kv_heads": heads.num_kv_heads if heads else None,
        "head_dim": heads.width("q") if heads else None,
        "v_head_dim": heads.width("v") if heads else None,
        "num_heads_from": attention.heads_from,
        "possible_num_heads": list(attention.possible_heads),
        "evidence": _evidence(attention.evidence),
        **{name: _part(attention, attention.part(name)) for name in ("q", "k", "v")},
        "extras": {info.name: meaning for info, meaning in attention.extras},
    }


def _evidence(evidence: Evidence | None) -> dict[str, object] | None:
    """The answers, without the weighing."""
    if evidence is None:
        return None
    heads, packings = evidence.heads, evidence.packings
    return {
        "num_heads": heads.best.num_heads if heads and heads.decided else None,
        "num_heads_confidence": round(heads.confidence, 4) if heads else None,
        "packing": packings.best.label if packings and packings.decided else None,
        "packing_confidence": round(packings.confidence, 4) if packings else None,
    }


def _part(attention: Attention, part: Part | None) -> dict[str, object] | None:
    if part is None:
        return None
    heads: list[dict[str, object]] = []
    if attention.heads is not None:
        measures: Sequence[Measure | None] = part.head_measures or [None] * len(part.heads)
        heads = [
            {
                "head": head,
                "rows": row_ranges([rows]),
                "axis": part.axis,
                **({"ranks": list(part.head_ranks[head])} if part.head_ranks else {}),
                **_measure(measure),
            }
            for head, (rows, measure) in enumerate(zip(part.heads, measures, strict=True))
        ]
    return {
        "shape": list(part.shape),
        "rows": row_ranges(part.rows),
        "axis": part.axis,
        **_measure(part.measured),
        "bias_norm": number(part.bias_measured.norm) if part.bias_measured else None,
        "bias_nonfinite": part.bias_measured.nonfinite if part.bias_measured else None,
        "heads": heads,
    }


def _measure(measure: Measure | None) -> dict[str, object]:
    if measure is None:
        return {"norm": None, "nonfinite": None}
    return {"norm": number(measure.norm), "nonfinite": measure.nonfinite}
