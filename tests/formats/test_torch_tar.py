"""torch's format before 0.1.10, against torch.load of files that are written here, and what is damaged in it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from tests.batches import batched
from tests.hostile.writers import pickles, tars

KINDS = {
    torch.float64: "Double", torch.float32: "Float", torch.float16: "Half", torch.int64: "Long", torch.int32: "Int",
    torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte", torch.bool: "Bool", torch.bfloat16: "BFloat16",
}  # fmt: skip
NUMBERS = bytes(range(96))
STORED = (tars.Storage(1, "FloatStorage", 24, NUMBERS),)
SYSTEM = pickles.whole(
    pickles.named({"protocol_version": pickles.number(1000), "little_endian": pickles.TRUE, "type_sizes": b"}"})
)


def written(
    root: bytes,
    described: Sequence[tars.Tensor],
    stored: Sequence[tars.Storage] = STORED,
    views: Sequence[tars.View] = (),
) -> list[tars.Member]:
    """Members in the order in which torch 0.1.9 wrote them."""
    return [
        tars.Member("sys_info", SYSTEM),
        tars.Member("pickle", pickles.whole(root)),
        tars.Member("tensors", tars.tensors(described)),
        tars.Member("storages", tars.storages(stored, views)),
    ]


def weights(*keys: int) -> bytes:
    return pickles.named({f"w{key}": tars.reference(key) for key in keys})


WHOLE = written(weights(3), [tars.Tensor(3, 1, (4, 6), (6, 1))])


def save(path: Path, members: Sequence[tars.Member]) -> Path:
    path.write_bytes(tars.archive(members))
    return path


def compared(path: Path, content, tensor_bytes) -> dict[str, torch.Tensor]:
    """What torch reads, after each of it was held against what is read here."""
    theirs = torch.load(path, weights_only=False)
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.format, checkpoint.loader) == ("torch-tar", "torch")
        assert checkpoint.findings == ()
        assert checkpoint.tensors.keys() == theirs.keys()
        for name, tensor in theirs.items():
            info = checkpoint.tensors[name]
            assert (info.dtype.name, info.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            assert content(info) == tensor_bytes(tensor)
    return theirs


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_dtype_is_read_bit_for_bit(tmp_path: Path, dtype: torch.dtype, content, tensor_bytes) -> None:
    numel = 96 // dtype.itemsize
    data = bytes(96) if dtype is torch.bool else NUMBERS
    stored = tars.Storage(1, f"{KINDS[dtype]}Storage", numel, data)
    tensor = tars.Tensor(3, 1, (2, numel // 2), (numel // 2, 1), kind=f"{KINDS[dtype]}Tensor")
    compared(save(tmp_path / "m.pt", written(weights(3), [tensor], [stored])), content, tensor_bytes)


def test_views_and_shared_storages(tmp_path: Path, content, tensor_bytes) -> None:
    described = [
        tars.Tensor(3, 1, (4, 6), (6, 1)),
        tars.Tensor(4, 1, (6, 4), (1, 6)),
        tars.Tensor(5, 11, (2, 3), (3, 1), offset=1),
        tars.Tensor(6, 12, (5,), (0,), offset=2),
        tars.Tensor(7, 1, (), (), offset=23),
        tars.Tensor(8, 2, (2,), (1,), kind="LongTensor"),
        tars.Tensor(9, 1, (0, 6), (6, 1)),
    ]
    views = [tars.View(11, 1, 8, 10), tars.View(12, 11, 4, 6)]
    stored = [*STORED, tars.Storage(2, "LongStorage", 2, NUMBERS[:16])]
    compared(save(tmp_path / "m.pt", written(weights(*range(3, 10)), described, stored, views)), content, tensor_bytes)


def test_a_storage_of_another_device(tmp_path: Path, content) -> None:
    tensor = tars.Tensor(3, 1, (4, 6), (6, 1))
    members = written(weights(3), [tensor], [tars.Storage(1, "FloatStorage", 24, NUMBERS, "cuda:0")])
    members[2] = tars.Member("tensors", members[2].content.replace(b"ctorch\n", b"ctorch.cuda\n"))
    with open_checkpoint(save(tmp_path / "m.pt", members)) as checkpoint:
        assert content(checkpoint.tensors["w3"]) == NUMBERS


def test_parameters(tmp_path: Path, content, tensor_bytes) -> None:
    """As torch pickled them: made of their tensor, or, before 0.1.7, of nothing and given it by their state."""
    kind = pickles.name("torch.nn.parameter", "Parameter")
    made = kind + pickles.row(tars.reference(3)) + b"R" + pickles.row(b"\x88", b"\x89", pickles.ordered()) + b"b"
    state = pickles.row(tars.reference(4), pickles.NONE, pickles.ordered(), pickles.TRUE, pickles.FALSE)
    given = kind + pickles.EMPTY_TUPLE + b"\x81" + state + b"b"
    described = [tars.Tensor(3, 1, (4, 6), (6, 1)), tars.Tensor(4, 1, (2, 3), (3, 1), offset=6)]
    path = save(tmp_path / "m.pt", written(pickles.named({"made": made, "given": given}), described))
    theirs = compared(path, content, tensor_bytes)
    assert all(isinstance(tensor, torch.nn.Parameter) for tensor in theirs.values())


def test_a_module_with_its_source(tmp_path: Path, content) -> None:
    """A class is referred to with its file and source; torch.load would look for these."""
    kind = pickles.row(pickles.name("models", "Net"), pickles.text("net.py"), pickles.text("class Net: ...")) + b"Q"
    parameters = pickles.named({"weight": tars.reference(3)})
    state = pickles.named({"_parameters": parameters, "_buffers": b"}", "_modules": b"}"})
    members = written(kind + pickles.EMPTY_TUPLE + b"\x81" + state + b"b", [tars.Tensor(3, 1, (4, 6), (6, 1))])
    with open_checkpoint(save(tmp_path / "m.pt", members)) as checkpoint:
        assert content(checkpoint.tensors["weight"]) == NUMBERS


def test_as_python_writes_tars(tmp_path: Path, content, tensor_bytes) -> None:
    """With times in pax records and the end filled up, as torch's own files have them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for member in WHOLE:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime, info.uname = len(member.content), 1483228800.25, "jürgen"
            archive.addfile(info, io.BytesIO(member.content))
    assert b" mtime=1483228800.25\n" in buffer.getvalue()
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    compared(tmp_path / "m.pt", content, tensor_bytes)


