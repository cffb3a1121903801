"""Split a module's tensors into Q, K and V, and these into heads where their number is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection import solve as geometry
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_heads
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.inspection.sizes import rows_of
from qkvinspect.inspection.three_axes import bias_keys
from qkvinspect.inspection.weighed import weighed
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.layout import tiled_by_name
from qkvinspect.layouts.packing import Geometry, split_rows
from qkvinspect.weights.weight import Weight, plain

_MAIN = ("q", "k", "v")


def unsplit(found: Match) -> Attention:
    """A module of which only the tensors are known."""
    candidate = found.candidates[0]
    return Attention(
        layer=candidate.layer,
        layout=None,
        layout_from=found.layout_from,
        candidates=tuple(dict.fromkeys(c.layout.id for c in found.candidates)),
        tensors={"weight": candidate.weights[0].name},
        dtype=candidate.weights[0].dtype.name,
        embed_dim=None,
        weights=candidate.weights,
        found_by=candidate.layout.found_by,
    )


def split(
    base: Attention, candidate: Candidate, names: Names, facts: Iterable[HeadFact]
) -> tuple[Attention, list[Finding]]:
    """Cut a module's tensors.

    Args:
        facts: what is known of its heads, the most trusted first.

    Raises:
        LayoutError: the shapes are not those of the candidate's layout.
    """
    layout = candidate.layout
    shapes = candidate.shapes
    candidate.require_square()
    out = names.find_first(layout.out, candidate.path)
    out_features = None
    if out is not None and len(out.shape) > 1:
        out_features = out.as_shape(layout.out_orientation)[1]
    facts = tuple(facts)
    solution = geometry.solve(candidate, out_features, facts)
    findings = list(about_heads(candidate.layer, solution))
    biases = [(stored, _vector(names.find(stored.key, candidate.path))) for stored in layout.biases]
    extras = tuple(
        (info, meaning) for key, meaning in layout.extras if (info := names.find(key, candidate.path)) is not None
    )
    sizes = _with_pairing(solution, candidate)
    parts = list(_parts(candidate, biases, sizes)) if sizes is not None else []
    out_bias = _bias_of(out, names) if out is not None else None
    for info, meaning in extras:
        findings.append(Finding(FindingCode.EXTRA_POSITION, f"{info.name} is {meaning}", candidate.layer))
    attention = replace(
        base,
        layout=layout,
        tensors=_tensor_names(layout, candidate.weights, biases, out, out_bias),
        embed_dim=shapes[0][1],
        geometry=sizes,
        heads_fact=solution.fact,
        possible_heads=solution.possible,
        weighed_facts=tuple(weighed(facts, solution)),
        parts=tuple(sorted((part for part in parts if part.name in _MAIN), key=lambda part: _MAIN.index(part.name))),
        others=tuple(part for part in parts if part.name not in _MAIN),
        output=_output(layout, out, sizes, out_bias) if out is not None else None,
        out_bias=out_bias,
        biases=tuple(info for _, info in biases if info is not None),
        out=out,
        extras=extras,
    )
    return attention, findings


def _with_pairing(solution: geometry.Solution, candidate: Candidate) -> Geometry | None:
    """The sizes with which kv head a head uses, where the layout alone does not tell."""
    sizes = solution.geometry
    if sizes is None or sizes.num_kv_heads in (1, sizes.num_heads):
        return sizes
    return replace(sizes, tiled=tiled_by_name(candidate.layout, candidate.layer))


def _bias_of(out: Weight, names: Names) -> Weight | None:
    """The bias of an output projection, by the names that stand beside its own: ``b_O`` beside ``W_O``."""
    keys = bias_keys(names.paths[out.name][-1])
    return next((found for key in keys if (found := names.find_sibling(out.name, key)) is not None), None)


def _vector(bias: Weight | None) -> Weight | None:
    return None if bias is None else as_vector(bias)


def as_vector(bias: Weight) -> Weight:
    """A bias [heads, head_dim], or of more axes, as the vector that it is."""
    if bias.encoding is not None or len(bias.shape) < 2 or (info := bias.info) is None:
        return bias
    return plain(replace(info, shape=(info.numel,), strides=(1,))) if info.contiguous and info.numel else bias


def _parts(
    candidate: Candidate, biases: Sequence[tuple[StoredWeight, Weight | None]], sizes: Geometry
) -> Iterator[Part]:
    """Every part that the module's tensors hold, in their order."""
    layout, shapes = candidate.layout, candidate.shapes
    bias_rows = {
        part: (bias, rows)
        for stored, bias in biases
        if bias is not None
        for part, rows in split_rows(stored.packing, sizes, bias.numel).items()
    }
    every = rows_of(layout, sizes, [total for total, _ in shapes])
    for weight, stored, shape, rows in zip(candidate.weights, layout.weights, shapes, every, strict=True):
        for name, heads in rows.items():
            yield Part(name, weight, stored.orientation, shape[1], heads, *bias_rows.get(name, (None, ())))


def _output(layout: Layout, out: Weight, sizes: Geometry | None, bias: Weight | None) -> Part | None:
    """The output projection by the columns that read each head; as one where its heads cannot be told apart."""
    if len(out.shape) < 2:
        return None
    rows, cols = out.as_shape(layout.out_orientation)
    count = sizes.num_heads if sizes is not None and cols % sizes.num_heads == 0 else 1
    width = cols // count
    heads = tuple(range(head * width, (head + 1) * width) for head in range(count))
    return Part("out", out, layout.out_orientation, rows, heads, bias, (range(rows),) if bias is not None else ())


def _tensor_names(
    layout: Layout,
    weights: Sequence[Weight],
    biases: Sequence[tuple[StoredWeight, Weight | None]],
    out: Weight | None,
    out_bias: Weight | None,
) -> dict[str, str]:
    """The stored tensors by role: ``weight`` and ``bias`` where one holds all parts, else ``q``, ``q_bias``..."""
    found: dict[str, str] = {}
    for stored, info in zip(layout.weights, weights, strict=True):
        found[_role(stored, "weight")] = info.name
    for stored, info in biases:
        if info is not None:
            role = _role(stored, "bias")
            found[role if role == "bias" else f"{role}_bias"] = info.name
    if out is not None:
        found["out"] = out.name
        if out_bias is not None:
            found["out_bias"] = out_bias.name
    return found


def _role(stored: StoredWeight, whole: str) -> str:
    parts = stored.packing.parts & {"q", "k", "v"}
    return whole if len(parts) == 3 else "".join(sorted(parts, key="qkv".index))
