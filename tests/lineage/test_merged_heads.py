"""A head of B that was made of two of A."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.lineage import kinds
from tests.lineage.compare import kinship
from tests.lineage.tiny import Model, Recipe


def test_a_head_that_is_the_mean_of_two_is_paired_with_one_and_the_other_is_merged_into_it(tmp_path: Path) -> None:
    made = kinds.make(Model(Recipe(), 1), 0, (), 0)
    a = made.save(tmp_path / "a")
    for weights in made.attention:
        for name in (kinds.Q, kinds.K, kinds.V, kinds.OUT):
            heads = (weights[name].T if name == kinds.OUT else weights[name]).unflatten(0, (6, -1))
            fewer = torch.cat([heads[2:4], heads[:2].mean(0, keepdim=True), heads[4:]]).flatten(0, 1)
            weights[name] = fewer.T.contiguous() if name == kinds.OUT else fewer
    made.origins = [(number, [2, 3, 0, 4, 5]) for number in range(3)]
    found = kinship(a, made.save(tmp_path / "b"))
    assert found.kin
    for layer in found.layers:
        fates = {head.a: (head.fate, head.b, head.like) for head in layer.heads}
        assert {fates[0], fates[1]} == {("kept", 2, None), ("merged", None, 2)}
        assert {head: fates[head] for head in (2, 3, 4, 5)} == {
            head: ("kept", place, None) for head, place in ((2, 0), (3, 1), (4, 3), (5, 4))
        }
    assert found.count("merged") == (0, 3)
    assert found.count("removed") == (0, 0)
