"""DoRA as LyCORIS stores it under kohya's names: ``dora_scale``, a length for each row or for each column.

Expected is what LyCORIS' own LoConModule merges, kept in ``data/lycoris_*.safetensors`` by ``make_lycoris.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

DATA = Path(__file__).parent / "data"
KINDS = ("rows", "columns")


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """A kind of lengths, and what stands in its file; base.safetensors and adapter.safetensors are made of it."""
    stored = load_file(DATA / f"lycoris_{request.param}.safetensors")
    base = {name: value for name, value in stored.items() if not name.startswith(("adapter.", "merged."))}
    save_file(base, tmp_path / "base.safetensors")
    adapter = {name.removeprefix("adapter."): value for name, value in stored.items() if name.startswith("adapter.")}
    save_file(adapter, tmp_path / "adapter.safetensors")
    return request.param, stored


def test_the_sum_is_what_lycoris_merges(written, tmp_path: Path, run) -> None:
    _, stored = written
    adapter, base, merged = (tmp_path / f"{name}.safetensors" for name in ("adapter", "base", "merged"))
    assert run("export", "--all", adapter, "--base", base, "-o", merged, "--heads", "4").code == 0
    found = load_file(merged)
    expected = {name.removeprefix("merged."): value for name, value in stored.items() if name.startswith("merged.")}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)
        assert np.abs(found[name] - stored[name]).max() > 0.1, "the adapter changes something"


def test_alone_it_is_said_what_is_left_out(written, tmp_path: Path, run) -> None:
    kind, _ = written
    found = run("show", tmp_path / "adapter.safetensors", "--heads", "4")
    assert found.code == 0
    assert f"lengths that DoRA gives to the {kind} of the sum" in " ".join(found.out.split())


def test_a_length_too_few_is_an_error(written, tmp_path: Path, run) -> None:
    kind, _ = written
    adapter = load_file(tmp_path / "adapter.safetensors")
    name = "lora_unet_double_blocks_0_img_attn_qkv.dora_scale"
    adapter[name] = adapter[name][:-1] if kind == "rows" else adapter[name][:, :-1]
    save_file(adapter, tmp_path / "adapter.safetensors")
    arguments = ("--base", tmp_path / "base.safetensors", "--heads", "4")
    found = run("check", tmp_path / "adapter.safetensors", *arguments)
    assert found.code == 1
    assert f"{name}: has another size" in " ".join(found.out.split())


def test_only_lengths_of_rows_move_with_the_rows(written, tmp_path: Path, run) -> None:
    kind, stored = written
    adapter = load_file(tmp_path / "adapter.safetensors")
    named = {
        f"blocks.0.attn.qkv.{key.rpartition('_qkv.')[2]}": value for key, value in adapter.items() if "_qkv." in key
    }
    save_file(named, tmp_path / "one.safetensors")
    split = tmp_path / "split.safetensors"
    found = run("convert", tmp_path / "one.safetensors", "--to", "qkv-proj", "--heads", "4", "-o", split)
    if kind == "columns":
        assert found.code == 2
        assert "the columns of a whole weight" in " ".join(found.err.split())
        assert not split.exists()
        return
    assert found.code == 0, found.err
    made = load_file(split)
    lengths = [value for name, value in sorted(made.items()) if name.endswith(".dora_scale")]
    whole = stored["adapter.lora_unet_double_blocks_0_img_attn_qkv.dora_scale"]
    order = [whole[16:32], whole[:16], whole[32:]]  # k, q, v, by name
    for mine, value in zip(lengths, order, strict=True):
        np.testing.assert_array_equal(mine, value)
