"""The table of goals of docs/performance.md, reckoned from the tables that the benchmarks wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "tests" / "benchmarks"

SHOW, NORMS = "`qkvinspect show`", "`qkvinspect show --no-evidence`"
TORCH, TOLD = "`torch: load_file and a loop`", "`torch: load_file and a loop, which is told`"
OF_PICKLED = "`qkvinspect show --no-evidence, of the .pt`"
PLAIN, UNKNOWN = "norms of every head, .safetensors", "heads unknown: the weights are asked"
TORCH_ITSELF = "`python -c 'import torch'`"
SHAPES_ONLY = "`qkvinspect show --no-norms`"
STAT, EXPORT = "`sft stat --include (no heads)`", "`qkvinspect export --split`"
SHAPES, SPLIT, START = "shapes, .safetensors", "Q, K and V as tensors of their own", "start"
COPY = "cp and sync, in a shell, of 302 MB"
MANY, EXPERTS = "norms of 100,000 layers, 500,000 tensors", "shapes of 1,300,000 tensors, nearly all of experts"


def tables(name: str) -> dict[str, list[str]]:
    """The cells of each row of a file, by its first; those of several rows of one work by both of its names."""
    found: dict[str, list[str]] = {}
    work = ""
    for line in (BENCHMARKS / name).read_text().splitlines():
        if not line.startswith("|") or line.startswith("| ---"):
            continue
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        work = first or work
        found[f"{work}: {cells[0]}" if cells[0].startswith("`") else first] = cells
    return found


def summed(dtype: str) -> tuple[str, str]:
    """GB/s that numkong's sums alone reach by one thread and by two."""
    _, _, after = (BENCHMARKS / "SUMS.md").read_text().partition("| two threads together |")
    rows = [line.strip("| ").split(" | ") for line in after.splitlines()]
    return next((row[2], row[3]) for row in rows if row[:2] == [dtype, "numkong.dot"])


CLOCK, PROCESSOR, MEGABYTES = 1, 2, 4


