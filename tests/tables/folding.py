"""A model's modules and numbers, folded into the patterns of a table; and the table's file."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import qkvinspect.inspection.facts.tables as tables

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
TABLES = Path(tables.__file__).parent

Answer = int | str | list[int]


def fold(numbers: Mapping[str, int]) -> dict[str, Answer]:
    """The patterns that give each module its number (see ``qkvinspect.inspection.facts.tables``); 0 is none."""
    alike: dict[str, dict[tuple[int, ...], int]] = defaultdict(dict)
    for path, number in numbers.items():
        alike[NUMBER.sub("*", path)][tuple(int(found) for found in NUMBER.findall(path))] = number
    folded: dict[str, Answer] = {}
    for template, places in alike.items():
        if len(set(places.values())) > 1:
            folded |= min((_by(template, places, axis) for axis in range(template.count("*"))), key=len)
        elif (number := _most(places.values())) > 0:
            folded[template] = number
    return dict(sorted(folded.items()))


def _by(template: str, places: Mapping[tuple[int, ...], int], axis: int) -> dict[str, Answer]:
    """A list by one of the path's numbers; what differs from it stands under its own path."""
    by: dict[int, list[int]] = defaultdict(list)
    for at, number in places.items():
        by[at[axis]].append(number)
    column = [_most(by[index]) if index in by else 0 for index in range(max(by) + 1)]
    differing = {_path(template, at): number for at, number in places.items() if number != column[at[axis]]}
    return {_hash(template, axis): column} | differing


def _most(numbers: Iterable[int]) -> int:
    """The most frequent number; of equally frequent ones that which came in last, as in the deeper blocks."""
    counts = Counter(numbers)
    return max(reversed(list(counts)), key=lambda number: counts[number])


def _path(template: str, at: tuple[int, ...]) -> str:
    parts = template.split("*")
    return parts[0] + "".join(f"{number}{part}" for number, part in zip(at, parts[1:], strict=True))


def _hash(template: str, axis: int) -> str:
    parts = template.split("*")
    return "*".join(parts[: axis + 1]) + "#" + "*".join(parts[axis + 1 :])


def write(library: str, version: str, answers: Mapping[str, Mapping[str, Mapping[str, Answer]]]) -> None:
    """Write a library's table, a row a line: models with the same answer share one."""
    alike: dict[str, list[str]] = defaultdict(list)
    for model, answer in sorted(answers.items()):
        alike[json.dumps({key: of for key, of in answer.items() if of})].append(model)
    rows = sorted(alike.items(), key=lambda row: row[1])
    lines = [json.dumps({"models": models} | json.loads(answer)) for answer, models in rows if answer != "{}"]
    text = ",\n".join(lines)
    head = f'"source": "{library} {version}"'
    (TABLES / f"{library}.json").write_text(f'{{{head}, "rows": [\n{text}\n]}}\n', encoding="utf-8")
