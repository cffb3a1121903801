"""Write REPORT.md: every category of hostile input with its cases and their outcomes.

python tests/hostile/report.py
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

from qkvinspect.error_codes import Code  # noqa: E402
from tests.hostile.categories.case import Reads, Refused  # noqa: E402
from tests.hostile.categories.catalogue import CASES, SCENES, SHOWN  # noqa: E402
from tests.hostile.categories.quantised import cases as quantised  # noqa: E402
from tests.hostile.categories.titles import SECTIONS, TITLES  # noqa: E402

PROCESSES = 18
"""Cases of category 120, which are processes of their own in test_scenes.py."""

ELSEWHERE = {
    "FILE_OPEN": "errors of the system that no test can make for real",
    "FILE_READ": "errors of the disk; tests/sources/test_local.py",
    "FILE_REMOTE": "faults of networks and servers; tests/remote/test_faults.py",
    "FILE_RANGES": "servers that give whole files only; tests/remote/test_faults.py",
    "FILE_ANSWER": "lies of servers; tests/remote/test_faults.py",
    "CONFIG": "files of hyper-parameters; tests/formats/test_configs.py",
    "NO_WEIGHTS": "sound files without a model; tests/formats/test_containers.py",
    "GROUP_NUMBER": "group numbers of quantised weights; tests/weights/encodings/test_damaged.py",
    "PART_OFFSETS": "parts in safetensors; tests/formats/test_dcp.py",
    "PART_ALONE": "parts in safetensors; tests/formats/test_dcp.py",
    "PART_CONFLICT": "parts in safetensors; tests/formats/test_dcp.py",
    "DCP_TRANSFORMED": "extensions of a distributed checkpoint; tests/formats/test_dcp.py",
}
"""Codes that no case of the categories gives, and why."""

KINDS = "QKV-F7"
"""Files of other kinds, each made and recognised in tests/formats/test_foreign.py."""


def outcomes() -> dict[int, Counter[str]]:
    """How often each outcome is expected, by category."""
    found: dict[int, Counter[str]] = {number: Counter() for number in range(1, 121)}
    for number, each in (*CASES, *SCENES):
        found[number][_named(each.outcome)] += 1
    for number, _ in SHOWN:
        found[number]["shown escaped"] += 1
    found[120]["exit code and no file left"] += PROCESSES
    return found


def _named(outcome: Refused | Reads) -> str:
    if isinstance(outcome, Refused):
        return f"{outcome.code} {outcome.code.name}"
    return f"read, with {', '.join(outcome.findings)}" if outcome.findings else "read"


def produced() -> set[Code]:
    return {each.outcome.code for _, each in (*CASES, *SCENES) if isinstance(each.outcome, Refused)}


def lines() -> Iterator[str]:
    found = outcomes()
    covered = sum(bool(counter) for counter in found.values())
    broken = Counter(case.kind for case in quantised())
    total = sum(counter.total() for counter in found.values()) + broken.total()
    yield "# Hostile input"
    yield ""
    yield "Written by `python tests/hostile/report.py`; `test_categories.py` and `test_scenes.py` hold each case to it."
    yield ""
    yield f"{covered} of 120 categories, {total:,} cases. Each case is read with the right bytes, or refused under"
    yield "its code in one clean line with the file, what is wrong and the next step: within two seconds and 256 MB,"
    yield "but for the few files of over 50 MB. Where torch or safetensors take the same bytes they read the same, or"
    yield "the last column says why they do not."
    for number, title in enumerate(TITLES, 1):
        if number in SECTIONS:
            yield f"\n## {SECTIONS[number][:1].upper()}{SECTIONS[number][1:]}\n"
            yield "| | category | cases | outcomes | torch or safetensors, where they differ |"
            yield "|---|---|---|---|---|"
        counts = found[number]
        told = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        trusted = dict.fromkeys(case.trusted for at, case in CASES if at == number and case.trusted)
        yield f"| {number} | {title} | {counts.total()} | {told} | {'; '.join(trusted)} |"
    yield "\n## Quantised weights\n"
    yield "Changes to models that the libraries wrote; none is decoded, and `no-values` says why (`test_quantised.py`)."
    yield "\n| what is wrong | cases |\n|---|---|"
    yield from (f"| {kind} | {count} |" for kind, count in sorted(broken.items()))
    yield "\n## Codes that no category gives\n"
    yield from (f"* `{Code[name]}` {name}: {why}" for name, why in ELSEWHERE.items())
    yield f"* `{KINDS}..`, in part: files of other kinds; tests/formats/test_foreign.py"
    yield "\n## Fuzzing\n"
    yield "In every run `test_fuzz.py` tries 1,000 broken files of each format, and `test_every_bit.py` every length of"
    yield "one small file a format, and each of its bytes with a bit flipped; `-m mass`: 50,000 files, and every bit."
    yield "Coverage-guided, as of `fuzz/RUNS.md`:\n"
    runs = (FOLDER / "fuzz" / "RUNS.md").read_text()
    yield from (line for line in runs.splitlines() if "executions" in line and not line.startswith("|"))


def text() -> str:
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    (FOLDER / "REPORT.md").write_text(text())
