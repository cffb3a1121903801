"""What is answered for the models of the census, by library: ``python -m tests.census.report [--list]``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.census.judging import Verdict, alarms, answer, counts, judge
from tests.census.kept import built
from tests.census.known import left

OTHER = "single layers of others"
ALONE = frozenset({"transformers", "timm", "diffusers", "open_clip", "vit-pytorch"})
"""Libraries whose whole models are built; of the others a few layers each."""


def table(verdicts: Iterable[Verdict], models: Mapping[str, int]) -> str:
    """What is said of the modules of each library, as docs/layouts.md has it.

    Args:
        models: how many were asked, by library.
    """
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        library = verdict.where.partition("/")[0]
        row = said[library if library in ALONE else OTHER]
        row["modules"] += 1
        known = verdict.said not in ("right", "heads-unknown") and left(verdict) is not None
        row["explained" if known else verdict.said] += 1
    for library, count in models.items():
        said[library if library in ALONE else OTHER]["models"] += count
    columns = ("models", "modules", "right", "heads-unknown", "explained")
    lines = ["| library | models | modules | right | rows right, heads in no file | left, with its reason |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for library in (*sorted(ALONE, key=lambda name: -said[name]["modules"]), OTHER):
        lines.append(f"| {library} | {' | '.join(str(said[library][column]) for column in columns)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    ask = argparse.ArgumentParser(prog="python -m tests.census.report", description=__doc__)
    ask.add_argument("--lib", default="")
    ask.add_argument("--list", action="store_true", help="with every module that is not right")
    asked = ask.parse_args(argv)
    by_library: dict[str, list[Verdict]] = defaultdict(list)
    models: dict[str, int] = defaultdict(int)
    for line in built():
        if asked.lib and line["lib"] != asked.lib:
            continue
        with TemporaryDirectory() as folder:
            report = answer(line, Path(folder))
        found = list(judge(line, report))
        by_library[line["lib"]] += found
        models[line["lib"]] += 1
        if asked.list:
            print(*(f"{v.where}  {v.said}  {v.why}" for v in found if v.said != "right"), sep="\n", end="")
            print(
                *(f"\n{line['lib']}/{line['name']} {layer}  alarm" for layer in alarms(line, report)),
                sep="",
                end="\n" if found else "",
            )
    for library, verdicts in sorted(by_library.items()):
        print(f"{library}: {models[library]} models, {len(verdicts)} modules: {counts(verdicts)}")
    print(table((verdict for verdicts in by_library.values() for verdict in verdicts), models))
    every = [verdict for verdicts in by_library.values() for verdict in verdicts]
    print(f"all: {sum(models.values())} models, {len(every)} modules: {counts(every)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
