"""Write RESULTS.md: what the weights of trained and of random models say, against the truth.

    python tests/evidence/table.py [--only SECTION]... [--trained TRAINED] [--rotary ROTARY]

Sections that are not asked for are kept as they are, and so are "here" without TRAINED, a folder that train.py has
filled, and "repacked" without ROTARY, one that tests/checks/rotary_models/make.py has. Each section can be run by
itself, several at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from qkvinspect.findings import AGAINST_WEIGHTS
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.evidence.odds import CHANCE
from qkvinspect.inspection.report import Report
from qkvinspect.inspection.verdict import Verdict
from qkvinspect.layouts.packing import Packing
from tests.evidence import cases, repacked, towers

RESULTS = Path(__file__).with_name("RESULTS.md")
MODELS = 1000
PAIRS = 200
TRAINED_HERE = "## Trained here"
REPACKED = "## Trained here: shared kv heads, packed in one tensor"
RANDOM = "## Random weights"


def verdict(report: Report) -> Verdict | None:
    return next((a.evidence.heads for a in report.attentions if a.evidence and a.evidence.heads), None)


def line(label: str, heads: int, report: Report) -> str:
    """Truth, answer, how sure, the runner-up."""
    found = verdict(report)
    if found is None:
        return f"| {label} | {heads} | nothing to weigh | | | |"
    best = found.best
    other = next((one for one in found.weighed[1:] if one.explained_by is None), None)
    runner = f"{other.num_heads} ({other.score:.0f})" if other else "none"
    answer = str(best.num_heads) if found.decided else "undetermined"
    wrong = " **wrong**" if found.decided and best.num_heads != heads else ""
    return (
        f"| {label} | {heads} | {answer}{wrong} | {found.confidence:.4f} | {best.num_heads} ({best.score:.0f}; "
        f"noise {found.noise:.0f}) | {runner} |"
    )


def heads(trained: Sequence[cases.Trained]) -> Iterator[str]:
    yield "## Trained by others: how many heads"
    yield ""
    yield "| checkpoint | truth | answer | confidence | best (score) | runner-up (score) |"
    yield "|---|---|---|---|---|---|"
    decided = right = contradicted = 0
    for one in trained:
        report = cases.weigh(one.path)
        yield line(one.label, one.heads, report)
        found = verdict(report)
        if found is not None and found.decided:
            decided += 1
            right += found.best.num_heads == one.heads
        contradicted += bool(against(cases.weigh(one.path, claim=one.heads)))
    yield ""
    yield f"Decided {decided} of {len(trained)}, right {right} of {decided}. A right config was contradicted "
    yield f"{contradicted} times."


def missing(trained: Sequence[cases.Trained]) -> Iterator[str]:
    yield "## Trained by others: where a part is missing"
    yield ""
    yield "The same statistic without some of the parts: how often the number of heads with the best score is right."
    yield ""
    yield "| parts | models | single layers |"
    yield "|---|---|---|"
    stacks = [(one.heads, [cases.sample(layer) for layer in cases.layers(one.path)]) for one in trained]
    for parts in ("qkvo", "qkv", "kvo", "kv", "qk", "vo", "q", "v"):
        models = layers = count = 0
        for heads, samples in stacks:
            gains = [cases.gains(sample, parts) for sample in samples]
            layers += sum(max(gain, key=gain.__getitem__) == heads for gain in gains)
            count += len(gains)
            total = {number: sum(gain[number] for gain in gains) for number in gains[0]}
            models += max(total, key=total.__getitem__) == heads
        yield f"| {', '.join(parts.upper())} | {models} of {len(stacks)} | {layers} of {count} |"


def against(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.code in AGAINST_WEIGHTS]


def packings(trained: Sequence[cases.Trained]) -> Iterator[str]:
    yield "## Trained by others: packing and orientation"
    yield ""
    yield "Each packed as every packing of the formula that fits, under the names of nn.MultiheadAttention, with no"
    yield "config; and each stored apart with every matrix transposed."
    yield ""
    yield "| checkpoint | packings | recognised, with its heads | undetermined | wrong | transposed |"
    yield "|---|---|---|---|---|---|"
    total = [0, 0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "packed.safetensors")
        for one in trained:
            layers = cases.layers(one.path)
            choices = cases.packings(one.heads, layers[0].out.shape[1])
            known = undetermined = wrong = 0
            for name, packing in choices.items():
                cases.pack(layers, packing, one.heads, path)
                evidence = cases.weigh(path).attentions[0].evidence
                found = evidence.packings if evidence else None
                if found is None or not found.decided:
                    undetermined += 1
                elif (found.best.label, found.best.num_heads) == (name, one.heads):
                    known += 1
                else:
                    wrong += 1
            cases.apart(layers, path, turned=True)
            turned = "orientation-against-weights" in against(cases.weigh(path))
            seen = "seen" if turned else "not seen"
            yield f"| {one.label} | {len(choices)} | {known} | {undetermined} | {wrong} | {seen} |"
            total = [a + b for a, b in zip(total, (len(choices), known, undetermined, wrong), strict=True)]
    yield ""
    yield f"Of {total[0]} packed files {total[1]} were recognised, {total[2]} undetermined, {total[3]} wrong."


def cuts(trained: Sequence[cases.Trained]) -> Iterator[str]:
    yield "## Trained by others: Q, K and V cut from another packing"
    yield ""
    yield "Each packed by heads and in stripes, and cut apart as if it lay in blocks; with no config, and with the"
    yield "right number of heads. And cut as it should be."
    yield ""
    yield "| checkpoint | cut wrongly | said so | undetermined | wrong | cut rightly, and contradicted |"
    yield "|---|---|---|---|---|---|"
    total = [0, 0, 0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.safetensors")
        for one in trained:
            layers = cases.layers(one.path)
            stripes = [n for n in alternatives.STRIPES if one.heads % n == 0 and n < one.heads]
            found = [0, 0, 0, 0, 0]
            for groups in ("one", "kv_heads", *stripes):
                cases.cut(layers, Packing(("q", "k", "v"), groups=groups), one.heads, one.heads, path)
                for claim in (None, one.heads):
                    report = cases.weigh(path, claim=claim)
                    against_it = [finding for finding in report.findings if finding.code in AGAINST_WEIGHTS]
                    if groups == "one":
                        found[4] += bool(against_it)
                        continue
                    words = "per kv head" if groups == "kv_heads" else f"in {groups} groups"
                    right = all(f"cut from a tensor that is packed q, k, v {words}" in f.message for f in against_it)
                    told = verdict(report) is not None and any(a.heads_from == "weights" for a in report.attentions)
                    found[0] += 1
                    found[1 if against_it and right else 3 if against_it or told else 2] += 1
            yield f"| {one.label} | {' | '.join(map(str, found))} |"
            total = [a + b for a, b in zip(total, found, strict=True)]
    yield ""
    yield f"Of {total[0]} files {total[1]} were said to be cut wrongly, and how; {total[2]} are undetermined,"
    yield f"{total[3]} wrong."


def here(folder: Path) -> Iterator[str]:
    yield TRAINED_HERE
    yield ""
    yield "By train.py, on a CPU: which steps' weights tell the heads. A step in brackets is undetermined, one in bold"
    yield "wrong."
    yield ""
    yield "| run | heads | loss | steps |"
    yield "|---|---|---|---|"
    for file in sorted(folder.glob("*/run.json")):
        run = json.loads(file.read_text())
        steps = sorted((int(p.stem.partition("-")[2]), p) for p in file.parent.glob("step-*.safetensors"))
        cells: list[str] = []
        for step, path in steps:
            found = verdict(cases.weigh(path, thorough=True))
            if found is None or not found.decided:
                cells.append(f"({step})")
            else:
                cells.append(f"{step}" if found.best.num_heads == run["num_heads"] else f"**{step}**")
        losses = list(run["losses"].values())
        shared = "" if run["num_kv_heads"] == run["num_heads"] else f" over {run['num_kv_heads']}"
        yield (
            f"| {file.parent.name} | {run['num_heads']}{shared} | {losses[0]:.2f} to {losses[-1]:.2f} | "
            f"{', '.join(cells)} |"
        )


def packed_anew(folder: Path) -> Iterator[str]:
    yield REPACKED
    yield ""
    with tempfile.TemporaryDirectory() as work:
        yield from repacked.section(folder, Path(work, "packed.safetensors"))


def noise() -> Iterator[str]:
    yield RANDOM
    yield ""
    claims: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "random.safetensors")
        for seed in range(MODELS):
            label, tensors = cases.untrained(seed)
            save_file(tensors, path)
            report = cases.weigh(path)
            found = verdict(report)
            if against(report) or (found is not None and found.decided):
                claims.append(label)
    inits = ", ".join(cases.INITS)
    yield f"{MODELS} models of {min(cases.WIDTHS)} to {max(cases.WIDTHS)} wide and 1 to 4 layers ({inits}; torch's own"
    yield "nn.MultiheadAttention among them), fused and apart, with and without shared kv heads, in three dtypes:"
    yield f"{len(claims)} claims, where {MODELS * CHANCE:g} would be expected from a chance of {CHANCE:g} each."
    yield from (f"- {claim}" for claim in claims)


def mixed(trained: Sequence[cases.Trained]) -> Iterator[str]:
    yield "## Two towers in one file"
    yield ""
    yield f"{PAIRS} pairs of towers of one shape and different heads: checkpoints as above, the wider ones cut down"
    yield "to their first heads and columns; one to four layers of each; under the names of two stacks, and on purpose"
    yield "of one."
    yield ""
    count = towers.Count()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in towers.pairs(towers.towers(trained), PAIRS):
            wrong += towers.judge(pair, Path(folder, "towers.safetensors"), count)
    yield f"With no config {count.decided} layers were decided rightly, {count.undetermined} left undetermined. With"
    yield f"the heads of one tower in the config, {count.contradicted} layers of the other were said to have other"
    yield f"ones, and which. Wrong in either case: {count.wrong}."
    yield from (f"- {line}" for line in wrong)


OTHERS = {"heads": heads, "packings": packings, "cuts": cuts, "missing": missing, "mixed": mixed}
TITLES = {
    "heads": "## Trained by others: how many heads",
    "packings": "## Trained by others: packing and orientation",
    "cuts": "## Trained by others: Q, K and V cut from another packing",
    "missing": "## Trained by others: where a part is missing",
    "mixed": "## Two towers in one file",
    "here": TRAINED_HERE,
    "repacked": REPACKED,
    "random": RANDOM,
}


def kept() -> dict[str, str]:
    """The sections of the file as it is, by title."""
    if not RESULTS.exists():
        return {}
    found = re.split("^(?=## )", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: section.rstrip() for section in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(TITLES))
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--rotary", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    made: dict[str, str] = {}
    for name in options.only or TITLES:
        if name == "random":
            lines = noise()
        elif name not in ("here", "repacked"):
            lines = OTHERS[name](list(cases.others((*cases.OTHERS, *cases.LARGE))))
        elif name == "here" and options.trained is not None:
            lines = here(options.trained)
        elif name == "repacked" and options.rotary is not None:
            lines = packed_anew(options.rotary)
        else:
            continue
        made[TITLES[name]] = "\n".join(lines)
    found = kept() | made  # read last, so that several may run at a time
    sections = [found[title] for title in TITLES.values() if title in found]
    RESULTS.write_text(
        "\n\n".join(["# What the weights say, measured", "Written by table.py.", *sections, ""]).rstrip() + "\n"
    )
    print(f"{RESULTS}, {', '.join(options.only or TITLES)}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
