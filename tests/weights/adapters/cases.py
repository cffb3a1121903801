"""The adapters that PEFT wrote, and where their files lie."""

from __future__ import annotations

import shutil
from pathlib import Path

DATA = Path(__file__).parent / "data"
CASES = sorted(path.name.removesuffix(".merged.safetensors") for path in DATA.glob("*.merged.safetensors"))


def placed(case: str, folder: Path) -> tuple[Path, Path]:
    """The adapter as PEFT names its files, and the base."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    shutil.copy(DATA / f"{case}.adapter.safetensors", adapter / "adapter_model.safetensors")
    shutil.copy(DATA / f"{case}.adapter.json", adapter / "adapter_config.json")
    return adapter, DATA / f"{case}.base.safetensors"
