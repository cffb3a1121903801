"""A row of the registry: how one library stores an attention module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from qkvinspect.checkpoint import Orientation
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.layouts.frozen_mapping import FrozenMapping, frozen
from qkvinspect.layouts.logits import Logits
from qkvinspect.layouts.packing import Packing
from qkvinspect.weights.head_stack import Axes

Proof = Literal["proven", "source", "excerpt", "memory", "pattern", "settings", "graph"]
"""How a row is known: run against the library's own module, read in its source, seen as an excerpt of it,
or remembered. A remembered row never outranks another. Rows outside the registry follow from the names of the
tensors or from the graph of the file, or were told by the user."""

FoundBy = Literal["layout", "pattern", "settings", "graph"]
"""Which way led to a module: a row of the registry, its names' pattern, the user's own row, the graph of the file."""

PATTERN = "pattern"
"""What the ids of layouts begin with that are made of names that follow a pattern."""

Turn = Literal["halves", "neighbours"]
"""Which rows of a head a rotary embedding turns together: one of each half, or two neighbours."""

Kind = Literal["fused", "kv-fused", "qk-fused", "separate"]

KvHeads = Literal["free", "equal", "one"]
"""Whether a library allows fewer kv heads than heads, only as many, or has just one."""


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """One stored tensor of a module.

    Attributes:
        key: its name below the layer, in dotted components. A component may list alternatives
            (``o_proj|out_proj``); a leading ``../`` climbs one component up.
        axes: of a parameter of three axes that is seen as a matrix: which count heads, head_dim and inputs.
    """

    key: str
    packing: Packing
    orientation: Orientation = "out_in"
    axes: Axes | None = None


@dataclass(frozen=True, slots=True)
class HeadTensor:
    """A tensor beside the weights whose size along ``axis`` is the number of heads or their width.

    Where only one layer of a stack holds it (T5's relative bias), it speaks for the whole stack.
    """

    key: str
    axis: int
    fixes: Literal["num_heads", "head_dim"]


QK_NORMS = (
    HeadTensor("q_norm|q_layernorm|norm_q.weight", 0, "head_dim"),
    HeadTensor("norm.query_norm.scale", 0, "head_dim"),
)
"""The norms of Q and K, as most libraries name them."""

_NO_FLAGS: Mapping[str, tuple[object, ...]] = FrozenMapping({})

_USUAL_BIASES: tuple[StoredWeight, ...] = (StoredWeight("", Packing(())),)
_USUAL_HEAD_TENSORS = (HeadTensor("", 0, "head_dim"),)
"""Placeholders, known by identity: the row leaves its biases or head tensors at what is usual for its weights."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one library stores an attention module. Hashable, whatever mapping of flags it is made with.

    Attributes:
        id: what JSON, --layout and docs/layouts.md call it.
        libraries: who stores it so, for people.
        weights: the projections; the first is the one that a module is recognised by.
        source: file, class or function that says so.
        layer: components that the layer's own name must end with; "" for any; ``#`` is a number.
        label: appended to the layer's name where one module holds two sets of projections.
        biases: their biases, each optional; where a row does not say, ``bias`` beside each ``weight``, packed alike.
        out: names that the output projection's weight may have.
        out_orientation: the orientation of that weight.
        extras: other tensors of the module that are mistaken for Q, K or V, and what they are.
        siblings: keys that must stand beside the weights (``//key``: anywhere), else the row does not apply.
        unless: keys that must not.
        ratio: how many times its columns the first weight has rows, where that tells the row from others.
        out_ratio: how many times the output projection's columns the first weight has rows, likewise.
        fed_by: a key and how many times the rows of that tensor the last weight has columns, likewise.
        model_types: globs for the config's ``model_type``, ``_class_name``, ``architecture`` or one of its
            ``architectures`` that mean this row.
        flags: for each key of the config, the values that mean this row (None: the key is not there;
            Ellipsis: whatever it holds).
        needs_config: the names alone do not decide; only a config, --layout or ``settled_by`` does.
        only_told: whether the row is no candidate at all where no config names it.
        only_for: globs for the kind of model: where a config names one and none of these, the row is no candidate.
        never_where: keys of a config with the value that rules the row out.
        settled_by: keys of which any one decides for the row, as a config would.
        ndim: how many axes the first weight has, where that tells the row from others (convolutions).
        subheads: parts that have several heads for each head of the module (differential attention).
        subheads_apart: whether the first of these come for all heads of the module, then the second ([q1; q2]).
        num_heads, num_kv_heads: of a module, where the layout itself fixes them (a module a head).
        head_dim: rows of a head of K, where the library fixes them.
        heads_on_all_rows: how many heads use all rows of each projection, each on its own share of the input; 0 where
            each has rows of its own.
        kv_heads: how many kv heads the library allows; where a row does not say, as many as heads if one tensor
            holds all parts, else any number.
        tiled_in: globs for names of modules in which head h uses kv head h % kv heads, where libraries that share the
            row differ in it; in others nothing tells. Empty where heads that share a kv head are neighbours.
        may_share_kv: whether there may be fewer kv heads although the row says "equal": where the output projection
            reads so many more rows than K has that these fit.
        q_rows: rows of Q where it has not as many as K (one row that scores every token); K and V then have as many
            as the tensor has columns.
        square: whether each of Q, K and V has as many rows as the (Q) weight has columns.
        head_tensors: tensors that fix the number of heads; where a row does not say, the norms of Q and K if one
            tensor holds all parts, else none.
        head_keys: keys of a config that give it, where the usual ones speak of something else; ``key[]``
            is a list with an entry for each stage.
        v_free: whether V may be wider or narrower than Q and K.
        v_ratio: how many times wider a head of V is than one of K, where the library fixes that.
        no_bias: parts that have no bias of their own where the others have one, which the library takes for zeros.
        paired: parts in whose heads the rows of the first and the second half lie in turn, which transformers has
            one behind the other.
        k_by_share: whether the converter did so to K as if it had as many heads as heads of Q share one of it.
        by_fours: parts in whose heads the first two of each four rows come before the last two of each, where
            transformers has the four side by side.
        biases_stay: whether these are put in another order in the weights alone, and biases are left as they were.
        rotary: which rows of a head the library's rotary embedding turns together, where the layout itself tells.
        rewritten_by: whose converter names the tensors so and may put rows in another order; "": nobody's.
        ranks_for: whose loader takes the model once it is shared out to ranks of tensor parallelism.
        supersedes: ids of rows whose tensors at the same module are stale copies of this row's.
        logits: how the library makes attention logits of Q and K.
        nn_multihead: whether it is torch.nn.MultiheadAttention itself, which ``explain --verify`` can run.
        why: why the rows are what they are, in sentences; "" where that is in ``source``.
        why_stored: why the module has these tensors and not others; ``{k}``, ``{v}`` and ``{embed_dim}`` stand for
            the widths of its inputs.
        glob: for the stored names of the modules that it is for, or these names, where a user said so.
        found_by: how modules of this layout are found.
        note: what readers of the output must be warned of, in a sentence.
    """

    id: str
    libraries: str
    weights: tuple[StoredWeight, ...]
    source: str
    proof: Proof
    layer: str = ""
    label: str = ""
    biases: tuple[StoredWeight, ...] = _USUAL_BIASES
    out: tuple[str, ...] = ()
    out_orientation: Orientation = "out_in"
    extras: tuple[tuple[str, str], ...] = ()
    siblings: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    ratio: int | None = None
    out_ratio: int | None = None
    fed_by: tuple[str, int] | None = None
    model_types: tuple[str, ...] = ()
    flags: Mapping[str, tuple[object, ...]] = _NO_FLAGS
    needs_config: bool = False
    only_told: bool = False
    only_for: tuple[str, ...] = ()
    never_where: tuple[tuple[str, object], ...] = ()
    settled_by: tuple[str, ...] = ()
    ndim: int | None = None
    subheads: tuple[tuple[str, int], ...] = ()
    subheads_apart: bool = False
    kv_heads: KvHeads | Literal["usual"] = "usual"
    tiled_in: tuple[str, ...] = ()
    may_share_kv: bool = False
    q_rows: int | None = None
    square: bool = False
    head_tensors: tuple[HeadTensor, ...] = _USUAL_HEAD_TENSORS
    head_keys: tuple[str, ...] = ()
    v_free: bool = False
    v_ratio: int | None = None
    no_bias: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    k_by_share: bool = False
    by_fours: tuple[str, ...] = ()
    biases_stay: bool = False
    rotary: Turn | None = None
    rewritten_by: Literal["", "llama.cpp"] = ""
    ranks_for: Literal["megatron", "vllm"] = "vllm"
    supersedes: tuple[str, ...] = ()
    logits: Logits = Logits()
    nn_multihead: bool = False
    why: str = ""
    why_stored: str = ""
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    heads_on_all_rows: int = 0
    glob: str | frozenset[str] = "*"
    found_by: FoundBy = "layout"
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the flags, and fill in what a row of this kind usually is."""
        object.__setattr__(self, "flags", frozen(self.flags))
        alone = len(self.weights) == 1
        if self.biases is _USUAL_BIASES:
            object.__setattr__(self, "biases", tuple(_biases(self.weights)))
        if self.kv_heads == "usual":
            object.__setattr__(self, "kv_heads", "equal" if alone else "free")
        if self.head_tensors is _USUAL_HEAD_TENSORS:
            object.__setattr__(self, "head_tensors", QK_NORMS if alone else ())

    def __hash__(self) -> int:
        """Hash only the fields that nearly always differ: there are forty, and caches hash a row for every layer."""
        return hash((self.id, self.weights[0].key))

    @property
    def kind(self) -> Kind:
        """Whether Q, K and V share a tensor."""
        held = [weight.packing.parts for weight in self.weights]
        if any({"q", "k", "v"} <= parts for parts in held):
            return "fused"
        if any({"k", "v"} <= parts for parts in held):
            return "kv-fused"
        return "qk-fused" if any({"q", "k"} <= parts for parts in held) else "separate"


def tiled_by_name(layout: Layout, layer: str) -> bool | None:
    """Whether head h of a module uses kv head h % kv heads, and not its neighbours'; None where names do not tell."""
    if not layout.tiled_in:
        return False
    return any(fnmatchcase(layer, glob) for glob in layout.tiled_in) or None


def _biases(weights: Iterable[StoredWeight]) -> Iterator[StoredWeight]:
    for weight in weights:
        if weight.key.endswith(".weight"):
            yield StoredWeight(weight.key.removesuffix("weight") + "bias", weight.packing)


BIAS_KV = (
    ("bias_k", "one extra key position (add_bias_kv), not a bias of the K projection"),
    ("bias_v", "one extra value position (add_bias_kv), not a bias of the V projection"),
)
"""Extras of nn.MultiheadAttention and fairseq, [1, 1, embed_dim] each."""
