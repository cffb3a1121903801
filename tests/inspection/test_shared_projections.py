"""A square ``qk`` or ``kv`` may be one projection that is used twice: nothing in names and shapes tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.test_patterns import report

E = 64

TRUTHS = {
    "shared": lambda rows: (rows, rows),
    "blocks": lambda rows: rows.chunk(2),
}
"""What a forward makes of the rows of the two: ``a = b = both(x)``, or ``a, b = both(x).chunk(2)``."""


@pytest.mark.parametrize("how", TRUTHS)
@pytest.mark.parametrize(
    ("names", "both"),
    [
        (("qk", "v"), "qk"),
        (("q", "kv"), "kv"),
        (("toqk", "tov"), "qk"),
        (("q_proj", "kv_proj"), "kv"),
        (("q", "vk"), "kv"),
    ],
    ids=str,
)
def test_what_the_forward_does_is_among_the_candidates(
    tmp_path: Path, how: str, names: tuple[str, str], both: str
) -> None:
    tensors = {f"l.0.attn.{name}.weight": torch.randn(E, E) for name in names} | {
        "l.0.attn.o.weight": torch.randn(E, E)
    }
    save_file(tensors, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (open_,) = inspect(checkpoint, Options(norms=False, evidence="thorough")).attentions
        assert open_.layout is None
        assert {"pattern-shared", "pattern-blocks"} <= set(open_.candidates)
        choice = (("*", f"pattern-{how}"),)
        (chosen,) = inspect(checkpoint, Options(norms=False, layouts=choice)).attentions
        name = next(name for name in names if both in name or both[::-1] in name)
        order = both if both in name else both[::-1]
        truth = dict(zip(order, TRUTHS[how](tensors[f"l.0.attn.{name}.weight"]), strict=True))
        for letter, rows in truth.items():
            part = chosen.part(letter)
            assert part is not None
            assert np.array_equal(part.numpy(), rows.numpy())


def test_lightglue_uses_one_projection_for_queries_and_keys() -> None:
    shapes = {f"t.0.cross_attn.{name}.weight": (E, E) for name in ("to_qk", "to_v", "to_out")}
    shapes |= {"t.0.cross_attn.ffn.0.weight": (2 * E, 2 * E), "t.0.cross_attn.ffn.1.weight": (2 * E,)}
    (found,) = report({**shapes, "t.0.cross_attn.ffn.3.weight": (E, 2 * E)}).attentions
    assert found.layout is not None
    assert found.layout.id == "lightglue-cross"
    assert {part.name: part.weight.name.split(".")[-2] for part in found.parts} == {
        "q": "to_qk",
        "k": "to_qk",
        "v": "to_v",
    }


def test_twice_the_rows_are_still_what_their_library_stores() -> None:
    shapes = {"l.attn.q.weight": (E, E), "l.attn.kv.weight": (2 * E, E), "l.attn.proj.weight": (E, E)}
    assert [found.layout and found.layout.id for found in report(shapes).attentions] == ["q-and-kv"]