def test_a_bare_storage_is_spoken_of(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path / "m.pt", written(weights(3, 1), [tars.Tensor(3, 1, (4,), (1,))]))) as read:
        assert list(read.tensors) == ["w3"]
        assert [finding.message for finding in read.findings] == ["w1 is a bare storage, without a shape: left out"]


def _tensor(**changes: object) -> list[tars.Member]:
    fields = {"key": 3, "storage": 1, "size": (4, 6), "stride": (6, 1)}
    return written(weights(3), [tars.Tensor(**{**fields, **changes})])


def _member(at: int, **fields: bytes) -> list[tars.Member]:
    changed = tars.Member(WHOLE[at].name, WHOLE[at].content, fields)
    return [*WHOLE[:at], changed, *WHOLE[at + 1 :]]


def _stored(*stored: tars.Storage, views: Sequence[tars.View] = (), count: int | None = None) -> list[tars.Member]:
    return [*WHOLE[:3], tars.Member("storages", tars.storages(stored, views, count))]


def _long(name: str, more: bytes) -> list[tars.Member]:
    return [tars.Member(m.name, m.content + more) if m.name == name else m for m in WHOLE]


DAMAGED: dict[str, tuple[list[tars.Member], Code]] = {
    "a negative offset": (_tensor(offset=-1), Code.TAR_NEGATIVE),
    "a negative size": (_tensor(size=(-4, 6)), Code.TAR_NEGATIVE),
    "a negative stride": (_tensor(stride=(6, -1)), Code.TAR_NEGATIVE),
    "2^31-1 dimensions": (_tensor(ndim=2**31 - 1), Code.TAR_RANK),
    "65 dimensions": (_tensor(ndim=65), Code.TAR_RANK),
    "-1 dimensions": (_tensor(ndim=-1), Code.TAR_RANK),
    "64 dimensions that are not there": (_tensor(ndim=64), Code.TAR_SHORT),
    "an offset past the storage": (_tensor(offset=1), Code.TENSOR_RANGE),
    "sizes past 2^64": (_tensor(size=(2**62, 2**62)), Code.TENSOR_RANGE),
    "a tensor of another type": (_tensor(kind="LongTensor"), Code.TAR_TENSORS),
    "a tensor on no storage": (_tensor(storage=9), Code.TAR_TENSORS),
    "a tensor with a storage's number": (_tensor(key=1), Code.TAR_TENSORS),
    "a tensor that is not there": (_tensor(key=7), Code.TAR_REFERENCE),
    "a tensor twice": (written(weights(3), [tars.Tensor(3, 1, (1,), (1,))] * 2), Code.TAR_TENSORS),
    "a negative number of storages": (_stored(*STORED, count=-1), Code.TAR_STORAGES),
    "2^62 storages": (_stored(*STORED, count=2**62), Code.TAR_STORAGES),
    "a storage twice": (_stored(*STORED, *STORED), Code.TAR_STORAGES),
    "a storage of no type": (_stored(tars.Storage(1, "NoStorage", 24, NUMBERS)), Code.TAR_STORAGES),
    "a storage without a tensor type": (
        _stored(tars.Storage(1, "ComplexFloatStorage", 12, NUMBERS)),
        Code.TAR_STORAGES,
    ),
    "a storage of -1 elements": (_stored(tars.Storage(1, "FloatStorage", -1, NUMBERS)), Code.TAR_STORAGES),
    "a storage of 2^62 elements": (_stored(tars.Storage(1, "FloatStorage", 2**62, NUMBERS)), Code.TAR_SHORT),
    "a view of nothing": (_stored(*STORED, views=[tars.View(5, 9, 0, 1)]), Code.TAR_STORAGES),
    "a view past its storage": (_stored(*STORED, views=[tars.View(5, 1, 20, 5)]), Code.STORAGE_VIEW),
    "a view from the end": (_stored(*STORED, views=[tars.View(5, 1, -4, 4)]), Code.STORAGE_VIEW),
    "bytes after the views": (_long("storages", b"\0"), Code.TAR_STORAGES),
    "bytes after the tensors": (_long("tensors", b"\0"), Code.TAR_TENSORS),
    "bytes after the pickle": (_long("pickle", b"\0"), Code.PICKLE_TRAILING),
    "bytes after the system": (_long("sys_info", b"\0"), Code.TAR_MEMBER),
    "a member twice": ([*WHOLE, WHOLE[1]], Code.TAR_DUPLICATE),
    "one member more": ([*WHOLE, tars.Member("code.py")], Code.TAR_MEMBER),
    "a name above the folder": ([*WHOLE, tars.Member("../x")], Code.TAR_NAME),
    "a name from the root": ([*WHOLE, tars.Member("/etc/passwd")], Code.TAR_NAME),
    "a hard link": (_member(1, type=b"1", linkname=b"/etc/passwd"), Code.TAR_KIND),
    "a symbolic link": (_member(3, type=b"2", linkname=b"/etc/passwd"), Code.TAR_KIND),
    "a device": (_member(2, type=b"3"), Code.TAR_KIND),
    "a wrong checksum": (_member(2, checksum=b"012345\0 "), Code.TAR_HEADER),
    "a size that is no number": (_member(2, size=b"12x"), Code.TAR_HEADER),
    "a negative size of a member": (_member(2, size=b"\xff" * 12), Code.TAR_HEADER),
    "a size of 2^80": (_member(2, size=b"\x80\0\0\xff" + bytes(8)), Code.TAR_TRUNCATED),
    "a pax record of another name": (
        [tars.Member("x", b"15 path=pickle\n", {"type": b"x"}), *WHOLE],
        Code.TAR_HEADER,
    ),
    "a pickle left out": ([WHOLE[0], *WHOLE[2:]], Code.IS_TAR),
}


