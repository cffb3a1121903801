"""``check`` passes and fails published checkpoints for reasons that a person agrees with; VERDICTS.md has them all."""

from __future__ import annotations

import pytest

from tests.real import verdicts, wheels
from tests.real.test_real import folder

FEW = (
    "anarcii/classifii/classifii.pt",
    "fracast/weights/model.int8.safetensors",
    "fracast/weights/model.safetensors",
    "sceptr/_model_saves/SCEPTR_tiny/state_dict.pt",
    "silero_vad/data/silero_vad.jit",
    "silero_vad/data/silero_vad.onnx",
)


@pytest.mark.parametrize("file", FEW)
def test_its_row_stands_in_the_table(file: str) -> None:
    path = folder(file.partition("/")[0]) / file
    assert verdicts.row(path) in verdicts.TABLE.read_text().splitlines()


@pytest.mark.mass
def test_the_table() -> None:
    with wheels.skipped_offline():
        assert verdicts.table() == verdicts.TABLE.read_text()
