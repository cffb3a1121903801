"""export --split: names, bits, dtypes, metadata, and that nothing is lost or half-written."""

from __future__ import annotations

import json
import os
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qkvinspect.export import split_pieces, write
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import PER_HEAD, QKV
from qkvinspect.weights.reading import BLOCK

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_bit_is_kept(tmp_path: Path, run, dtype: torch.dtype, suffix: str) -> None:
    weight = torch.randint(0, 256, (24, 8 * dtype.itemsize), dtype=torch.uint8).view(dtype)
    weight.view(torch.uint8)[:, :8] = torch.tensor([1, 0, 0, 0, 0, 0, 0xF0, 0x7F])  # float64's signalling NaN
    bias = torch.randint(0, 256, (24 * dtype.itemsize,), dtype=torch.uint8).view(dtype)
    torch.save({"a.in_proj_weight": weight, "a.in_proj_bias": bias}, tmp_path / "model.pt")
    target = tmp_path / f"qkv{suffix}"
    result = run("export", "--split", tmp_path / "model.pt", "-o", target)
    assert (result.code, result.err) == (0, "")
    parts = load(target)
    for index, part in enumerate("qkv"):
        assert torch.equal(bits(parts[f"a.{part}_proj.weight"]), bits(weight[8 * index : 8 * index + 8]))
        assert torch.equal(bits(parts[f"a.{part}_proj.bias"]), bits(bias[8 * index : 8 * index + 8]))
        assert parts[f"a.{part}_proj.weight"].dtype == dtype


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128, torch.int8, torch.uint16])
def test_other_dtypes_are_kept_in_torch_files(tmp_path: Path, run, dtype: torch.dtype) -> None:
    weight = torch.randint(0, 100, (24, 8 * dtype.itemsize), dtype=torch.uint8).view(dtype)
    torch.save({"a.in_proj_weight": weight}, tmp_path / "model.pt")
    assert run("export", "--split", tmp_path / "model.pt", "-o", tmp_path / "qkv.pt").code == 0
    assert torch.equal(bits(load(tmp_path / "qkv.pt")["a.k_proj.weight"]), bits(weight[8:16]))


def test_what_safetensors_cannot_hold_is_refused(tmp_path: Path, run) -> None:
    torch.save({"a.in_proj_weight": torch.zeros(24, 8, dtype=torch.complex128)}, tmp_path / "model.pt")
    result = run("export", "--split", tmp_path / "model.pt", "-o", tmp_path / "qkv.safetensors")
    assert result.code == 2
    assert "safetensors has no dtype complex128" in result.err
    assert os.listdir(tmp_path) == ["model.pt"]


def test_float4_changes_its_count_with_the_format(tmp_path: Path, run) -> None:
    """torch counts pairs where safetensors counts numbers; the bytes are the same."""
    raw = torch.randint(0, 256, (24, 4), dtype=torch.uint8)
    torch.save({"a.in_proj_weight": raw.view(torch.float4_e2m1fn_x2)}, tmp_path / "pairs.pt")
    save_file({"a.in_proj_weight": torch.randint(0, 256, (24, 4), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
              tmp_path / "fours.safetensors")  # fmt: skip
    result = run("export", "--split", tmp_path / "fours.safetensors", "-o", tmp_path / "x.pt", "--heads", "2")
    assert result.code == 0
    assert load(tmp_path / "x.pt")["a.q_proj.weight"].shape == (8, 4)
    result = run("export", "--split", tmp_path / "x.pt", "-o", tmp_path / "y.safetensors")
    assert result.code == 0
    with safe_open(tmp_path / "y.safetensors", framework="np") as file:
        assert file.get_slice("a.q_proj.weight").get_shape() == [8, 8]


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(8, 24).T,
        torch.randn(30, 10)[3:27, 1:9],
        torch.randn(24, 1).expand(24, 8),
        torch.randn(1, 8).expand(24, 8),
        torch.randn(48, 16)[::2, ::2],
        torch.randn(8, 48)[:, ::2].T,
    ],
    ids=["transposed", "offset", "columns expanded", "rows expanded", "strided", "strided transposed"],
)
@pytest.mark.parametrize("packing", [QKV, PER_HEAD], ids=["blocked", "per head"])
def test_views_are_gathered(tmp_path: Path, weight: torch.Tensor, packing: Any) -> None:
    torch.save({"a.w": weight}, tmp_path / "model.pt")
    layout = Layout("x", "X", (StoredWeight("w", packing),), "x.py", "proven", kv_heads="equal")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        report = inspect(checkpoint, Options(heads=("4",), norms=False), layouts=(layout,))
        write(report, split_pieces(report), tmp_path / "qkv.safetensors")
    index = (
        torch.arange(24).reshape(3, 8)
        if packing is QKV
        else torch.arange(24).reshape(4, 3, 2).transpose(0, 1).flatten(1)
    )
    for part, rows in zip("qkv", index, strict=True):
        assert torch.equal(load_file(tmp_path / "qkv.safetensors")[f"a.{part}_proj.weight"], weight[rows])