@batched("members code", DAMAGED)
def test_damage_is_named(tmp_path: Path, members: list[tars.Member], code: Code, refused) -> None:
    assert refused(save(tmp_path / "m.pt", members)).code is code


def test_what_stands_in_place_of_a_header_is_shown(tmp_path: Path, refused) -> None:
    data = bytearray(tars.archive(WHOLE))
    second = data.index(b"ustar", 512)
    data[second : second + 8] = b"NOT-TAR!"
    (tmp_path / "m.pt").write_bytes(data)
    assert "NOT-TAR!" in str(refused(tmp_path / "m.pt"))


@pytest.mark.parametrize(
    ("end", "code"),
    [(b"", Code.TAR_TRUNCATED), (bytes(512), Code.TAR_TRUNCATED), (bytes(2000) + b"\1", Code.TAR_TRAILING)],
)
def test_how_it_must_end(tmp_path: Path, end: bytes, code: Code, refused) -> None:
    (tmp_path / "m.pt").write_bytes(tars.archive(WHOLE, end))
    assert refused(tmp_path / "m.pt").code is code


def test_what_fills_a_block_is_zeros(tmp_path: Path, refused) -> None:
    data = tars.archive(WHOLE)
    (tmp_path / "m.pt").write_bytes(data[: -2 * 512 - 1] + b"\1" + data[-2 * 512 :])
    assert refused(tmp_path / "m.pt").code is Code.TAR_TRAILING


@pytest.mark.gate
def test_many_storages_open_at_once(tmp_path: Path) -> None:
    stored = [tars.Storage(key, "FloatStorage", 1, NUMBERS[:4]) for key in range(2500)]
    described = [tars.Tensor(2500 + key, key, (1,), (1,)) for key in range(2500)]
    members = written(weights(*range(2500, 5000)), described, stored)
    with open_checkpoint(save(tmp_path / "m.pt", members)) as checkpoint:
        assert len(checkpoint.tensors) == 2500
    with pytest.raises(CheckpointError, match="limit"):
        open_checkpoint(tmp_path / "m.pt", limits={"tensors": 2499})
