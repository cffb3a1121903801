"""What is left of projections that make up no attention that can be cut, and why they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from qkvinspect.inspection.kernels import is_convolution
from qkvinspect.inspection.leftovers import OF_FACTORS, Leftover, leftover
from qkvinspect.inspection.possible_layouts import columns_of
from qkvinspect.inspection.projections import LEAVES, ProjectingModule, Projection
from qkvinspect.inspection.three_axes import mix_three
from qkvinspect.inspection.two_steps import STEPS
from qkvinspect.inspection.words import MOMENTS, is_no_projection, speaks_of_attention, tokens

_PROJECTS = frozenset({"proj", "projection", "to"})


_KEPT = frozenset({"memory", "mem", "memories", "persistent", "bank", "null"})
"""Words of keys and values that are parameters themselves."""


_LOW_RANK = frozenset({"a", "b", "down", "up", "compress", "compressed"})
"""Words of a projection in two steps, whose first or second half alone is none."""


_LOOKED_UP = frozenset(
    [*("ffn", "ff", "mlp", "feed", "forward", "channel", "cmix"), *("store", "db", "table", "dict", "datastore")]
)
"""Words of modules whose keys and values are no projections of attention."""


FEW = 16
"""Rows below which a name must say that it is attention: a classifier has as few."""


HEADS_OF_TASKS = frozenset({"head", "heads"})
"""What follows the word where ``q_head`` estimates Q, as of a critic."""


EVEN = 8
"""What the rows of a projection are a multiple of, where no name says that it is attention."""


def unexplained(module: ProjectingModule, sets: Sequence[Sequence[Projection]]) -> Iterator[Leftover]:
    """What is left unexplained of a module that is called attention, or has a tensor of q, k and v."""
    if "sampling_offsets" in module.beside:
        return
    called = any(map(speaks_of_attention, module.path))
    listed = _lists_of_each(sets)
    for some in listed:
        parts = [part.upper() for part in "qkv" if part in some[0].parts]
        why = f"a list of {len(some)}, which may be one for each of {', '.join(parts[:-1])} and {parts[-1]}"
        queries = [one for one in module.lone if one.parts == "q"] if len(some) == 2 else []
        yield leftover(module, [*queries, *some], why, lone=False)
    for some in (some for some in sets if not any(some[0] in others for others in listed)):
        by_name = len(some) == 1 and len(some[0].parts) == 3 and some[0].key[0] != "in_proj"
        mixed = mix_three(some) and not _are_looked_up(some)
        beside = _are_few(some, module) or _lack_a_query(some, module) or _score_with_others(some, module)
        if called or by_name or mixed or beside:
            lone = len(parts_of(some)) < 3 or (is_low_rank(some) and not mix_three(some))
            no_row = OF_FACTORS if is_low_rank(some) else ""
            yield leftover(module, some, _why(some, module, lone=lone), lone=lone, no_row=no_row)
    second = _second_scores(module)
    if second:
        yield leftover(module, second, "Q and K once more, with a number, and no V beside them", lone=False)
    more = [one for one in module.lone if len(one.parts) > 3]
    if more:
        yield leftover(module, more, "more than Q, K and V in one tensor", lone=True)
    elif (called or _are_scored(module)) and len(parts_of(module.lone)) > 1:
        yield leftover(module, module.lone, "no Q, K and V of one kind", lone=True)
    elif called and not sets and _is_outlook(module):
        yield leftover(
            module, module.lone, "v and weights that the token alone gives, as in outlook attention", lone=False
        )
    elif not sets and _is_query_alone(module, called=called):
        kept = sorted(name for name in module.beside if not _KEPT.isdisjoint(tokens(name)))
        where = f"may be {' and '.join(kept)}" if kept else "are made elsewhere"
        why = f"q alone, and an output that reads it: its keys and values {where}"
        yield leftover(module, module.lone, why, lone=True)


def _second_scores(module: ProjectingModule) -> Sequence[Projection]:
    """Q and K that are numbered, beside Q, K and V that are not: SAN scores pairs that are no edges so."""
    numbered = [one for one in module.lone if any(map(str.isdecimal, one.word.after)) and one.index is None]
    alike = len({(one.word.affix, one.weight.shape) for one in numbered}) == 1
    return numbered if module.sets and alike and sorted(one.parts for one in numbered) == ["k", "q"] else []


def _lists_of_each(sets: Sequence[Sequence[Projection]]) -> list[list[Projection]]:
    """Lists under one word with as many alike as it has letters: ``qkv.0``, ``qkv.1`` and ``qkv.2``, or two of K and V.

    Heads have lists as well: those are narrower than what they read.
    """
    lists: dict[tuple[str, ...], list[Projection]] = {}
    for some in sets:
        if len(some) == 1 and some[0].index is not None and len(some[0].parts) > 1:
            lists.setdefault((some[0].key[0], some[0].parts), []).append(some[0])
    return [
        some
        for (_, parts), some in lists.items()
        if len(some) == len(parts)
        and len({one.weight.shape for one in some}) == 1
        and (len(some) == 3 or not some[0].is_head)
    ]


def are_three_words(some: Sequence[Projection]) -> bool:
    """Whether these are one layer for each of Q, K and V, and their names differ in nothing but the word for it."""
    return (
        sorted(one.parts for one in some) == ["k", "q", "v"]
        and all(one.plain and one.key[-1] in LEAVES for one in some)
        and len({(one.word.affix, one.word.spelling, one.key[1:]) for one in some}) == 1
        and not are_moments(some)
    )


def _score_with_others(some: Sequence[Projection], module: ProjectingModule) -> bool:
    """Whether three layers read one width, and Q and K are as wide as each other: so they are scored.

    V is as wide as what it reads, or all rows are even; classifiers of three kinds have any number of them.
    """
    shapes = {one.parts: one.weight.shape[:2] for one in some}
    return (
        are_three_words(some)
        and shapes["q"] == shapes["k"]
        and len({cols for _, cols in shapes.values()}) == 1
        and (shapes["v"][0] == shapes["v"][1] or all(rows % EVEN == 0 for rows, _ in shapes.values()))
        and not any(HEADS_OF_TASKS.intersection(one.word.after) for one in some)
        and not any(map(is_no_projection, module.path[-1:]))
    )


def _lack_a_query(some: Sequence[Projection], module: ProjectingModule) -> bool:
    """Whether K and V of one shape stand in a module that nothing calls attention: their query is elsewhere.

    A feed-forward layer (RWKV's) and a store that is looked up have keys and values as well.
    """
    rows = [one.weight.shape[0] for one in some]
    return (
        parts_of(some) == {"k", "v"}
        and all(one.plain and one.key[-1] in LEAVES for one in some)
        and len({one.weight.shape for one in some}) == 1
        and all(count >= FEW and count % EVEN == 0 for count in rows)
        and not is_low_rank(some)
        and not are_moments(some)
        and all(_LOOKED_UP.isdisjoint(tokens(part)) and not is_no_projection(part) for part in module.path[-2:])
    )


def _is_outlook(module: ProjectingModule) -> bool:
    """Whether V stands beside what VOLO computes its weights with, and an output projection (timm/models/volo.py)."""
    return [one.parts for one in module.lone] == ["v"] and "attn" in module.beside and bool(module.outputs)


def _is_query_alone(module: ProjectingModule, *, called: bool) -> bool:
    """Whether a query projection stands beside an output projection that reads as many rows as it makes.

    Where nothing calls it attention, both must be called projections: ``q`` beside ``out`` may be a critic.
    """
    if len({word for name in module.beside for word in STEPS.intersection(tokens(name))}) > 1:
        return False  # K and V are there, in two steps
    if not called and not all(_PROJECTS & set(tokens(name)) for name in _query_and_output(module)):
        return False
    widths = {columns_of(info) for _, info in module.outputs}
    return [one.parts for one in module.lone] == ["q"] and module.lone[0].weight.shape[0] in widths


def _query_and_output(module: ProjectingModule) -> Sequence[str]:
    return [*(one.key[0] for one in module.lone), *(key[0] for key, _ in module.outputs)]


def _are_scored(module: ProjectingModule) -> bool:
    """Whether Q and K are there, alike, beside an output projection, and V goes by another name (Demucs: content).

    Or there is none, as where Linformer shares one projection for both. Letters alone must be called projections.
    """
    held = [
        one
        for one in module.lone
        if one.plain and (one.word.spelling == "long" or _PROJECTS.intersection(tokens(one.key[0])))
    ]
    if not module.outputs:
        return False
    if [set(one.parts) for one in held] == [{"q", "k"}]:
        return True  # the gated attention unit makes both of one
    queries, keys = ([one.weight.shape for one in held if one.parts == part] for part in "qk")
    return any(q[1:] == k[1:] and q[0] % k[0] == 0 for q in queries for k in keys)


def _why(some: Sequence[Projection], module: ProjectingModule, *, lone: bool) -> str:
    """Why projections are not taken for attention."""
    if lone:
        return f"{' and '.join(sorted(parts_of(some)))} alone"
    if _are_few(some, module):
        return "few rows, as classifiers of three kinds have too"
    if {one.parts for one in some if len(one.key) == 1} == {"k", "v"}:
        return "K and V are parameters beside a query that is a layer, as the slots of a memory are"
    if are_moments(some):
        return "the words are those of a distribution"
    if is_additive(some):
        return "V is a single row: additive attention scores with it and projects no values"
    if all(map(has_more_axes, some)):
        return "more than two axes, and nothing says what they count"
    if _are_looked_up(some):
        return "K is a parameter of three axes, as in a memory whose keys are looked up"
    if mix_three(some):
        return "some have three axes and some two: heads of a latent attention, which no layout describes yet"
    return "the shapes are not those of Q, K and V"


def _are_looked_up(some: Sequence[Projection]) -> bool:
    """Whether K alone is a parameter itself, of more axes than two: the product keys of a memory."""
    more = [one for one in some if len(one.weight.shape) > 2]
    return [one.parts for one in more] == ["k"] and more[0].key[-1] not in LEAVES


def is_low_rank(projections: Sequence[Projection]) -> bool:
    """Whether it is one factor of projections that are products of two."""
    return len(projections) < 3 and any(_LOW_RANK.intersection(one.word.affix) for one in projections)


def is_additive(projections: Sequence[Projection]) -> bool:
    """Whether these are Bahdanau's: V is the vector that the sums of Q and K are scored with."""
    rows = {one.parts: one.weight.shape[0] for one in projections}
    return rows.get("v") == 1 and rows.get("q") == rows.get("k") != 1


def are_moments(projections: Sequence[Projection]) -> bool:
    """Whether they are called the mean or the spread of what q, k and v stand for."""
    return any(not MOMENTS.isdisjoint(one.word.affix) or MOMENTS & set(one.key[1:]) for one in projections)


def parts_of(projections: Sequence[Projection]) -> set[str]:
    return {part for one in projections for part in one.parts}


def _are_few(projections: Sequence[Projection], module: ProjectingModule) -> bool:
    """Whether they would stand alone, but for how few rows they have: too few to say, too even to pass over."""
    rows = [one.weight.shape[0] for one in projections]
    return (
        len(parts_of(projections)) == 3
        and all(one.plain and len(one.parts) == 1 for one in projections)
        and all(count < FEW and count % EVEN == 0 for count in rows)
        and not any(map(is_no_projection, module.path[-1:]))
        and not any(map(speaks_of_attention, module.path))
        and not are_moments(projections)
    )


def has_more_axes(one: Projection) -> bool:
    """Whether it has axes beside rows and columns that are those of no convolution."""
    shape = one.weight.shape
    return prod(shape[2:]) > 1 and not is_convolution(shape, one.key[-1])
