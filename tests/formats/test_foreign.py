"""Files of other kinds: each is named, with a next step; none is waited for, followed or guessed at."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import FORMATS, open_checkpoint


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def an_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def an_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

FOREIGN: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "is empty", "download"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF", "converted from"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5", "PyTorch checkpoint"),
    "NumPy": (an_array(), "NumPy", "PyTorch checkpoint"),
    "NumPy zip": (an_npz(), "not a torch checkpoint", "archive"),
    "gzip": (gzip.compress(b"x" * 100), "gzip", "gunzip"),
    "bzip2": (bz2.compress(b"x" * 100), "bzip2", "unpack"),
    "xz": (lzma.compress(b"x" * 100), "xz", "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd", "unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "7-Zip", "unpack"),
    "tar": (a_tar(), "tar archive", "unpack"),
    "bare pickle": (pickle.dumps({"w": np.ones(3)}), "bare pickle", "torch.save"),
    "LFS pointer": (LFS, "Git LFS pointer", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page", "download"),
    "HTML after spaces": (b"\n  <HTML>", "web page", "download"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page", "download"),
    "text": (b"Not Found", "not a checkpoint", "right file"),
    "ONNX": (b"\x08\x07\x12\x07pytorch", "not a checkpoint", "right file"),
    "zeros": (bytes(1000), "not a checkpoint", "right file"),
    "config": (b'{"hidden_size": 8}', "not a shard index", "checkpoint file"),
    "JSON list": (b"[1, 2]", "not a checkpoint", "right file"),
}


@pytest.mark.parametrize(("data", "match", "hint"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_named(data: bytes, match: str, hint: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert hint in (refused(path, match).hint or "")


@pytest.mark.parametrize(("data", "match", "hint"), FOREIGN.values(), ids=FOREIGN)
def test_so_are_they_as_shards(data: bytes, match: str, hint: str, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "shard.bin").write_bytes(data)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"w": "shard.bin"}}')
    refused(index, file=tmp_path / "shard.bin")


def test_one_format_at_most_recognises_a_file() -> None:
    for data, _, _ in FOREIGN.values():
        assert sum(format.sniff(data[:512]) for format in FORMATS) <= 1
    assert len({format.NAME for format in FORMATS}) == len(FORMATS)


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.txt", "model", "model.gguf", "config.json"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.format == "torch-zip"


def test_missing(tmp_path: Path, refused: Any) -> None:
    refused(tmp_path / "nothing.pt", "No such file")
    refused(tmp_path / "nowhere" / "nothing.pt", "No such file")


def test_a_file_used_as_a_folder(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "model.pt", "Not a directory")


def test_a_dangling_and_a_looping_link(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nothing")
    refused(tmp_path / "dangling.pt", "No such file")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt", "symbolic links")


def test_a_name_that_is_too_long(tmp_path: Path, refused: Any) -> None:
    refused(tmp_path / ("x" * 300), "name too long")


@pytest.mark.parametrize("path", ["a\x00b.pt", "\ud800.pt"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(CheckpointError, match="is not a path"):
        open_checkpoint(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path, refused: Any) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "a named pipe")


def test_devices(refused: Any) -> None:
    refused(Path("/dev/zero"), "a character device")


def test_a_socket(tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        refused(Path("s"))


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "real.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "real.pt")
    with open_checkpoint(tmp_path / "link.pt") as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
