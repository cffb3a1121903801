"""What a config says of a layer's heads, whatever library wrote it: by the words of its sections and keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import Module
from qkvinspect.inspection.facts.scopes import names_a_known_part
from qkvinspect.inspection.facts.sections import Said, Section, of, said


def facts(origin: str, sections: Sequence[Section], module: Module) -> Iterator[HeadFact]:
    """What the sections of a config say of a module's heads, the best answer first.

    A section or key whose words name a part of the model speaks of the layers that are named so; what names no part
    speaks of all that no other section claims; and a section whose own name stands nowhere in the file speaks of what
    has its width.
    """
    spoken = [(section, list(said(section, module.layer, module.names))) for section in sections]
    yield from ranked(origin, spoken, module)


def ranked(origin: str, spoken: Sequence[tuple[Section, Sequence[Said]]], module: Module) -> Iterator[HeadFact]:
    """The facts of the sections that speak best of a module."""
    found = [
        (_rank(one, every, module), one, every)
        for _, every in spoken
        for one in (of(every, "num_heads") or of(every, "head_dim"))
    ]
    best = min((rank for rank, *_ in found if rank is not None), default=None)
    if best is None or (best[0] > 0 and _claimed_in_silence(spoken, module)):
        return
    for rank, one, every in found:
        if rank == best:
            yield _fact(origin, one, every)


Rank = tuple[int, int, int, int]
"""What is smaller speaks better: whether it is named for the layer; whether its width is another; where in the
layer's name its word stands; how many words it shares with it."""


def _rank(one: Said, every: Sequence[Said], module: Module) -> Rank | None:
    """How well a number speaks of a layer; None where it does not."""
    claim = one.claim
    width = _width(one, every)
    other = not _is_list(one) and width is not None and width not in module.widths
    if claim.speaks and claim.matched:
        return 0, other, claim.position, -claim.matched
    if claim.speaks:
        return (3 if other else 1), other, claim.position, 0
    if any(word in module.names.words for word in claim.missing):
        return None
    if width is not None and not other:
        return 2, 0, 0, -claim.matched
    unknown = not any(names_a_known_part(word) for word in claim.missing)
    return (4, 0, 0, -claim.matched) if width is None and unknown else None


def _is_list(one: Said) -> bool:
    return one.path.endswith("]")


def _width(one: Said, every: Sequence[Said]) -> int | None:
    found = _beside(one, of(every, "embed_dim"))
    return found.value if found else None


def _beside(one: Said, others: Sequence[Said]) -> Said | None:
    """Of the numbers in the same section, the one that speaks of the same part of the model."""
    roles = set(one.key.roles)
    fits = [other for other in others if other.claim.speaks or set(other.key.roles) <= roles]
    best = max(fits, key=lambda other: (len(roles & set(other.key.roles)), other.claim.matched), default=None)
    if best is None:
        return None
    rivals = [o for o in fits if o.key.roles == best.key.roles and o.value != best.value]
    return None if rivals else best


def _fact(origin: str, one: Said, every: Sequence[Said]) -> HeadFact:
    kv = _beside(one, of(every, "num_kv_heads"))
    width = _width(one, every)
    if one.key.means == "head_dim":
        return HeadFact(f"{origin}:{one.path}", None, kv.value if kv else None, one.value, width)
    dim = _beside(one, of(every, "head_dim"))
    return HeadFact(
        f"{origin}:{one.path}", one.value, kv.value if kv else None, dim.value if dim else None, width
    )


def _claimed_in_silence(spoken: Sequence[tuple[Section, Sequence[Said]]], module: Module) -> bool:
    """Whether a section for a part with a config of its own speaks of the layer and gives no heads."""
    for section, every in spoken:
        if section.keys and _describes_a_model(section.values) and not of(every, "num_heads"):
            if module.claim(section).speaks and module.claim(section).matched:
                return True
    return False


def _describes_a_model(values: Mapping[str, object]) -> bool:
    return any(isinstance(values.get(key), str) for key in ("model_type", "architecture", "_class_name"))
