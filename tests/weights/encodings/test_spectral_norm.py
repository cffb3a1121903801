"""torch.nn.utils.spectral_norm as SAGAN saves it: the weight that a model in evaluation multiplies with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

PARTS = ("query", "key", "value")


@contextmanager
def saved(folder: Path, state: dict[str, torch.Tensor]) -> Iterator[Report]:
    tensors = {f"l.attn.{name}": value.detach().contiguous() for name, value in state.items()}
    save_file(tensors, folder / "m.safetensors")
    with open_checkpoint(folder / "m.safetensors") as checkpoint:
        yield inspect(checkpoint, Options())


@pytest.mark.parametrize(
    "kind", [torch.nn.Linear, lambda cols, rows: torch.nn.Conv2d(cols, rows, 1)], ids=["linear", "1x1"]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_weight_is_what_torch_divides(kind, tmp_path: Path) -> None:
    layers = torch.nn.ModuleDict({part: torch.nn.utils.spectral_norm(kind(8, 12)) for part in PARTS})
    layers.train()
    for layer in layers.values():
        layer.weight_orig.data.mul_(5)
        layer(torch.zeros(1, 8, *[1] * (layer.weight_orig.ndim - 2)))  # u and v move a step
    layers.eval()
    state = layers.state_dict()
    with saved(tmp_path, state) as report:
        (attention,) = report.attentions
        values = [torch.from_numpy(part.numpy()).float() for part in attention.parts]
    assert [part.name for part in attention.parts] == ["q", "k", "v"]
    for part, read, layer in zip(attention.parts, values, layers.values(), strict=True):
        layer(torch.zeros(1, 8, *[1] * (layer.weight_orig.ndim - 2)))
        expected = layer.weight.detach()
        assert part.measured is not None
        assert part.measured.norm == pytest.approx(float(expected.double().norm()), rel=1e-5)
        assert torch.allclose(read, expected.flatten(1), rtol=1e-5)
        assert not torch.allclose(read, layer.weight_orig.detach().flatten(1), rtol=0.1)
        encoding = part.weight.encoding
        assert encoding is not None
        assert encoding.label == "float32, divided by its spectral norm: W / (u . W v)"
        names = {"state_dict": {f"l.attn.{key}": value for key, value in state.items()}, "torch": torch}
        exec("\n".join(encoding.python()), names)
        assert torch.allclose(names["weight"], expected)


def shapes(**more: tuple[int, ...]) -> dict[str, torch.Tensor]:
    of_each = {"weight_orig": (12, 8), "weight_u": (12,), "weight_v": (8,), **more}
    return {f"{part}.{leaf}": torch.ones(shape) for part in PARTS for leaf, shape in of_each.items()}


def test_vectors_of_other_sizes_give_no_values(tmp_path: Path) -> None:
    """As of a transposed convolution, whose rows are the second axis."""
    with saved(tmp_path, shapes(weight_u=(8,), weight_v=(12,))) as found:
        assert found.attentions == ()
    ((code, message),) = ((finding.code, finding.message) for finding in found.findings)
    assert code == "no-values"
    assert message.endswith("weight_u [8] and l.attn.key.weight_v [12] are no vectors of its rows and columns")


def test_what_is_pruned_besides_is_not_divided(tmp_path: Path) -> None:
    with saved(tmp_path, shapes(weight_mask=(12, 8))) as found:
        assert found.attentions == ()
        assert "parametrised" in {finding.code for finding in found.findings}
