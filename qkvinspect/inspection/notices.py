"""Findings of inspection about heads, packings and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import UsageError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection import solve as geometry
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.pairing import about_pairing
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.verdict import ORDER, Evidence, Verdict, exchanged
from qkvinspect.layouts.packing import describe
from qkvinspect.tensor_table import each_kind
from qkvinspect.weights.weight import Weight

SURE_TO_CONTRADICT = 0.999
_OTHER_INPUTS = "torch-mha-split"


def about_heads(layer: str, solution: geometry.Solution) -> Iterator[Finding]:
    """Findings about how the number of heads was determined, or why it was not."""
    for fact, reason in solution.rejected:
        if fact.said_by is SaidBy.FLAG:
            raise UsageError(f"--heads does not fit layer {layer!r}: {reason}", hint="see the shapes in `show`")
        same = solution.geometry is not None and solution.geometry.num_heads == fact.num_heads
        if fact.num_heads is not None and not (solution.known and (fact.refuted or same)):
            text = f"{fact.origin} says {fact.num_heads} heads, but {reason}"
            yield Finding(FindingCode.HEADS_DO_NOT_FIT, text, layer)
    if solution.fact is not None:
        if solution.explained and solution.geometry is not None:
            text = f"it holds {solution.geometry.num_heads} heads, {solution.explained} ({solution.fact.origin})"
            said, held = solution.fact, solution.geometry
            as_many = said.num_heads == held.num_heads and said.num_kv_heads not in (None, held.num_kv_heads)
            yield Finding(FindingCode.HEADS_DISAGREE if as_many else FindingCode.HEADS_FEWER, text, layer)
        for fact, sizes in solution.disagreeing:
            if fact.said_by is not solution.fact.said_by:
                used = "--heads" if solution.fact.said_by is SaidBy.FLAG else solution.fact.origin
                text = f"{used} was used, but {fact.origin} says {describe(sizes)}"
                yield Finding(FindingCode.HEADS_DISAGREE, text, layer)
        return
    if solution.disagreeing:
        said = "; ".join(
            f"{fact.origin} says {fact.num_heads or sizes.num_heads}" for fact, sizes in solution.disagreeing
        )
        yield Finding(FindingCode.HEADS_AMBIGUOUS, f"{said}: --heads N settles it", layer)
    elif solution.unlike:
        yield Finding(FindingCode.HEADS_UNKNOWN, solution.unlike, layer)
    elif solution.geometry is not None:
        said = any(fact.num_heads for fact, _ in solution.rejected)
        text = (
            "no source's number of heads fits the rows" if said else "the number of heads is in no tensor and no config"
        )
        text += ": --heads N sets it"
        if solution.possible:
            text += f"; possible: {', '.join(map(str, solution.possible[:16]))}"
            text += ", ..." if len(solution.possible) > 16 else ""
        yield Finding(FindingCode.HEADS_UNKNOWN, text, layer)
    else:
        text = "it cannot be split without the number of heads: --heads N or --heads N/KV sets it"
        yield Finding(FindingCode.HEADS_NEEDED, text, layer)


def about_evidence(
    attention: Attention, evidence: Evidence, packing: str, *, of_others: bool = False
) -> Iterator[Finding]:
    """Findings where the weights contradict other sources, or were the only source.

    Args:
        packing: that of the layout, in words.
        of_others: whether the source of the heads has one number for stacks of several names, and so may mean another.
    """
    layer = attention.layer
    if evidence.turned is not None:
        text = "the weights say that this matrix is stored the other way round than its layout has it"
        if evidence.turned.confidence > SURE_TO_CONTRADICT:
            yield Finding(FindingCode.ORIENTATION_AGAINST_WEIGHTS, f"{text} {_sure(evidence.turned)}", layer)
        return
    packings, heads, known = evidence.packings, evidence.heads, attention.heads
    yield from about_pairing(attention, heads)
    if packings is not None and packings.best.label == exchanged(packing) and "per kv head" in packing:
        return  # of heads that share one of K any may look like it
    if packings is not None and packings.decided and not evidence.as_declared:
        text = f"the layout says {packing}, the weights say {packings.best.words(known and known.num_heads)}"
        said = packings.best.label
        if {"q", "k"} <= {*said.replace(",", " ").split()} and not packings.weighs(exchanged(said)):
            text += ", or that with Q and K exchanged"
        yield Finding(FindingCode.PACKING_AGAINST_WEIGHTS, f"{text} {_sure(packings)}", layer)
    elif heads is None or not heads.decided:
        return
    elif not evidence.as_declared:
        return  # the heads are those of a packing that the weights do not speak for
    elif attention.heads_said_by is SaidBy.WEIGHTS:
        text = f"{heads.best.num_heads} heads{_tiled(attention)} are inferred from the weights alone"
        yield Finding(FindingCode.HEADS_FROM_WEIGHTS, f"{text} {_sure(heads)}", layer)
    elif (
        known is not None
        and heads.best.num_heads != known.num_heads
        and (of_others or heads.confidence > SURE_TO_CONTRADICT)
    ):
        text = f"{attention.heads_from} says {known.num_heads} heads, the weights say {heads.best.num_heads}"
        yield Finding(FindingCode.HEADS_AGAINST_WEIGHTS, f"{text} {_sure(heads)}", layer)


def _tiled(attention: Attention) -> str:
    """How heads use kv heads, where that is unusual."""
    heads = attention.heads
    return f", of which h uses kv head h % {heads.num_kv_heads}," if heads is not None and heads.tiled else ""


def said_of_none(packings: Verdict, *, equal: bool) -> str:
    """What the weights say where that is none of a module's candidates.

    Args:
        equal: whether Q has as many rows as K, so that nothing tells which is which.
    """
    said = packings.best.label
    both = f"{said[:ORDER]} or {exchanged(said)}" if equal and "; " not in said else said
    return f"none of these is what the weights say, {both} {_sure(packings)}"


def _sure(verdict: Verdict) -> str:
    percent = min(int(verdict.confidence * 10_000) / 100, 99.99)
    return f"({percent:g} % sure; `qkvinspect explain --evidence` shows why)"


def about_emptiness(tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Weights without elements, as a model in DeepSpeed ZeRO-3 or FSDP leaves them where it is saved as it stands."""
    if not any(0 in kind.shape for kind in each_kind(tensors)):
        return
    empty = [
        name
        for name, info in tensors.items()
        if 0 in info.shape and name.endswith(("weight", "bias")) and info.dtype.kind == "float"
    ]
    if empty:
        text = (
            f"{empty[0]} {list(tensors[empty[0]].shape)} and {len(empty) - 1} more of {len(tensors)} tensors have no"
            " elements: parameters were saved before they were gathered; run DeepSpeed's zero_to_fp32.py on the"
            " checkpoint, or save with stage3_gather_16bit_weights_on_model_save"
        )
        yield Finding(FindingCode.EMPTY_WEIGHTS, text)


