"""torch.nn.utils.weight_norm: what is shown of it, and what can be pasted, for each axis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect


@pytest.mark.parametrize(("dim", "of"), [(0, "each row"), (1, "each column"), (None, "the whole")])
def test_what_is_pasted_gives_the_weight(dim: int | None, of: str, tmp_path: Path) -> None:
    layer = torch.nn.Module()
    for part in ("q_proj", "k_proj", "v_proj"):
        layer.add_module(part, torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 12), dim=dim))
    state = {f"h.0.self_attn.{name}": value.detach() for name, value in layer.state_dict().items()}
    state = {name: 3 * value if name.endswith("original0") else value for name, value in state.items()}
    save_file(state, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint).attentions
        for weight in attention.weights:
            assert weight.encoding is not None
            assert weight.encoding.label == f"float32, normalised: g * v / |v| for {of}"
            names = {"state_dict": state, "torch": torch}
            exec("\n".join(weight.encoding.python()), names)
            stem = weight.name.removesuffix(".weight") + ".parametrizations.weight.original"
            expected = torch._weight_norm(state[f"{stem}1"], state[f"{stem}0"], -1 if dim is None else dim)
            assert torch.allclose(names["weight"], expected)
