"""Shard indexes as transformers and diffusers write them, over safetensors and over torch files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from qkvinspect.error_codes import Code
from qkvinspect.formats import open_checkpoint

STATE = {f"layers.{n}.weight": torch.full((2, 3), float(n)) for n in range(4)}


def write(folder: Path, kind: str, names: dict[str, str] | None = None) -> Path:
    """An index of STATE; ``names`` says in which file each tensor is."""
    suffix = {"safetensors": "safetensors", "bin": "bin"}[kind]
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    names = names or {name: f"{stem}-0000{1 + n // 2}-of-00002.{suffix}" for n, name in enumerate(STATE)}
    for file in set(names.values()):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shard = {name: STATE[name] for name in names if names[name] == file}
        if kind == "bin":
            torch.save(shard, folder / file)
        else:
            safetensors.torch.save_file(shard, folder / file)
    path = folder / f"{stem}.{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": names}, indent=2))
    return path


def change(path: Path, name: str, file: object) -> Path:
    index = json.loads(path.read_text())
    index["weight_map"][name] = file
    path.write_text(json.dumps(index))
    return path


KINDS = pytest.mark.parametrize("kind", ["safetensors", "bin"])


@KINDS
@pytest.mark.parametrize("by", ["index", "folder"])
def test_all_shards_are_one_checkpoint(kind: str, by: str, tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    path = write(tmp_path, kind)
    with open_checkpoint(path if by == "index" else tmp_path) as checkpoint:
        assert checkpoint.format == {"safetensors": "sharded-safetensors", "bin": "sharded-torch-zip"}[kind]
        assert checkpoint.loader == {"safetensors": "safetensors", "bin": "torch"}[kind]
        assert checkpoint.sorted_names == (kind == "safetensors")
        assert checkpoint.path == str(path)
        assert checkpoint.num_files == 2
        assert checkpoint.num_bytes == sum(file.stat().st_size for file in tmp_path.glob("*-of-*"))
        assert list(checkpoint.tensors) == list(STATE)
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(STATE[name])
        assert not checkpoint.findings


@KINDS
def test_shards_in_folders_below(kind: str, tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    names = {name: f"shards/{n}/part.{kind}" for n, name in enumerate(STATE)}
    with open_checkpoint(write(tmp_path, kind, names)) as checkpoint:
        assert checkpoint.num_files == 4
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(STATE[name])


def test_shards_of_both_kinds(tmp_path: Path) -> None:
    torch.save({"other": torch.ones(2)}, tmp_path / "other.bin")
    path = change(write(tmp_path, "safetensors"), "other", "other.bin")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "sharded-safetensors+torch-zip"
        assert checkpoint.num_files == 3


@KINDS
def test_a_tensor_in_two_shards(kind: str, tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, kind)
    _, second = sorted(tmp_path.glob("*-of-*"))
    save = torch.save if kind == "bin" else safetensors.torch.save_file
    save({name: STATE[name] for name in list(STATE)[1:]}, second)
    error = refused(path, "stands in two shards")
    assert (error.code, error.tensor) == (Code.INDEX_TWICE, "layers.1.weight")


@KINDS
def test_tensors_that_the_index_omits(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    index = json.loads(path.read_text())
    del index["weight_map"]["layers.1.weight"]
    path.write_text(json.dumps(index))
    with open_checkpoint(path) as checkpoint:
        assert "layers.1.weight" not in checkpoint.tensors
        (finding,) = checkpoint.findings
    assert (finding.code, finding.severity) == ("unlisted-tensors", "warning")
    assert "layers.1.weight" in finding.message


@pytest.mark.gate
def test_more_shards_than_a_process_may_have_files(tmp_path: Path) -> None:
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from qkvinspect.formats import open_checkpoint
with open_checkpoint({str(tmp_path)!r}) as checkpoint:
    sums = [sum(info.region.read(0, info.nbytes)) for info in checkpoint.tensors.values()]
assert sums == [n % 251 for n in range(500)]
"""
    names = {f"w{n}": f"model-{n}.safetensors" for n in range(500)}
    for n, (name, file) in enumerate(names.items()):
        safetensors.torch.save_file({name: torch.tensor([n % 251], dtype=torch.uint8)}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    subprocess.run([sys.executable, "-c", code], check=True)


@KINDS
def test_a_link_that_leads_out(kind: str, tmp_path: Path, refused: Any) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = write(inside, kind)
    shard = next(inside.glob("*-00002-of-*"))
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to("../elsewhere")
    assert refused(path, "a link that leads out", file=shard).code is Code.FILE_LINK_OUT
    (tmp_path / "other").mkdir()
    path.rename(tmp_path / "other" / "index")
    path.symlink_to("../other/index")
    assert refused(path, file=shard).code is Code.FILE_LINK_OUT
    shard.unlink()
    (tmp_path / "elsewhere").rename(inside / "blob")
    shard.symlink_to("blob")
    with open_checkpoint(path) as checkpoint:
        assert len(checkpoint.tensors) == len(STATE)


@KINDS
def test_a_link_to_a_blob_is_followed(kind: str, tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    """The hub's cache keeps snapshots of links into ``blobs``."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    path = write(snapshot, kind)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(STATE[name])


@KINDS
def test_a_missing_shard(kind: str, tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, kind)
    gone = next(tmp_path.glob("*-00002-of-*"))
    gone.unlink()
    refused(path, "No such file", file=gone)


@KINDS
def test_a_damaged_shard(kind: str, tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, kind)
    cut = next(tmp_path.glob("*-00002-of-*"))
    cut.write_bytes(cut.read_bytes()[:-5])
    refused(path, file=cut)


@KINDS
def test_a_tensor_that_is_not_in_its_shard(kind: str, tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, kind)
    suffix = path.name.split(".")[1]
    change(path, "layers.0.weight", f"{path.name.split('.')[0]}-00002-of-00002.{suffix}")
    error = refused(path, "does not hold it")
    assert error.tensor == "layers.0.weight"


def test_a_tensor_that_no_shard_has(tmp_path: Path, refused: Any) -> None:
    path = change(write(tmp_path, "safetensors"), "ghost.weight", "model-00001-of-00002.safetensors")
    assert refused(path, "does not hold it").tensor == "ghost.weight"


@pytest.mark.parametrize(
    "name",
    [
        "../model-00001-of-00002.safetensors",
        "sub/../../x.safetensors",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        "",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "x\x00.safetensors",
    ],
)
def test_names_that_lead_out(name: str, tmp_path: Path, refused: Any) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    safetensors.torch.save_file(STATE, tmp_path / "model-00001-of-00002.safetensors")
    refused(change(write(inside, "safetensors"), "layers.0.weight", name), "outside its own folder")


@pytest.mark.parametrize("name", [".", "sub", "./"])
def test_names_of_folders(name: str, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "sub").mkdir()
    path = change(write(tmp_path, "safetensors"), "layers.0.weight", name)
    refused(path, "not a file that can be inspected", file=tmp_path / name)


def test_an_index_that_names_itself(tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, "safetensors")
    refused(change(path, "layers.0.weight", path.name))


def test_an_index_that_names_a_fifo(tmp_path: Path, refused: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = change(write(tmp_path, "safetensors"), "layers.0.weight", "pipe")
    refused(path, "named pipe", file=tmp_path / "pipe")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "not a shard index"),
        ('{"weight_map": {}}', "not a shard index"),
        ('{"weight_map": []}', "not a shard index"),
        ('{"weight_map": null}', "not a shard index"),
        ('{"architectures": ["BertModel"], "hidden_size": 8}', "not a shard index"),
        ('{"weight_map": {"w": 1}}', "not a file name"),
        ('{"weight_map": {"w": null}}', "not a file name"),
        ('{"weight_map": {"w": ["a"]}}', "not a file name"),
        ('{"weight_map": {"w": "a", "w": "b"}}', "'w' stands in it twice"),
        ('{"weight_map": {"w": "a"}, "weight_map": {}}', "twice"),
        ('{"weight_map": {"w": "a"', "not valid JSON"),
        ('{"weight_map": NaN}', "not valid JSON"),
        ('{"weight_map": {"w": "a"}} x', "not valid JSON"),
        ('{"weight_map": ' + '{"a":' * 100_000, "too deeply|not valid JSON"),
        ("{'weight_map': {}}", "not valid JSON"),
        ('{"w":1, "\xff', "not valid JSON"),
        ('{"meta":{"total_size":1}}', "not a shard index"),
        ('\n\n  {"weight_map": {}}', "not a shard index"),
    ],
)
def test_malformed_indexes(text: str, match: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    refused(path, match)


def test_an_index_whose_ninth_byte_is_a_brace(tmp_path: Path) -> None:
    """Compact JSON: ``{"meta":{...`` looks like a safetensors header for a moment."""
    path = write(tmp_path, "safetensors")
    names = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"meta": {"x": 1}, "weight_map": names}, separators=(",", ":")))
    assert path.read_bytes()[8:9] == b"{"
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == list(STATE)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what /proc shows")
def test_every_file_is_closed_again(tmp_path: Path, refused: Any) -> None:
    path = write(tmp_path, "bin")
    before = open_files()
    with open_checkpoint(path) as checkpoint:
        assert open_files() == before + 1  # shards are opened when they are read
        checkpoint.close()
        assert open_files() == before
    change(path, "layers.3.weight", "pytorch_model-00001-of-00002.bin")
    refused(path)
    next(tmp_path.glob("*-00002-of-*")).write_bytes(b"")
    refused(path, file=next(tmp_path.glob("*-00002-of-*")))
    assert open_files() == before
