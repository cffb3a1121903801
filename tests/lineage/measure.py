"""The figures of RESULTS.txt: ``python -m tests.lineage.measure FOLDER``, where models are kept between runs.

Takes about half an hour of one core.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstest

from qkvinspect.lineage.kinship import KIN
from tests.lineage import kinds, null
from tests.lineage.compare import kinship, norm_fingerprint, rightly_paired
from tests.lineage.tiny import Recipe, from_scratch

BASES = {"learned": Recipe(), "rotary": Recipe(positions="rotary", norm="rms", kv_heads=3)}


def null_lines(folder: Path) -> Iterator[str]:
    """p-values of models that have nothing to do with each other."""
    every: list[float] = []
    for kind in null.RECIPES:
        found = [kinship(*pair) for pair in null.pairs(kind, folder)]
        p_values = [one.test.p_value for one in found if one.test]
        every += p_values
        inner = sum(one.tested == "inner" for one in found)
        said = ", ".join(f"{[f.verdict for f in found].count(v)} {v}" for v in sorted({f.verdict for f in found}))
        yield f"{kind:12}{_uniform(p_values)}; tested by rows of V: {inner}; {said}"
    yield f"{'all':12}{_uniform(every)}; below 1e-4: {sum(p < 1e-4 for p in every)}"


def _uniform(p_values: list[float]) -> str:
    ks = kstest(p_values, "uniform")
    return f"{len(p_values):4} pairs, least p {min(p_values):.2g}, KS {ks.statistic:.3f} (p = {ks.pvalue:.2f})"


def fingerprint_lines(folder: Path) -> Iterator[str]:
    """What the norms of heads say of the same pairs."""
    for kind, recipe in null.RECIPES.items():
        if recipe.heads == recipe.kv_heads:
            found = [norm_fingerprint(*pair, recipe.heads) for pair in null.pairs(kind, folder)]
            share = np.mean(np.array(found) > 0.9)
            yield f"{kind:12}correlation of head norms: median {np.median(found):.2f}, above 0.9: {share:.0%}"


def power_lines(folder: Path, bases: int) -> Iterator[str]:
    """What was made of a model by each kind, and by any two together."""
    seen: dict[str, list[tuple[bool, int, int]]] = defaultdict(list)
    verdicts: dict[str, int] = defaultdict(int)
    for name, recipe in BASES.items():
        for seed in range(50_000, 50_000 + bases):
            model = from_scratch(recipe, seed)
            start = kinds.make(model, seed, (), 0).save(folder / "start")
            for some in kinds.every():
                made = kinds.make(model, seed, some, seed)
                found = kinship(start, made.save(folder / "made"))
                told = found.test is not None and found.test.p_value < KIN
                row = (told, *rightly_paired(found, made))
                verdicts[found.verdict] += 1
                for kind in (*some, "all", name, "alone" if len(some) == 1 else "any two"):
                    seen[kind].append(row)
    for kind, rows in seen.items():
        right, heads = (sum(row[side] for row in rows) for side in (1, 2))
        yield f"{kind:14}{sum(row[0] for row in rows):4} of {len(rows):4} below 1e-6; heads {right} of {heads} right"
    yield "verdicts: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())


def main() -> None:
    folder = Path(sys.argv[1])
    bases = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    torch.set_num_threads(1)
    for title, lines in (
        ("Nothing in common", null_lines(folder)),
        ("The norms of heads on the same pairs", fingerprint_lines(folder)),
        (f"Made of another, {bases} starts a recipe", power_lines(folder, bases)),
    ):
        print(f"\n{title}\n{'-' * len(title)}", flush=True)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
