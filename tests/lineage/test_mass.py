"""What RESULTS.txt holds, with bounds: an hour of one core, of which most is training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from qkvinspect.lineage.kinship import KIN
from tests.lineage import kinds, null
from tests.lineage.compare import kinship, norm_fingerprint, rightly_paired
from tests.lineage.measure import BASES
from tests.lineage.tiny import from_scratch

pytestmark = pytest.mark.mass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("lineage")


def test_p_values_of_unrelated_models_are_uniform(folder: Path) -> None:
    found = [kinship(*pair) for kind in null.RECIPES for pair in null.pairs(kind, folder)]
    p_values = [one.test.p_value for one in found if one.test is not None]
    assert len(p_values) == len(found) >= 200
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert min(p_values) >= 1e-4
    assert not any(one.kin for one in found)


def test_the_norms_of_heads_say_that_unrelated_models_are_kin(folder: Path) -> None:
    found = [norm_fingerprint(*pair, null.RECIPES["learned"].heads) for pair in null.pairs("learned", folder)]
    assert np.median(found) > 0.9


@pytest.mark.parametrize("name", BASES)
def test_what_was_made_of_a_model_is_found(folder: Path, name: str) -> None:
    seed = 50_000
    model = from_scratch(BASES[name], seed)
    start = kinds.make(model, seed, (), 0).save(folder / "start")
    told, right, heads = [], 0, 0
    for some in kinds.every():
        made = kinds.make(model, seed, some, seed)
        found = kinship(start, made.save(folder / "made"))
        told.append(found.test is not None and found.test.p_value < KIN)
        good, every = rightly_paired(found, made)
        right, heads = right + good, heads + every
    assert np.mean(told) >= 0.99
    assert right >= 0.95 * heads
