"""Float8 of a tensor that holds the shares of several ranks, each quantised alone: its blocks of scales begin anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qkvinspect.errors import LayoutError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import rows_of_values

NAME = "model.layers.0.self_attn.qkv_proj.weight"


def striped(stripes: int, rows: int, cols: int = 200) -> tuple[dict[str, Tensor], Tensor]:
    """A tensor of stripes with their scales, and its numbers."""
    torch.manual_seed(0)
    codes = torch.randn(stripes * rows, cols).to(torch.float8_e4m3fn)
    high, wide = -(-rows // 128), -(-cols // 128)
    scales = torch.rand(stripes * high, wide) + 0.5
    values = [
        codes[stripe * rows :][:rows].double()
        * scales[stripe * high :][:high].double().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
        for stripe in range(stripes)
    ]
    return {NAME: codes, f"{NAME}_scale_inv": scales}, torch.cat(values)


@pytest.mark.parametrize(("stripes", "rows"), [(4, 320), (2, 320), (8, 288), (4, 3392)])
def test_numbers(stripes: int, rows: int, tmp_path: Path) -> None:
    tensors, values = striped(stripes, rows)
    save_file(tensors, tmp_path / "own.safetensors")
    with open_checkpoint(tmp_path / "own.safetensors") as checkpoint:
        weight = weights_of(checkpoint)[NAME]
        assert not weight.why
        assert weight.encoding
        assert f"anew after each {rows} rows" in weight.encoding.label
        matrix = weight.as_matrix("out_in")
        for run in (range(stripes * rows), range(rows - 3, rows + 3), range(1, stripes * rows, 7)):
            assert torch.equal(torch.from_numpy(rows_of_values(matrix, [run])).double(), values[list(run)])
        made = {"state_dict": tensors, "torch": torch}
        exec("\n".join(weight.encoding.python()), made)
        assert torch.allclose(made["weight"].double(), values, rtol=1e-6)


def test_rows_that_go_along_with_their_scales(tmp_path: Path) -> None:
    tensors, _ = striped(4, 320)
    save_file(tensors, tmp_path / "own.safetensors")
    with open_checkpoint(tmp_path / "own.safetensors") as checkpoint:
        encoding = weights_of(checkpoint)[NAME].encoding
        assert encoding
        _, scales = encoding.cut([range(320, 576), range(576, 640)])
        assert scales.runs == (range(3, 5), range(5, 6))  # of the second stripe's three rows of scales
        with pytest.raises(LayoutError, match="share scales"):
            encoding.cut([range(128, 400)])


def test_scales_that_no_number_of_stripes_explains_alone(tmp_path: Path) -> None:
    """Stripes of two ranks and of four would have as many scales: nothing is chosen."""
    tensors, _ = striped(4, 200)
    save_file(tensors, tmp_path / "own.safetensors")
    with open_checkpoint(tmp_path / "own.safetensors") as checkpoint:
        assert "does not fit" in weights_of(checkpoint)[NAME].why


def test_other_weights_have_no_stripes(tmp_path: Path) -> None:
    tensors, _ = striped(4, 320)
    save_file({name.replace("qkv", "o"): one for name, one in tensors.items()}, tmp_path / "own.safetensors")
    with open_checkpoint(tmp_path / "own.safetensors") as checkpoint:
        assert "does not fit" in weights_of(checkpoint)[NAME.replace("qkv", "o")].why
