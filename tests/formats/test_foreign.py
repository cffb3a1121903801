"""Files of other kinds: each is named, with a next step; none is waited for, followed or guessed at."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import re
import socket
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.package

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import FORMATS, open_checkpoint
from tests.batches import batched


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


def an_npz(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, x=np.ones(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def a_keras_model() -> bytes:
    """keras/src/saving/saving_lib.py: a zip with these three."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
    return buffer.getvalue()


def a_table() -> bytes:
    """leveldb's doc/table_format.md: blocks, then a footer of 48 bytes that ends in a number."""
    return bytes(200) + (0xDB4775248B80FB57).to_bytes(8, "little")


FOREIGN: dict[str, tuple[bytes, str, str, Code]] = {
    "empty": (b"", "is empty", "download", Code.FILE_EMPTY),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5", "PyTorch checkpoint", Code.IS_HDF5),
    "Keras": (a_keras_model(), "Keras model", "PyTorch checkpoint", Code.IS_KERAS),
    "NumPy": (an_array(), "NumPy array", "save_file", Code.IS_NUMPY),
    "NumPy zip": (an_npz(np.savez), "NumPy archive", "save_file", Code.IS_NUMPY),
    "NumPy zip, compressed": (an_npz(np.savez_compressed), "NumPy archive", "save_file", Code.IS_NUMPY),
    "gzip": (gzip.compress(b"x" * 100), "gzip", "gunzip", Code.IS_COMPRESSED),
    "bzip2": (bz2.compress(b"x" * 100), "bzip2", "bunzip2", Code.IS_COMPRESSED),
    "xz": (lzma.compress(b"x" * 100), "xz", "unxz", Code.IS_COMPRESSED),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd", "unzstd", Code.IS_COMPRESSED),  # RFC 8878, 3.1.1
    "lz4": (b"\x04\x22\x4d\x18" + bytes(20), "lz4", "unlz4", Code.IS_COMPRESSED),  # lz4_Frame_format.md
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "7-Zip", "unpack", Code.IS_COMPRESSED),  # 7zFormat.txt
    "RAR": (b"Rar!\x1a\x07\x01\x00", "RAR", "unpack", Code.IS_COMPRESSED),  # rarlab's technote.htm
    "tar": (a_tar(), "tar archive", "unpack", Code.IS_TAR),
    "bare pickle": (pickle.dumps({"w": np.ones(3)}), "bare pickle", "torch.save", Code.IS_BARE_PICKLE),
    "LFS pointer": (LFS, "Git LFS pointer", "git lfs pull", Code.IS_LFS_POINTER),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page", "download", Code.IS_WEB_PAGE),
    "HTML after spaces": (b"\n  <HTML>", "web page", "download", Code.IS_WEB_PAGE),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page", "download", Code.IS_WEB_PAGE),
    "JSON error": (b'{"error": "Invalid credentials"}', "error message of a server", "login", Code.IS_JSON_ERROR),
    "text": (b"Not Found", "is a text", "read it", Code.IS_TEXT),
    "text of other languages": ("Größe nicht verfügbar\n".encode(), "is a text", "read it", Code.IS_TEXT),
    "text, cut in a letter": (b"x" + "é".encode() * 600, "is a text", "read it", Code.IS_TEXT),
    # saved_model.proto: saved_model_schema_version 1, meta_graphs.
    "SavedModel": (b"\x08\x01\x12\x80\x10\x0a" + bytes(80), "SavedModel", "from_tf", Code.IS_TENSORFLOW),
    "TensorFlow index": (a_table(), "index of a TensorFlow checkpoint", "from_tf", Code.IS_TENSORFLOW),
    # msgpack's spec.md: a map of one entry, whose key is a text of six bytes.
    "Flax": (b"\x81\xa6params\x81\xa1w\xc4\x01\0", "msgpack", "from_flax", Code.IS_MSGPACK),
    "Flax of many parts": (b"\xde\x00\x10\xd9\x20" + b"k" * 32 + b"\x80", "msgpack", "from_flax", Code.IS_MSGPACK),
    "zeros": (bytes(1000), "not a checkpoint", "right file", Code.NOT_A_CHECKPOINT),
    "config": (b'{"hidden_size": 8}', "not a shard index", "checkpoint file", Code.INDEX_MAP),
    "JSON list": (b"[1, 2]", "not a checkpoint", "right file", Code.NOT_A_CHECKPOINT),
    "latin-1": (b"Gr\xf6\xdfe nicht verf\xfcgbar", "not a checkpoint", "right file", Code.NOT_A_CHECKPOINT),
}


@batched("data match hint code", FOREIGN)
def test_foreign_files_are_named(data: bytes, match: str, hint: str, code: Code, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    error = refused(path, match)
    assert error.code is code
    assert hint in error.hint


def test_the_first_bytes_of_an_unknown_file_are_shown(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "model.pt").write_bytes(bytes(range(200, 230)))
    assert refused(tmp_path / "model.pt", "not a checkpoint").found == "bytes c8 c9 ca cb cc cd ce cf"


@batched("data match hint code", FOREIGN)
def test_so_are_they_as_shards(data: bytes, match: str, hint: str, code: Code, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "shard.bin").write_bytes(data)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"w": "shard.bin"}}')
    refused(index, file=tmp_path / "shard.bin")


