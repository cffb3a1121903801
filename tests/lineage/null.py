"""Pairs of models that share everything but their random numbers, and what is not the same of chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file

from tests.lineage.tiny import Model, Recipe, from_scratch, trained

RECIPES = {
    "learned": Recipe(),
    "norms": Recipe(),
    "rotary": Recipe(positions="rotary", norm="rms", kv_heads=3),
    "sinusoidal": Recipe(positions="sinusoidal"),
}
"""All of a recipe see the same data in the same order; in ``norms`` the heads of the second begin with the norms of
the first one's."""

PAIRS = {"learned": 94, "norms": 30, "rotary": 42, "sinusoidal": 40}
_FIRST_SEED = {"learned": 0, "sinusoidal": 10_000, "rotary": 20_000, "norms": 30_000}


def pairs(kind: str, folder: Path) -> Iterator[tuple[Path, Path]]:
    """The folders of both models of each pair, no model in two; trained where they are not there yet."""
    for number in range(0, 2 * PAIRS[kind], 2):
        yield _model(kind, number, folder), _model(kind, number + 1, folder)


def _model(kind: str, number: int, folder: Path) -> Path:
    place, recipe = folder / kind / str(number), RECIPES[kind]
    if (place / "config.json").exists():
        return place
    seed = _FIRST_SEED[kind] + number
    if number % 2:
        model = from_scratch(recipe, seed, Model(recipe, seed - 1) if kind == "norms" else None)
    else:
        model = Model(recipe, seed)
        trained(model)
    place.mkdir(parents=True, exist_ok=True)
    save_file(model.state(), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(recipe.config()))
    return place
