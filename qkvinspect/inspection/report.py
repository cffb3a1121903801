"""The result of inspection as plain dataclasses, and its JSON form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qkvinspect.checkpoint import Checkpoint, Orientation
from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection import model
from qkvinspect.inspection.account import Account
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.json_report import attention_to_json, tensor_to_json
from qkvinspect.inspection.layers_by_name import LayersByName
from qkvinspect.inspection.verdict import Evidence
from qkvinspect.inspection.weighed import WeighedFact
from qkvinspect.layouts import Layout
from qkvinspect.layouts.layout import FoundBy
from qkvinspect.layouts.packing import Geometry, describe, merge, span
from qkvinspect.tabular import Tabular
from qkvinspect.weights.encodings import Weights, no_weights
from qkvinspect.weights.weight import Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

SCHEMA_VERSION = 2

NO_LAYOUT = "not split (known from the graph of the file)"
"""What is said of a module whose rows the graph of the file takes as no layout has them."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Frobenius norm of some rows, and how many of their values are NaN or infinite."""

    norm: float
    nonfinite: int

    @property
    def nonfinite_words(self) -> str:
        """``1 NaN or infinite value``."""
        return f"{self.nonfinite} NaN or infinite value{'' if self.nonfinite == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Part:
    """Q, K or V of one layer: which rows of which stored tensor.

    >>> import qkvinspect
    >>> part = qkvinspect.inspect("sample_checkpoints/transformer.pt", heads=2).attentions[0].part("v")
    >>> part
    <Part v: rows 32:48 of encoder.layers.0.self_attn.in_proj_weight [48, 16]>
    >>> part.axis, part.shape, part.heads
    (0, (16, 16), (range(32, 40), range(40, 48)))
    >>> part[0, :3].shape
    (3,)

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
        of XLNet's [in, num_heads, head_dim] they are columns of ``tensor.flatten(1)``. What an output projection
        has of a head lies along its inputs, which is the other axis.
        """
        across = self.name == "out"
        return int((self.orientation == "out_in") == across)

    @property
    def axis_name(self) -> str:
        """What a reader calls what lies along the axis: ``rows`` or ``columns``."""
        return "columns" if self.axis else "rows"

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the part on its own, as nn.Linear would store it."""
        return sum(map(len, self.heads)), self.in_features

    def numpy(self) -> Array:
        """The values, float32 or float64 [out, in]; of ``out``, [inputs, outputs]: a row for each column of a head.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        from qkvinspect.weights.values import rows_of_values

        matrix = self.weight.as_matrix(self.orientation)
        return rows_of_values(matrix.transposed if self.name == "out" else matrix, self.heads)

    def __getitem__(self, key: Any) -> Any:
        """As numpy slices the values, which are read for it."""
        return self.numpy()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The values, for whatever takes an array."""
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)


@dataclass(frozen=True, slots=True)
class Attention(Tabular):
    """One attention module of a checkpoint.

    >>> import qkvinspect
    >>> qkvinspect.inspect("sample_checkpoints/sharded").attentions[1]
    <Attention 'model.layers.1.self_attn': qkv-proj, 4 heads over 2 kv heads x 4 (config:...)>

    Attributes:
        layer: the module's name as stored in the file.
        layout: how it is stored; None where the candidates cannot be told apart.
        layout_from: what decided that.
        candidates: ids of the layouts that it may be; none where the graph of the file rules them out.
        found_by: which way led to it: the registry, its names' pattern, the user's settings, the graph of the file.
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
        layout = self.layout.id if self.layout else self.may_be
        heads = f"{describe(self.heads)} ({self.heads_from})" if self.heads else "heads unknown"
        return clean(f"<Attention {self.layer!r}: {layout}, {heads}>")

    @property
    def may_be(self) -> str:
        """What is known of a module without a layout: ``ambiguous: phi3 or internlm2``."""
        return f"ambiguous: {' or '.join(self.candidates)}" if self.candidates else NO_LAYOUT

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
        """``q``, ``k`` or ``v``; None where the layer does not hold it or it cannot be told.

        >>> import qkvinspect
        >>> report = qkvinspect.inspect("sample_checkpoints/transformer.pt")
        >>> report.attentions[0].part("k")
        <Part k: rows 16:32 of encoder.layers.0.self_attn.in_proj_weight [48, 16]>
        """
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True, slots=True)
class Report(Tabular):
    """Everything that ``show`` prints.

    >>> import qkvinspect
    >>> report = qkvinspect.inspect("sample_checkpoints/sharded")
    >>> [(row["part"], row["rows"], row["axis"]) for row in report.records()[:3]]
    [('q', '0:16', 0), ('k', '0:8', 0), ('v', '0:8', 0)]
    >>> list(report.to_dataframe(per_head=True)["head"][:6])
    [0, 1, 2, 3, 0, 1]
    >>> report.layer("model.layers.1.selfattn")
    Traceback (most recent call last):
    qkvinspect.inspection.layers_by_name.NoSuchLayerError: no layer 'model.layers.1.selfattn'; there is ...

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
        counts = ((len(self.attentions), "attention module"), (len(self.findings), "finding"))
        said = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
        return clean(f"<Report of {self.checkpoint.path!r}: {said}>")

    def layer(self, name: str) -> Attention:
        """One of the attention modules.

        Raises:
            KeyError: none is called so; it says which names are near.
        """
        return LayersByName({one.layer: one for one in self.attentions}, self.undecoded)[name]

    @property
    def undecoded(self) -> dict[str, str]:
        """Why modules have no values, by their names."""
        said = [(finding.layer, finding) for finding in self.findings if finding.code is FindingCode.NO_VALUES]
        return {layer: finding.message for layer, finding in reversed(said) if layer is not None}

    def to_dict(self, *, tensors: bool = False) -> dict[str, object]:
        """The JSON contract: see report.schema.json; where ``tensors`` is true, with all tensors and their places."""
        checkpoint, account = self.checkpoint, self.account
        every = (account.statuses() if account is not None else {}) if tensors else None
        listed = (
            None if every is None else [tensor_to_json(self.weights[name], status) for name, status in every.items()]
        )
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": {
                "path": checkpoint.path,
                "format": checkpoint.format,
                "container": checkpoint.container,
                "num_files": checkpoint.num_files,
                "num_tensors": len(checkpoint.tensors),
                "num_bytes": checkpoint.num_bytes,
                **model.in_short(checkpoint, self.weights).to_dict(),
            },
            "attentions": [attention_to_json(attention) for attention in self.attentions],
            "findings": [finding.to_dict() for finding in self.findings],
            "tensors": account.counts() if account else None,
            "unrecognised": [found.to_dict() for found in account.unrecognised] if account else [],
            **({"copies": [some.to_dict() for some in account.copies]} if account and account.copies else {}),
            **({} if listed is None else {"every_tensor": listed}),
        }
