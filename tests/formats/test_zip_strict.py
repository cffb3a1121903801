"""What torch.load takes without a word, or differently from other readers of zips: refused, or said in a finding."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from qkvinspect.error_codes import Code
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.pickle import Call

STATE = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}


def findings(path: Path) -> dict[str, str]:
    with open_checkpoint(path) as checkpoint:
        return {finding.code: finding.message for finding in checkpoint.findings}


def test_a_storage_whose_checksum_is_wrong(saved: Any, refused: Any) -> None:
    """torch.load reads the changed byte without a word."""
    path = saved(STATE)
    data = path.read_bytes()
    at = data.index(STATE["w"].numpy().tobytes())
    path.write_bytes(data[: at + 5] + b"\xff" + data[at + 6 :])
    assert not torch.equal(torch.load(path, weights_only=True)["w"], STATE["w"])
    assert refused(path, "checksum").code == Code.ZIP_CHECKSUM


def test_a_view_is_held_to_the_checksum_of_its_storage(saved: Any, refused: Any) -> None:
    path = saved({"w": STATE["w"][1:], "t": STATE["w"].T})
    data = path.read_bytes()
    at = data.index(STATE["w"].numpy().tobytes())
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    assert refused(path, "checksum").code == Code.ZIP_CHECKSUM


def test_checksums_that_were_not_written(saved: Any, content: Any, tensor_bytes: Any) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(path) as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["no-checksums"]
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(STATE[name])


def test_entries_that_share_bytes(saved: Any, rezip: Any, refused: Any) -> None:
    path = rezip(saved(STATE), {})
    data = bytearray(path.read_bytes())
    names = [data.rindex(name) - 46 for name in (b"model/data/0", b"model/data/1")]
    data[names[1] + 42 : names[1] + 46] = struct.pack("<I", struct.unpack_from("<I", data, names[0] + 42)[0] + 8)
    path.write_bytes(data)
    assert refused(path).code == Code.ZIP_OVERLAP


def test_something_before_the_first_entry(saved: Any, rezip: Any, refused: Any) -> None:
    """A whole other archive may stand there, for readers that begin at the front."""
    path = rezip(saved(STATE), {})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    place = struct.unpack_from("<I", data, end + 16)[0]
    front = b"PK\x03\x04" + bytes(60)
    shifted = bytearray(data)
    shifted[end + 16 : end + 20] = struct.pack("<I", place + len(front))
    at = place
    while shifted[at : at + 4] == b"PK\x01\x02":
        offset = struct.unpack_from("<I", shifted, at + 42)[0]
        shifted[at + 42 : at + 46] = struct.pack("<I", offset + len(front))
        at += 46 + sum(struct.unpack_from("<3H", shifted, at + 28))
    path.write_bytes(front + shifted)
    assert refused(path).code == Code.ZIP_PREPENDED


@pytest.mark.parametrize("attributes", [0x10, 0xA1FF << 16, 0x41ED << 16, 0x11A4 << 16])
def test_links_and_folders_with_content(attributes: int, saved: Any, refused: Any) -> None:
    """torch gives uninitialised memory for a storage that is called a folder."""
    path = saved(STATE)
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes if name.endswith("data/0") else 0
            new.writestr(info, data)
    assert refused(path).code == Code.ZIP_KIND


def test_empty_folders_as_zip_tools_add_them(saved: Any, rezip: Any) -> None:
    path = rezip(saved(STATE), {"": b"", "data/": b""})
    assert findings(path) == {}


@pytest.mark.parametrize("version", [b"0", b"99", b"x", b"", b"-1", b"3.5"])
def test_versions_that_torch_does_not_write(version: bytes, saved: Any, rezip: Any, refused: Any) -> None:
    assert refused(rezip(saved(STATE), {"version": version})).code == Code.ZIP_VERSION


def test_a_missing_version_and_an_unknown_entry_are_said(saved: Any, rezip: Any) -> None:
    path = rezip(saved(STATE), {"version": None, "bite\norder": b"big"})
    found = findings(path)
    assert "torch.load refuses" in found["no-version"]
    assert found["unknown-entries"].endswith(r"'bite\norder'")


def test_a_damaged_name_of_the_byte_order_is_no_missing_one(saved: Any, rezip: Any, refused: Any) -> None:
    path = rezip(saved(STATE), {"byteorder": b"big"})
    data = path.read_bytes()
    at = data.rindex(b"model/byteorder")
    path.write_bytes(data[:at] + b"model/cyteorder" + data[at + 15 :])
    assert refused(path).code == Code.ZIP_MISMATCH


def test_one_storage_of_two_types(saved: Any, rezip: Any, entry: Any, refused: Any) -> None:
    """torch takes the type that it meets first for both."""
    path = saved({"w": torch.ones(3), "v": torch.ones(3, dtype=torch.int32)})
    pickled = entry(path, "data.pkl").replace(b"X\x01\0\0\x001", b"X\x01\0\0\x000")
    assert refused(rezip(path, {"data.pkl": pickled})).code == Code.STORAGE_CONFLICT


def test_tensors_under_keys_that_are_no_names(saved: Any) -> None:
    path = saved({"w": torch.ones(1), 1.5: torch.ones(1), ("a", 1): torch.ones(1)})
    with open_checkpoint(path) as checkpoint:
        assert [finding.message for finding in checkpoint.findings] == [
            "1.5 is a key that is no text, and leads to a tensor: left out",
            "('a', 1) is a key that is no text, and leads to a tensor: left out",
        ]


def test_an_unknown_call_that_holds_a_storage_is_named(saved: Any, rezip: Any, entry: Any) -> None:
    path = saved({"w": torch.ones(2).to(torch.float8_e5m2), "v": torch.ones(2)})
    pickled = entry(path, "data.pkl").replace(b"_rebuild_tensor_v3", b"_rebuild_tensor_v7")
    with open_checkpoint(rezip(path, {"data.pkl": pickled})) as checkpoint:
        assert list(checkpoint.tensors) == ["v"]
        (finding,) = checkpoint.findings
    assert finding.code == "unknown-tensor"
    assert finding.message.startswith("w is made of a storage by torch._utils._rebuild_tensor_v7")


def test_calls_have_items_and_entries_of_their_own() -> None:
    one, other = Call("f", ()), Call("f", ())
    one.items.append(1)
    one.entries["a"] = 1
    assert not other.items
    assert not other.entries