def about_values(layer: str, weights: Iterable[Weight]) -> Iterator[Finding]:
    """Why a module has no values, where that is known."""
    lost = next((weight for weight in weights if weight.why), None)
    if lost is not None:
        yield Finding(FindingCode.NO_VALUES, f"{lost.name} has no values: {lost.why}", layer)


def about_inputs(attention: Attention) -> Iterator[Finding]:
    """Report K and V of one layer that take different inputs.

    They read the same place, but for nn.MultiheadAttention's kdim and vdim, and for what a graph shows. Q may read
    another one: the other stream, or what a first step made smaller, as in latent attention.
    """
    if attention.layout is None or attention.layout.id == _OTHER_INPUTS or attention.layout.found_by == "graph":
        return
    taken = {part.name: part.shape[1] for part in attention.parts if part.name in ("q", "k", "v")}
    if "k" in taken and "v" in taken and taken["k"] != taken["v"]:
        text = ", ".join(f"{name.upper()} takes {width} inputs" for name, width in taken.items())
        yield Finding(FindingCode.PROJECTION_SHAPE, f"{text}: K and V should read the same ones", attention.layer)


def about_numbers(attention: Attention) -> Iterator[Finding]:
    """Findings about the norms, or why there are none."""
    for part in attention.parts:
        for what, measure in (("", part.measured), (" bias", part.bias_measured)):
            if measure is not None and measure.nonfinite:
                text = f"{part.name.upper()}{what} holds {measure.nonfinite_words}"
                yield Finding(FindingCode.NONFINITE, text, attention.layer)
    lost = next((weight for weight in attention.weights if weight.no_values), None)
    if lost is not None and not lost.why:
        text = f"quantised: {lost.no_values}, so there are no norms"
        yield Finding(FindingCode.NO_NORMS, text, attention.layer)
