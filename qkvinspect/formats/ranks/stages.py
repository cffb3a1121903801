"""Renumber the layers of pipeline stages: each stage counts its own from 0, or as the whole model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.late_pattern import late_pattern

_LAYER = late_pattern(r"(?P<before>(?:.*?\.)?(?:layers|h|blocks|layer))\.(?P<number>\d{1,9})(?P<after>\..+)")
_CHUNK = late_pattern(r"model(?P<chunk>\d{1,4})\.(?P<name>.+)")


def in_line(stages: Sequence[Sequence[str]], folder: str) -> list[dict[str, str]]:
    """For each stage, what its tensors are called in the whole model.

    A stage of an interleaved pipeline (``model0``, ``model1`` ...: Megatron's virtual stages) holds several chunks of
    layers; the first chunk of every stage comes before the second of any.

    Raises:
        CheckpointError: stages are of different models.
    """
    found: list[dict[str, str]] = [{} for _ in stages]
    chunks = [_chunks(names) for names in stages]
    if len({len(held) for held in chunks}) > 1:
        raise CheckpointError(
            "has stages with different numbers of virtual stages",
            code=Code.RANKS,
            file=folder,
            expected="as many in each",
            found=", ".join(str(len(held)) for held in chunks),
            hint="the files are of different checkpoints: copy the whole folder again",
        )
    done: dict[str, int] = {}
    for chunk in range(max(map(len, chunks), default=0)):
        for stage, held in enumerate(chunks):
            found[stage] |= dict(_shifted(held[chunk], done))
    return found


def _chunks(names: Sequence[str]) -> list[dict[str, str]]:
    """The chunks of a stage: from stored names to names without the chunk's own."""
    matches = [_CHUNK.fullmatch(name) for name in names]
    if not names or None in matches:
        return [{name: name for name in names}]
    found: dict[int, dict[str, str]] = {}
    for match in matches:
        if match is not None:
            found.setdefault(int(match["chunk"]), {})[match.string] = match["name"]
    return [found[number] for number in sorted(found)]


def _shifted(names: dict[str, str], done: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Shift layer numbers behind those of the stages before, unless they are counted through already."""
    layers = {old: match for old, name in names.items() if (match := _LAYER.fullmatch(name))}
    numbers: dict[str, set[int]] = {}
    for match in layers.values():
        numbers.setdefault(match["before"], set()).add(int(match["number"]))
    shift = {before: done.get(before, 0) if min(held) < done.get(before, 0) else 0 for before, held in numbers.items()}
    for old, name in names.items():
        match = layers.get(old)
        if match is None:
            yield old, name
        else:
            number = int(match["number"]) + shift[match["before"]]
            yield old, f"{match['before']}.{number}{match['after']}"
    for before, held in numbers.items():
        done[before] = max(done.get(before, 0), max(held) + shift[before] + 1)