def test_one_format_at_most_recognises_a_file() -> None:
    for data, *_ in FOREIGN.values():
        assert sum(load().sniff(data[:512]) for load in FORMATS) <= 1


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def test_torchscript(tmp_path: Path, refused: Any) -> None:
    """The line in the hint saves what can be inspected then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(Small(), torch.ones(1, 2))
        module.save(str(tmp_path / "m.pt"))
        error = refused(tmp_path / "m.pt", "TorchScript program")
        assert error.code is Code.IS_TORCHSCRIPT
        run_hint(error.hint, tmp_path)
        module._save_for_lite_interpreter(str(tmp_path / "m.ptl"))
    assert refused(tmp_path / "m.ptl").code is Code.IS_TORCHSCRIPT
    with open_checkpoint(tmp_path / "state.pt") as checkpoint:
        assert list(checkpoint.tensors) == ["linear.weight", "linear.bias"]


def run_hint(hint: str, folder: Path) -> None:
    found = re.search(r"torch\.save\(.*'state\.pt'\)", hint)
    assert found
    with contextlib.chdir(folder):
        exec(found[0], {"torch": torch, "path": next(str(path) for path in folder.iterdir())})


@pytest.mark.filterwarnings("ignore")
def test_torch_package(tmp_path: Path, refused: Any) -> None:
    with torch.package.PackageExporter(tmp_path / "m.pt") as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", torch.nn.Linear(2, 2))
    error = refused(tmp_path / "m.pt", "torch.package archive")
    assert (error.code, "load_pickle" in error.hint) == (Code.IS_PACKAGE, True)


@pytest.mark.gate
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("torch_compiler")
def test_torch_export(tmp_path: Path, refused: Any) -> None:
    torch.export.save(torch.export.export(Small(), (torch.ones(1, 2),)), tmp_path / "m.pt2")
    error = refused(tmp_path / "m.pt2", "program of torch.export")
    assert error.code is Code.IS_EXPORT
    run_hint(error.hint, tmp_path)
    with open_checkpoint(tmp_path / "state.pt") as checkpoint:
        assert list(checkpoint.tensors) == ["linear.weight", "linear.bias"]


def test_torch_export_of_torch_2_1(tmp_path: Path, refused: Any) -> None:
    """torch/export/__init__.py of that release writes these, without a folder around them."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in ("serialized_exported_program.json", "serialized_state_dict.json", "version"):
            archive.writestr(name, b"{}")
    assert refused(tmp_path / "m.pt2").code is Code.IS_EXPORT


@pytest.mark.parametrize("name", ["zero_pp_rank_0_mp_rank_00_optim_states.pt", "renamed.pt"])
def test_a_zero_partition(name: str, tmp_path: Path, refused: Any) -> None:
    """deepspeed/runtime/zero/stage_1_and_2.py, state_dict."""
    state = {"zero_stage": 2, "partition_count": [2], "single_partition_of_fp32_groups": [torch.ones(8)]}
    torch.save({"optimizer_state_dict": state, "ds_version": "0.15.0"}, tmp_path / name)
    error = refused(tmp_path / name, "DeepSpeed ZeRO")
    assert (error.code, "zero_to_fp32.py" in error.hint) == (Code.IS_ZERO, True)


def test_what_stage_3_keeps_of_a_model(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save({"module": {"w": torch.empty(0)}, "param_shapes": [{"w": torch.Size([4, 4])}]}, path)
    assert refused(path).code is Code.IS_ZERO


@pytest.mark.parametrize("name", ["_flat_param", "layers.0._fsdp_wrapped_module.flat_param_0", "layers.0._flat_param"])
def test_flat_parameters(name: str, tmp_path: Path, refused: Any) -> None:
    """torch/distributed/fsdp/_flat_param.py and _state_dict_utils.py: FLAT_PARAM is ``_flat_param``."""
    torch.save({name: torch.ones(100), "norm.weight": torch.ones(4)}, tmp_path / "m.pt")
    error = refused(tmp_path / "m.pt", "flat parameters")
    assert (error.code, "FULL_STATE_DICT" in error.hint) == (Code.IS_FLAT, True)


FOLDERS = {
    "zarr": (["common.pt", "decoder.layers.weight/.zarray", "decoder.layers.weight/0.0"], Code.IS_ZARR),
    "ZeRO": (["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], Code.IS_ZERO),
    "the folder around ZeRO": (["latest", "zero_to_fp32.py", "global_step1/mp_rank_00_model_states.pt"], Code.IS_ZERO),
    "SavedModel": (["saved_model.pb", "variables/variables.index"], Code.IS_TENSORFLOW),
    "TensorFlow": (["checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"], Code.IS_TENSORFLOW),
}


@pytest.mark.parametrize(("names", "code"), FOLDERS.values(), ids=FOLDERS)
def test_folders_of_other_kinds(names: list[str], code: Code, tmp_path: Path, refused: Any) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert refused(tmp_path).code is code


def test_a_checkpoint_beside_those_of_other_kinds(tmp_path: Path) -> None:
    for name in ("saved_model.pb", "zero_to_fp32.py"):
        (tmp_path / name).write_bytes(b"x")
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


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