def test_many_blocks_make_one_tensor(tmp_path: Path, run) -> None:
    weight = torch.randn(3 * 1024, 1024)
    assert weight.nbytes > BLOCK
    torch.save({"a.in_proj_weight": weight.T.contiguous().T}, tmp_path / "model.pt")
    assert run("export", "--split", tmp_path / "model.pt", "-o", tmp_path / "qkv.safetensors").code == 0
    assert torch.equal(load(tmp_path / "qkv.safetensors")["a.v_proj.weight"], weight[2048:])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_heads_apart(samples: Path, run, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"heads{suffix}"
    assert run("export", "--heads-split", samples / "sharded", "-o", target).code == 0
    heads = load(target)
    whole = load_file(samples / "sharded/model-00001-of-00002.safetensors")
    assert len(heads) == 2 * (4 + 2 + 2)
    for part, count in (("q", 4), ("k", 2), ("v", 2)):
        name = f"model.layers.0.self_attn.{part}_proj"
        joined = torch.cat([heads[f"{name}.heads.{head}.weight"] for head in range(count)])
        assert torch.equal(joined, whole[f"{name}.weight"])


def test_heads_apart_need_their_number(samples: Path, run, tmp_path: Path) -> None:
    result = run("export", "--heads-split", samples / "transformer.pt", "-o", tmp_path / "heads.pt")
    assert result.code == 2
    assert "--heads N" in result.err
    assert not list(tmp_path.iterdir())


def test_metadata_says_from_where(samples: Path, run, tmp_path: Path) -> None:
    run("export", "--split", samples / "kdim_vdim.pt", "-o", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["qkvinspect.source"] == "kdim_vdim.pt"
    assert json.loads(metadata["qkvinspect.origin"])["k_proj.bias"] == {"tensor": "in_proj_bias", "rows": [[16, 32]]}
    assert json.loads(metadata["qkvinspect.layers"])[""]["num_heads"] == 4
    run("export", "--split", samples / "kdim_vdim.pt", "-o", tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert state._metadata["qkvinspect"] == metadata
    torch.nn.Linear(12, 16).load_state_dict({n.rpartition(".")[2]: t for n, t in state.items() if "k_proj" in n})


def test_layers_are_selected(samples: Path, run, tmp_path: Path) -> None:
    result = run("export", "--split", samples / "transformer.pt", "-l", "*multihead*", "-o", tmp_path / "x.safetensors")
    assert result.out.endswith("6 tensors of 1 layer, 3.3 kB\n")
    assert {name.rpartition(".multihead_attn.")[0] for name in load(tmp_path / "x.safetensors")} == {"decoder.layers.0"}


def test_nothing_is_overwritten_without_force(samples: Path, run, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    target.write_text("precious")
    result = run("export", "--split", samples / "transformer.pt", "-o", target)
    assert (result.code, target.read_text()) == (2, "precious")
    assert "exists already" in result.err
    assert "--force" in result.err
    assert run("export", "--split", samples / "transformer.pt", "-o", target, "--force").code == 0
    assert len(load(target)) == 18


def test_a_dangling_link_is_followed(samples: Path, run, tmp_path: Path) -> None:
    (tmp_path / "x.pt").symlink_to("new.pt")
    argv = ("export", "--split", samples / "transformer.pt", "-o", tmp_path / "x.pt")
    assert run(*argv).code == 0
    assert (tmp_path / "x.pt").is_symlink()
    assert len(torch.load(tmp_path / "new.pt")) == 18
    assert run(*argv).code == 2


def test_a_checkpoint_is_a_regular_file(samples: Path, run, tmp_path: Path) -> None:
    """Its header is written last, and --verify reads it again."""
    os.mkfifo(tmp_path / "x.safetensors")
    (tmp_path / "x.pt").mkdir()
    for name, kind in (("x.safetensors", "pipe"), ("x.pt", "folder")):
        argv = ("export", "--split", samples / "transformer.pt", "-o", tmp_path / name, "--force")
        for more in ((), ("--dry-run",)):
            result = run(*argv, *more)
            assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
            assert f"{name}: is a {kind}" in result.err
    assert sorted(os.listdir(tmp_path)) == ["x.pt", "x.safetensors"]
    assert (tmp_path / "x.safetensors").is_fifo()


@pytest.mark.parametrize("name", ["model.pt", "link.pt"])
def test_the_checkpoint_itself_is_never_replaced(samples: Path, run, tmp_path: Path, name: str) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes((samples / "transformer.pt").read_bytes())
    os.link(source, tmp_path / "link.pt")
    before = source.read_bytes()
    assert run("export", "--split", source, "-o", tmp_path / name, "--force").code == 2
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "x.gguf"], "suffix"),
        (["--split", "-o", "no/such/folder/x.pt"], "cannot be written"),
        (["--split", "-o", "x.pt", "--layer", "nothing"], "no attention module is called"),
    ],
)
def test_unusable_command_lines(
    samples: Path, run, tmp_path: Path, monkeypatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("export", samples / "transformer.pt", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert words in result.err
    assert not list(tmp_path.iterdir())


def test_two_layers_of_one_name_are_refused(tmp_path: Path, run) -> None:
    state = {f"a.{part}_proj.weight": torch.zeros(8, 8) for part in "qkv"}
    save_file({**state, "a.in_proj_weight": torch.zeros(24, 8)}, tmp_path / "model.safetensors")
    result = run("export", "--split", tmp_path / "model.safetensors", "-o", tmp_path / "x.pt")
    assert result.code == 2
    assert "two layers would be written under this name" in result.err


def test_the_file_has_the_mode_that_the_umask_gives(samples: Path, run, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run("export", "--split", samples / "transformer.pt", "-o", tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640


def test_a_failure_while_writing_leaves_nothing(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    result = run("export", "--split", samples / "transformer.pt", "-o", tmp_path / "x.safetensors")
    assert (result.code, list(tmp_path.iterdir())) == (2, [])
    assert "No space left on device" in result.err


def test_a_source_that_shrinks_while_it_is_read_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    save_file({"a.in_proj_weight": torch.zeros(24, 8)}, source)
    checkpoint = open_checkpoint(source)
    with closing(checkpoint):
        report = inspect(checkpoint, Options(norms=False))
        os.truncate(source, 200)
        with pytest.raises(Exception, match="became shorter"):
            write(report, split_pieces(report), tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_of_two_writers_one_wins(samples: Path, tmp_path: Path) -> None:
    """The name is taken by link, so that a file that appears meanwhile is not overwritten."""
    outcomes: list[str] = []

    def work() -> None:
        with open_checkpoint(samples / "transformer.pt") as checkpoint:
            report = inspect(checkpoint, Options(norms=False))
            try:
                write(report, split_pieces(report), tmp_path / "x.safetensors")
                outcomes.append("written")
            except Exception as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["UsageError"] * 3 + ["written"]
    assert os.listdir(tmp_path) == ["x.safetensors"]


def named(name: str) -> dict[str, torch.Tensor]:
    """A fused layer beside a tensor of this name."""
    return {"a.in_proj_weight": torch.ones(24, 8), "a.out_proj.weight": torch.ones(8, 8), name: torch.ones(2)}


def test_a_name_that_safetensors_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path, run) -> None:
    source = tmp_path / "model.pt"
    torch.save(named("__metadata__"), source)
    result = run("export", "--split", "--all", source, "-o", tmp_path / "out.safetensors")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "safetensors cannot hold a tensor of this name" in result.err
    assert os.listdir(tmp_path) == ["model.pt"]
    assert run("export", "--split", "--all", source, "-o", tmp_path / "out.pt").code == 0
    assert torch.load(tmp_path / "out.pt")["__metadata__"].tolist() == [1, 1]


def test_a_name_that_is_no_unicode_is_refused_before_anything_is_written(tmp_path: Path, run) -> None:
    """Python's pickles hold lone surrogates; JSON's escapes would, too, and no reader would take them."""
    source = tmp_path / "model.pt"
    torch.save(named("a\udc80b"), source)
    result = run("export", "--split", "--all", source, "-o", tmp_path / "out.safetensors")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("name", [" ", "\x00", "a\nb", "\U0001f600", "\u202e", '"', "\\", "a" * 10_000, "::x", "=1"])
def test_whatever_name_is_written_is_read_by_safetensors_itself(tmp_path: Path, run, name: str) -> None:
    source, out = tmp_path / "model.pt", tmp_path / "out.safetensors"
    torch.save(named(name), source)
    assert run("export", "--split", "--all", source, "-o", out).code == 0
    assert load_file(out)[name].tolist() == [1, 1]
