"""Make the checkpoints that docs/lineage.md shows: ``python -m tests.lineage.make_sample``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.lineage import kinds
from tests.lineage.tiny import Recipe, from_scratch

FOLDER = Path(__file__).parent / "sample"


def main() -> None:
    torch.set_num_threads(1)
    seed = 60_000
    model = from_scratch(Recipe(), seed)
    for name, some in (
        ("base", ()),
        ("tuned", ("fine-tuned",)),
        ("pruned", ("fine-tuned", "heads pruned", "permuted", "rotated", "packed")),
        ("other", None),
    ):
        made = kinds.make(model if some is not None else from_scratch(Recipe(), seed + 1), seed, some or (), 0)
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        attention = {key: value.half() for key, value in made.state().items() if "self_attn" in key}
        save_file(attention, FOLDER / name / "model.safetensors")
        (FOLDER / name / "config.json").write_text(json.dumps(made.config()) + "\n")


if __name__ == "__main__":
    main()
