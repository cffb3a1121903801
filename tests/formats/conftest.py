"""Files to read: written by torch, by zipfile, or by hand; and what their tensors must read as."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.reading import read_rows
from qkvinspect.weights.strided import strided_matrix

Saved = Callable[..., Path]
Content = Callable[[TensorInfo], bytes]


def _content(info: TensorInfo) -> bytes:
    matrix = strided_matrix(info, "out_in")
    return b"".join(read_rows(matrix, (range(matrix.rows),)))


def _read_all(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for info in checkpoint.tensors.values():
            _content(info)


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if not tensor.numel():
        return b""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def content() -> Content:
    """All bytes of a tensor, row-major and little-endian, as qkvinspect reads them."""
    return _content


@pytest.fixture
def tensor_bytes() -> Callable[[torch.Tensor], bytes]:
    """The same by torch."""
    return _tensor_bytes


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Write an object with torch.save."""

    def save(obj: object, name: str = "model.pt", **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(obj, path, **options)
        return path

    return save


@pytest.fixture
def rezip() -> Callable[..., Path]:
    """Write a zip again, stored, with some entries changed, added, or (None) left out.

    Names are without the folder that torch puts around them.
    """

    def rewrite(path: Path, changes: Mapping[str, bytes | None]) -> Path:
        with zipfile.ZipFile(path) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        prefix = next(iter(entries)).partition("/")[0]
        entries |= {f"{prefix}/{name}": data for name, data in changes.items()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            for name, data in entries.items():
                if data is not None:
                    new.writestr(name, data)
        return path

    return rewrite


@pytest.fixture
def entry() -> Callable[[Path, str], bytes]:
    """One entry of a torch zip, named without its folder."""

    def read(path: Path, name: str) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return next(archive.read(full) for full in archive.namelist() if full.partition("/")[2] == name)

    return read


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[..., Path]:
    """A torch zip around a pickle written by hand; the storages' bytes by key."""

    def write(data_pkl: bytes, storages: Mapping[str, bytes] | None = None) -> Path:
        path = tmp_path / "byhand.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data_pkl)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", b"little")
            for key, data in (storages or {}).items():
                archive.writestr(f"archive/data/{key}", data)
        return path

    return write


@pytest.fixture
def raw_safetensors(tmp_path: Path) -> Callable[..., Path]:
    """A safetensors file from a header (JSON text, or an object) and data; ``length`` may lie."""

    def write(header: object, data: bytes = b"", length: int | None = None, name: str = "raw.safetensors") -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    return write


@pytest.fixture
def in_time() -> Callable[[str, Path], str]:
    """Run code (``path`` is given, ``open_checkpoint`` imported) in a process of its own that is stopped when it hangs.

    What a CheckpointError says is printed; any other error fails.
    """

    def run(code: str, path: Path) -> str:
        body = f"try:\n    {code}\nexcept CheckpointError as error:\n    print('refused:', error)\n"
        head = "import pathlib, sys\nfrom qkvinspect.errors import CheckpointError\n"
        head += "from qkvinspect.formats import open_checkpoint\npath = pathlib.Path(sys.argv[1])\n"
        try:
            done = subprocess.run(
                [sys.executable, "-c", head + body, str(path)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        except subprocess.TimeoutExpired:
            pytest.fail("it hangs")
        assert done.returncode == 0, done.stderr[-600:]
        return done.stdout

    return run


@pytest.fixture
def refused() -> Callable[..., CheckpointError]:
    """Assert that a file cannot be opened and read to the end: one CheckpointError, of one line, naming it."""

    def check(path: Path, match: str = "", file: Path | None = None) -> CheckpointError:
        with pytest.raises(CheckpointError, match=match or None) as caught:
            _read_all(path)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert message.startswith(str(file or path))
        return caught.value

    return check
