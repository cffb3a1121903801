"""``lineage`` on folders and on what ``kinds`` made, and whether its pairs of heads are right."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.lineage import Lineage, lineage
from qkvinspect.lineage.kinship import Kinship
from tests.lineage.kinds import Made


def compared(*paths: Path, base: bool = False) -> Lineage:
    with ExitStack() as opened:
        files = [opened.enter_context(open_checkpoint(str(path))) for path in paths]
        return lineage([inspect(file, Options(norms=False)) for file in files], base=base)


def kinship(a: Path, b: Path) -> Kinship:
    return compared(a, b).kinships[0]


def rightly_paired(found: Kinship, made: Made) -> tuple[int, int]:
    """How many heads of what was made were paired with the head that they came from, and of how many."""
    said = {(_layer(layer.b), head.b): (_layer(layer.a), head.a) for layer in found.layers for head in layer.heads}
    right = [
        said.get((number, place)) == (layer, head)
        for number, (layer, heads) in enumerate(made.origins)
        for place, head in enumerate(heads)
    ]
    return sum(right), len(right)


def _layer(name: str | None) -> int | None:
    return None if name is None else int(name.split(".")[2])


def norm_fingerprint(a: Path, b: Path, heads: int) -> float:
    """The correlation over layers and parts of the mean and spread of the heads' norms: a statistic refuted before."""
    ours, theirs = (_norms(path, heads) for path in (a, b))
    return float(np.corrcoef(ours, theirs)[0, 1])


def _norms(path: Path, heads: int) -> np.ndarray:
    state = load_file(path / "model.safetensors")
    found = []
    for name in sorted(state):
        if "self_attn" in name:
            weight = state[name].T if "o_proj" in name else state[name]
            norms = np.linalg.norm(weight.reshape(heads, -1), axis=1)
            found += [norms.mean(), norms.std()]
    return np.array(found)
