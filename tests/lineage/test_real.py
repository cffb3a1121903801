"""Checkpoints that others trained and published: those of one family are found, and no others.

``python -m tests.lineage.test_real`` prints the table of REAL.txt.
"""

from __future__ import annotations

import pytest

from qkvinspect.lineage import Lineage
from tests.lineage.compare import compared
from tests.real.test_diff import HEAVY, LIGHT, place

FAMILIES = (
    {"SCEPTR", "SCEPTR_finetuned"},
    {"antibody_4_2_128_512.pt", "shark_4_2_128_512.pt", "tcr_4_2_128_512.pt"},
    {"antibody_4_1_128_512.pt", "tcr_4_1_128_512.pt"},
    {"bert_ft", "bert_pretrained", "bert_ft_10k_25s"},
)
"""By their names and what their authors say; sceptr's other variants were trained from the start, each by itself."""

SOME = ("A_SCEPTR", "SCEPTR", "SCEPTR_finetuned", "antibody_4_2_128_512.pt", "tcr_4_1_128_512.pt", "checkpoint_vh.pt")


def name(file: str) -> str:
    """What tells a checkpoint from the others of its wheel."""
    *_, folder, last = file.split("/")
    return folder if last in ("state_dict.pt", "pytorch_model.bin", "model.safetensors") else last


def looked_up(rows: list[tuple[str, str]]) -> tuple[list[str], Lineage]:
    return [name(file) for _, file in rows], compared(*(place(wheel, file) for wheel, file in rows))


def check(names: list[str], found: Lineage) -> None:
    for pair in found.kinships:
        two = {names[pair.a], names[pair.b]}
        if any(two <= family for family in FAMILIES):
            assert pair.kin, two
            assert pair.test is not None
            assert pair.test.p_value < 1e-6
        else:
            assert pair.verdict in ("unrelated", "undetermined"), two
            if pair.verdict == "undetermined":  # for reasons that no weight can change
                assert pair.test is None or "too few" in pair.why, two


@pytest.mark.gate
def test_some_published_checkpoints() -> None:
    check(*looked_up([row for row in LIGHT if name(row[1]) in SOME]))


@pytest.mark.mass
def test_all_published_checkpoints() -> None:
    check(*looked_up([*LIGHT, *HEAVY]))


def main() -> None:
    names, found = looked_up([*LIGHT, *HEAVY])
    shown = [pair for pair in found.kinships if pair.test is not None and "too few" not in pair.why]
    print(f"{len(names)} checkpoints, {len(found.kinships)} pairs; {len(shown)} have streams of one width:\n")
    for pair in sorted(shown, key=lambda one: one.test.p_value if one.test else 1):
        assert pair.test is not None
        in_place = f"{pair.test.in_place} of {pair.test.units} {pair.tested}"
        two = f"{names[pair.a]:32}{names[pair.b]:32}"
        print(f"{two}{pair.verdict:16}{pair.test.p_value:9.2g}  {in_place:20}{pair.distance or ''!s:.6}".rstrip())
    others = len(found.kinships) - len(shown)
    print(f"\nundetermined, for want of a common width or of enough units, or without heads to compare: {others}")


if __name__ == "__main__":
    main()