def goals() -> Iterator[tuple[str, str, str, str, str]]:
    """What, the goal, what it is by the clock and of the processor, and what bounds it where the first is more."""
    results, scale, before, bounds = map(tables, ("RESULTS.md", "SCALE.md", "BEFORE.md", "BOUNDS.md"))

    def took(work: str, by: str, column: int) -> float:
        return float(results[f"{work}: {by}"][column])

    def bound(name: str) -> str:
        return bounds[name][1]

    def times(work: str, by: str, other: str, column: int = CLOCK) -> float:
        return took(work, by, column) / took(work, other, column)

    def both(work: str, by: str, other: str, more: str = "") -> tuple[str, str]:
        return f"{times(work, by, other):.2f}{more}", f"{times(work, by, other, PROCESSOR):.2f}"

    known = times(PLAIN, NORMS, TORCH)
    numbers = f"starting Python and finding attention in a small file take {bound('show of a small file, heads known')}"
    yield (
        "`show` with norms, heads known",
        "0.12 x the torch script",
        *both(PLAIN, NORMS, TORCH),
        "" if known <= 0.12 else f"{numbers} ms of the processor",
    )
    stat = times(PLAIN, NORMS, STAT)
    yield (
        "the same",
        "0.10 x `sft stat --include`, 60 MB",
        *both(PLAIN, NORMS, STAT, f", {took(PLAIN, NORMS, MEGABYTES):.0f} MB"),
        "" if stat <= 0.1 else f"{numbers} ms of the processor",
    )
    samples = " to ".join(bound(f"cosines of {count} rows of 1024 as ranks") for count in (256, 1024))
    for how in ("as torch made them", "as training leaves them", "trained too little to tell"):
        by = f"`qkvinspect show, {how}`"
        yield (
            f"`show`, heads unknown, {how}",
            "0.18 x the torch script",
            *both(UNKNOWN, by, TOLD),
            ""
            if times(UNKNOWN, by, TOLD) <= 0.18
            else f"importing numpy takes {bound('import numpy')} ms, a sample of one layer of 24 {samples}",
        )
    pickled = times(PLAIN, OF_PICKLED, NORMS)
    opening = 1e3 * (took("shapes, .pt", SHAPES_ONLY, PROCESSOR) - took(SHAPES, SHAPES_ONLY, PROCESSOR))
    yield (
        "`.pt`",
        "1.10 x `.safetensors`",
        *both(PLAIN, OF_PICKLED, NORMS),
        ""
        if pickled <= 1.1
        else f"its checksum takes {bound('crc32 of 302 MB in memory')} ms of the processor"
        + (f", its pickle {opening:.0f}" if opening > 0 else ""),
    )
    for dtype in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        share, alone = (float(results[name][1]) for name in (dtype, f"{dtype}, read only"))
        one, two = summed(dtype)
        why = (
            f"reading the bytes and no more comes to {alone:.2f}; numkong sums {one} GB/s of what lies in the cache by"
            f" one thread, {two} by two"
        )
        yield f"{dtype} by bytes", "0.5 x a `max` in memory", f"{share:.2f}", "", "" if share >= 0.5 else why
    shapes = times(SHAPES, SHAPES_ONLY, "`safetensors-print`")
    yield (
        "`show --no-norms`",
        "1.5 x `safetensors-print`",
        *both(SHAPES, SHAPES_ONLY, "`safetensors-print`"),
        ""
        if shapes <= 1.5
        else f"its modules, imported as Python does it, take {bound('what show --no-norms imports, and no more')} ms;"
        f" as it does it, all takes {1e3 * took(SHAPES, SHAPES_ONLY, PROCESSOR):.0f}; the other prints the header",
    )
    yield "`--help`", "1.2 x importing typer", *both(START, "`qkvinspect --help`", "`python -c 'import typer'`"), ""
    for name, goal in (
        ("all columns (8 layers of width 512)", 0.2),
        ("one column of a circuit", 0.1),
        ("one column of norms", 0.1),
    ):
        then, now, ratio = map(float, before[f"analyze, {name}"])
        yield (
            f"`analyze`, {name.partition(' (')[0]}",
            f"{goal} x 0.1.0",
            "",
            f"{ratio:.2f}",
            ""
            if ratio <= goal
            else f"from {then:.2f} to {now:.2f} s of the processor, {bound('import numpy')} ms numpy's import",
        )
    beyond, copied = (
        [took(SPLIT, EXPORT, column) - took(SPLIT, "`the same, --dry-run`", column) for column in (CLOCK, PROCESSOR)],
        [took(SPLIT, "`cp of as many bytes, and sync`", column) for column in (CLOCK, PROCESSOR)],
    )
    ratios = [one / other for one, other in zip(beyond, copied, strict=True)]
    pieces = float(bounds["its 72 pieces by copy_file_range of 8 MB, synced beside it"][0])
    yield (
        "`export --split` beyond `--dry-run`",
        "1.15 x `cp` and `sync`",
        *(f"{ratio:.2f}" for ratio in ratios),
        ""
        if ratios[0] <= 1.15
        else f"copying and syncing its pieces alone take {pieces / float(bounds[COPY][0]):.2f} of `cp` and `sync`",
    )
    for name, command, most in ((MANY, "`show`, 100,000 attentions", 3), (EXPERTS, "`show`, 1,300,000 tensors", 15)):
        seconds, processor, megabytes, each, room = (float(scale[name][column]) for column in (1, 2, 3, 4, 5))
        yield (
            command,
            f"{most} s, 500 MB",
            f"{seconds:.1f} s, {megabytes:.0f} MB",
            f"{processor:.1f} s",
            "" if round(seconds, 1) <= most and megabytes <= 500 else f"{each:.3f} ms and {room:.2f} kB each",
        )
    suite = dict(line.split(": ") for line in (BENCHMARKS / "SUITE.md").read_text().splitlines() if ": " in line)
    cores = f"two cores that import torch in {took(START, TORCH_ITSELF, CLOCK):.1f} s"
    for name, minutes in (("the test command", 5), ("the gate", 8)):
        yield name, f"{minutes} minutes", suite[name], "", _parts(suite[name], 60 * minutes, cores)


def _parts(told: str, goal: int, cores: str) -> str:
    """What a run of the tests that takes longer consists of: the install, and what pytest says of itself."""
    found = re.match(r"(\d+) min (\d+) s \((\d+) passed.* in (\d+)", told)
    if found is None:
        return ""
    minutes, seconds, tests, alone = map(int, found.groups())
    rest = 60 * minutes + seconds - alone
    if rest + alone <= goal:
        return ""
    return f"all but the tests takes {rest} s; {tests} tests take {1e3 * alone / tests:.0f} ms each of {cores}"


def table(out: Callable[[str], None]) -> None:
    """Write it, for cog."""
    out("| work | goal | by the clock | of the processor | what bounds it |\n| --- | --- | --- | --- | --- |\n")
    for row in goals():
        out(f"| {' | '.join(row)} |\n")
