"""The mutations that a campaign tries, and what became of each: ``tried.tsv``, from which ``MUTATIONS.md`` is written.

    python -m tests.mutation.sample --draw 500 --seed 20
    python -m tests.mutation.sample

The first draws them, as many of each room; the second writes the tables anew. What became of one is *killed* (with the
test that noticed), *survived* (with how many tests did not), *uncovered* (no mapped test runs it), or, written there by
hand with the reason, *equivalent*; *gone* is one whose code is there no more.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tests.mutation.mutate import ROOT, Name, how_many, mutant, names

HERE = Path(__file__).parent
TRIED = HERE / "tried.tsv"
TABLES = HERE / "MUTATIONS.md"
ADDED = HERE / "added.txt"
"""The functions of tests that were added for survivors, one a line."""
BEGIN = "<!-- written by sample.py from here on -->"

ROOMS = (
    "layouts/packing.py",
    "weights",
    "formats",
    "diff",
    "export",
    "checks",
    "inspection",
    "inspection/evidence",
)
OUTCOMES = ("killed", "equivalent", "gone", "survived", "uncovered", "drawn")


@dataclass(frozen=True)
class Mutation:
    file: str
    name: Name
    outcome: str = "drawn"
    detail: str = ""

    @property
    def room(self) -> str:
        return next(room for room in sorted(ROOMS, key=len, reverse=True) if self.file.startswith(room))

    def now(self) -> int | None:
        """Its number among those of the file as it is now."""
        path = ROOT / "qkvinspect" / self.file
        every = names(path.read_text()) if path.exists() else []
        return every.index(self.name) if self.name in every else None


class Row(NamedTuple):
    outcome: str
    file: str
    scope: str
    change: str
    nth: str
    detail: str


def read(path: Path = TRIED) -> list[Mutation]:
    rows = [Row(*line.split("\t")) for line in path.read_text().splitlines()]
    return [Mutation(row.file, Name(row.scope, row.change, int(row.nth)), row.outcome, row.detail) for row in rows]


def write(mutations: list[Mutation], path: Path = TRIED) -> None:
    lines = ["\t".join(map(str, Row(one.outcome, one.file, *one.name, one.detail))) for one in mutations]
    path.write_text("\n".join(lines) + "\n")


def drawn(count: int, seed: int) -> list[Mutation]:
    """As many of each room, and in the order in which they are tried: room by room."""
    chance = random.Random(seed)
    picked: list[Mutation] = []
    for at, room in enumerate(ROOMS):
        place = ROOT / "qkvinspect" / room
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        if room == "inspection":
            files = [file for file in files if "evidence" not in file.parts]
        every = [(file, number) for file in files for number in range(how_many(file.read_text()))]
        share = count * (at + 1) // len(ROOMS) - count * at // len(ROOMS)
        for file, number in sorted(chance.sample(every, min(share, len(every)))):
            picked.append(Mutation(str(file.relative_to(ROOT / "qkvinspect")), names(file.read_text())[number]))
    return picked


def tables(mutations: list[Mutation], added: set[str]) -> str:
    """How many of each room, and every one that was not killed."""
    counts = Counter((one.room, _what(one, added)) for one in mutations)
    kinds = ("killed", "killed by an added test", *OUTCOMES[1:])
    shown = [kind for kind in kinds if any(counts[room, kind] for room in ROOMS)]
    rows = [[room, *(counts[room, kind] for kind in shown)] for room in ROOMS]
    rows.append(["all", *(sum(counts[room, kind] for room in ROOMS) for kind in shown)])
    text = [f"| room | {' | '.join(shown)} |", f"| --- |{' ---: |' * len(shown)}"]
    text += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    for outcome, head in (("equivalent", "no test can tell, because"), ("survived", "noticed by none of")):
        text += ["", f"| {outcome} | change | {head} |", "| --- | --- | --- |"]
        for one in mutations:
            if one.outcome == outcome or (outcome, one.outcome) == ("survived", "uncovered"):
                by = one.detail or "no mapped test"
                text.append(f"| `{one.file}` {_line(one)} | `{_in_a_table(one.name.change)}` | {by} |")
    return "\n".join(text) + "\n"


def _what(mutation: Mutation, added: set[str]) -> str:
    mended = mutation.outcome == "killed" and mutation.detail.partition("[")[0] in added
    return "killed by an added test" if mended else mutation.outcome


def _line(mutation: Mutation) -> str:
    number = mutation.now()
    if number is None:
        return mutation.name.scope
    return str(mutant((ROOT / "qkvinspect" / mutation.file).read_text(), number)[0])


def _in_a_table(change: str) -> str:
    return change.replace("|", "\\|").replace("  ->  ", " -> ")


def added() -> set[str]:
    return {line for line in ADDED.read_text().splitlines() if line} if ADDED.exists() else set[str]()


def write_tables() -> None:
    said = TABLES.read_text().partition(BEGIN)[0]
    tests = "".join(f"- `{test}`\n" for test in sorted(added()))
    mutations = [
        replace(one, outcome="gone") if one.outcome in ("survived", "drawn") and one.now() is None else one
        for one in read()
    ]
    TABLES.write_text(f"{said}{BEGIN}\n\n{tables(mutations, added())}\nTests that were added for survivors:\n\n{tests}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draw", type=int, help="how many; what was tried before is forgotten")
    parser.add_argument("--seed", type=int, default=20)
    given = parser.parse_args()
    if given.draw:
        write(drawn(given.draw, given.seed))
    write_tables()


if __name__ == "__main__":
    main()
