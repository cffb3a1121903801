"""What a config says of a layer's heads, whatever library wrote it: by the words of its sections and keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.scopes import names_a_known_part, stands_in
from qkvinspect.inspection.facts.sections import ConfigSection, Said, of, said
from qkvinspect.inspection.facts.widths import of_another


def facts(origin: str, sections: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact]:
    """What the sections of a config say of a module's heads, the best answer first.

    A section or key whose words name a part of the model speaks of the layers that are named so; what names no part
    speaks of all that no other section claims; and a section whose own name stands nowhere in the file speaks of what
    has its width.
    """
    spoken = [(section, list(said(section, module.layer, module.names))) for section in sections]
    yield from ranked(origin, spoken, module)


def ranked(
    origin: str, spoken: Sequence[tuple[ConfigSection, Sequence[Said]]], module: HeadedModule
) -> Iterator[HeadFact]:
    """The facts of the sections that speak best of a module."""
    found = [
        (_rank(one, every, module), section, one, every)
        for section, every in spoken
        for one in (of(every, "num_heads") or of(every, "head_dim"))
    ]
    speaking = [
        (rank, of_another(section, one.path.removeprefix(section.path), module), one, every)
        for rank, section, one, every in found
        if rank is not None
    ]
    of_its_width = [entry for entry in speaking if not entry[1]] or speaking
    best = min((rank for rank, *_ in of_its_width), default=None)
    if best is None or (best[0] > 0 and _claimed_in_silence(spoken, module)):
        return
    for rank, refuted, one, every in of_its_width:
        if rank == best:
            yield replace(_fact(origin, one, every, module), refuted=refuted)


def of_other_parts(origin: str, sections: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact]:
    """What is said of parts that are named otherwise, with the width of a head: it may be this part's all the same."""
    for section in sections:
        every = list(said(section, module.layer, module.names))
        for one in of(every, "num_heads"):
            fact = _fact(origin, one, every, module)
            if one.claim.missing and fact.head_dim and fact.embed_dim in {None, *module.widths}:
                yield replace(fact, elsewhere=True)


Rank = tuple[int, int, int, int]
"""How well a number applies to a layer; the smaller the better.

First: 0 it is named for the layer; 1 it is of the whole model, and the width that it gives is the layer's; 2 it is of
the whole model and gives no width, or of a part whose name stands nowhere in the file and whose width fits; 3 it is of
the whole model and gives another width. Of those that are named for the layer: whether the widths contradict it; where
in the layer's name the word stands, the outermost first; and less the number of words that they share.
"""


def _rank(one: Said, every: Sequence[Said], module: HeadedModule) -> Rank | None:
    """How well a number applies to a layer; None where it does not."""
    claim = one.claim
    width = _width(one, every, module)
    other = not _is_list(one) and width is not None and width not in module.widths
    if claim.speaks and claim.matched:
        return 0, other or _misses(_fact("", one, every, module), module), claim.position, -claim.matched
    if claim.speaks:
        return (3, 0, 0, 0) if other else (1 if width is not None else 2, 0, 0, 0)
    if any(word in _EITHER or word.isdecimal() or stands_in(word, module.names.words) for word in claim.missing):
        return None
    if width is not None and not other:
        return 2, 0, 0, -claim.matched
    unknown = not any(names_a_known_part(word) for word in claim.missing)
    return (2, 0, 0, -claim.matched) if width is None and unknown else None


_EITHER = frozenset({"self", "cross"})
"""Words that exclude each other: a section for one of them does not apply to layers of the other."""


def _misses(fact: HeadFact, module: HeadedModule) -> bool:
    """Whether heads of the width that a section gives, or that follows from its own, are not what the layer holds."""
    if not module.rows or not fact.num_heads:
        return False
    dim = fact.head_dim
    if dim is None and fact.embed_dim in module.widths and fact.embed_dim:
        dim = fact.embed_dim / fact.num_heads
    return dim is not None and fact.num_heads * dim != module.rows


def _is_list(one: Said) -> bool:
    return one.path.endswith("]")


def _width(one: Said, every: Sequence[Said], module: HeadedModule) -> int | None:
    """The width of the part of the model that a number speaks of; not that of another part."""
    found = _beside(one, of(every, "embed_dim"))
    if found is None or (one.key.roles and not found.key.roles and found.value not in module.widths):
        return None
    return found.value


def _beside(one: Said, others: Sequence[Said]) -> Said | None:
    """Of the numbers in the same section, the one that speaks of the same part of the model."""
    roles = set(one.key.roles)
    fits = [other for other in others if other.claim.speaks or set(other.key.roles) <= roles]
    best = max(fits, key=lambda other: (len(roles & set(other.key.roles)), other.claim.matched), default=None)
    if best is None:
        return None
    rivals = [o for o in fits if o.key.roles == best.key.roles and o.value != best.value]
    return None if rivals else best


def _fact(origin: str, one: Said, every: Sequence[Said], module: HeadedModule) -> HeadFact:
    kv = _beside(one, of(every, "num_kv_heads"))
    width = _width(one, every, module)
    if one.key.means == "head_dim":
        return HeadFact(f"{origin}:{one.path}", None, kv.value if kv else None, one.value, width)
    dim = _head_dim(one, every)
    return HeadFact(f"{origin}:{one.path}", one.value, kv.value if kv else None, dim, width)


def _head_dim(one: Said, every: Sequence[Said]) -> int | None:
    """Rows of a head of Q; of latent attention the sum of those with and without a position."""
    nope, rope = (_beside(one, of(every, means)) for means in ("nope_dim", "rope_dim"))
    if nope and rope:
        return nope.value + rope.value
    dim = _beside(one, of(every, "head_dim"))
    return dim.value if dim and not nope else None


def _claimed_in_silence(spoken: Sequence[tuple[ConfigSection, Sequence[Said]]], module: HeadedModule) -> bool:
    """Whether a section for a part with a config of its own speaks of the layer and gives no heads."""
    silent = (section for section, every in spoken if section.keys and not of(every, "num_heads"))
    described = (section for section in silent if _describes_a_model(section.values))
    return any(claim.matched for claim, _ in module.speaking(described))


def _describes_a_model(values: Mapping[str, object]) -> bool:
    named = [values.get(key) for key in ("model_type", "architecture", "_class_name")]
    return any(isinstance(name, str) and name for name in named)
