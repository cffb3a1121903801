"""torch's zip format, with torch.save as the writer and torch.load as the oracle."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qkvinspect.errors import CheckpointError, LayoutError
from qkvinspect.formats import open_checkpoint
from tests.batches import batched

pytestmark = [
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
]

PLAIN_DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "complex128",
    "complex64",
    "complex32",
    "bits16",
    "bits8",
    "bits4x2",
    "bits2x4",
    "bits1x8",
]


def some(dtype: str, rows: int = 4) -> torch.Tensor:
    """A tensor of bytes that are all different as far as they can be (also NaN, infinities, subnormals)."""
    raw = (torch.arange(rows * 64, dtype=torch.int64) * 37 % 256).to(torch.uint8)
    if dtype == "bool":
        raw = raw % 2
    return raw.view(getattr(torch, dtype)).view(rows, -1)


@batched("name", PLAIN_DTYPES)
def test_every_dtype(name: str, saved: Any, content: Any, tensor_bytes: Any) -> None:
    tensor = some(name)
    path = saved({"w": tensor, "tail": tensor[1:]})
    loaded = torch.load(path, weights_only=True)
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.format, checkpoint.loader) == ("torch-zip", "torch")
        for key, info in checkpoint.tensors.items():
            assert info.name == key
            assert info.dtype.name == name
            assert info.shape == tuple(loaded[key].shape)
            assert info.strides == loaded[key].stride()
            assert info.nbytes == loaded[key].nbytes
            assert content(info) == tensor_bytes(loaded[key])


def test_the_table_above_is_all_that_torch_can_save() -> None:
    savable: set[str] = set()
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        if "qint" in str(dtype) or "quint" in str(dtype):
            continue
        try:
            torch.save(torch.zeros(64, dtype=torch.uint8).view(dtype), io.BytesIO())
        except KeyError:  # int1 .. uint7: torch itself cannot write them
            continue
        savable.add(str(dtype).removeprefix("torch."))
    assert savable == set(PLAIN_DTYPES)


@pytest.mark.parametrize("name", ["qint8", "quint8", "qint32"])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_quantised_tensors(name: str, per: str, saved: Any, content: Any, tensor_bytes: Any) -> None:
    dtype = getattr(torch, name)
    values = torch.linspace(-3, 3, 24).view(4, 6)
    if per == "tensor":
        tensor = torch.quantize_per_tensor(values, 0.1, 3, dtype)
    else:
        tensor = torch.quantize_per_channel(values, torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int64), 0, dtype)
    with open_checkpoint(saved({"w": tensor})) as checkpoint:
        info = checkpoint.tensors["w"]
        assert (info.dtype.name, info.shape, info.dtype.kind) == (name, (4, 6), "opaque")
        assert content(info) == tensor_bytes(tensor)


BASE = torch.arange(120, dtype=torch.float32)

VIEWS: dict[str, torch.Tensor] = {
    "whole": BASE.view(10, 12),
    "flat": BASE,
    "offset": BASE.view(10, 12)[3:7],
    "some columns": BASE.view(10, 12)[:, 2:5],
    "every third column": BASE.view(10, 12)[:, ::3],
    "every second row": BASE.view(10, 12)[1::2],
    "transposed": BASE.view(10, 12).T,
    "transposed slice": BASE.view(10, 12)[2:5, 1:].T,
    "one row": BASE.view(10, 12)[4],
    "one column": BASE.view(10, 12)[:, 4],
    "expanded rows": BASE[:12].expand(5, 12),
    "expanded columns": BASE[:5, None].expand(5, 12),
    "expanded to a block": BASE[7].expand(3, 4),
    "0-dim": BASE[17],
    "1x1": BASE[17:18].view(1, 1),
    "3-D": BASE.view(4, 5, 6),
    "3-D by slices": BASE.view(4, 5, 6)[1:3],
    "3-D, rows apart": BASE.view(4, 5, 6).transpose(0, 1).contiguous().transpose(0, 1)[:, :1],
    "5-D": BASE.view(2, 3, 4, 5, 1),
    "convolution 1x1": BASE.view(10, 12, 1, 1),
    "channels last": BASE.view(1, 2, 6, 10).contiguous(memory_format=torch.channels_last)[:, :, :1, :1],
    "bias as a row": BASE[:12].view(1, 1, 12),
    "strided, overlapping": BASE.as_strided((5, 6), (2, 1), 3),
    "no rows": BASE.view(10, 12)[:0],
    "no columns": BASE.view(10, 12)[:, :0],
    "empty": torch.empty(0),
    "empty 3-D": torch.empty(2, 3, 0),
    "empty 3-D in the middle": torch.empty(2, 0, 3),
}


@batched("tensor", VIEWS)
def test_views(tensor: torch.Tensor, saved: Any, content: Any, tensor_bytes: Any) -> None:
    with open_checkpoint(saved({"w": tensor})) as checkpoint:
        info = checkpoint.tensors["w"]
        assert info.shape == tuple(tensor.shape)
        assert info.strides == tensor.stride()
        assert info.offset == tensor.storage_offset()
        assert info.contiguous == tensor.is_contiguous()
        assert info.numel == tensor.numel()
        assert content(info) == tensor_bytes(tensor)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float8_e4m3fn", "complex64", "bool", "uint16"])
@pytest.mark.parametrize("view", ["transposed", "every third column", "expanded rows"])
def test_views_of_other_widths(dtype: str, view: str, saved: Any, content: Any, tensor_bytes: Any) -> None:
    whole = some(dtype, 8)
    tensor = {"transposed": whole.T, "every third column": whole[2:, ::3], "expanded rows": whole[1].expand(5, -1)}[
        view
    ]
    with open_checkpoint(saved({"w": tensor})) as checkpoint:
        loaded = torch.load(checkpoint.path, weights_only=True)["w"]
        assert content(checkpoint.tensors["w"]) == tensor_bytes(loaded.clone(memory_format=torch.contiguous_format))


def test_a_view_that_is_no_matrix_says_so(saved: Any, content: Any) -> None:
    with open_checkpoint(saved({"w": BASE.view(4, 5, 6).permute(0, 2, 1)})) as checkpoint:
        info = checkpoint.tensors["w"]
        assert (info.shape, info.strides) == ((4, 6, 5), (30, 1, 6))
        with pytest.raises(LayoutError, match=r"\[4, 6, 5\]"):
            content(info)


def test_tensors_that_share_a_storage(saved: Any, content: Any, tensor_bytes: Any) -> None:
    packed = torch.randn(12, 4)
    state = {"qkv": packed, "q": packed[:4], "k": packed[4:8], "v": packed[8:], "tied": packed}
    with open_checkpoint(saved(state)) as checkpoint:
        assert list(checkpoint.tensors) == list(state)
        assert len({id(info.region) for info in checkpoint.tensors.values()}) == 1
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(state[name])


class Tagged(torch.Tensor):
    """A subclass: torch rebuilds it by _rebuild_from_type_v2."""


def wrapped_forms() -> dict[str, Any]:
    plain = torch.arange(6.0).view(2, 3)
    noted = plain.clone()
    noted.note = "x"
    noted16 = plain.to(torch.uint16)
    noted16.note = "x"
    parameter = torch.nn.Parameter(plain.clone())
    parameter.layer = 3
    return {
        "parameter": torch.nn.Parameter(plain.clone()),
        "frozen parameter": torch.nn.Parameter(plain.clone(), requires_grad=False),
        "parameter with state": parameter,
        "buffer": torch.nn.Buffer(plain.clone()),
        "requires grad": plain.clone().requires_grad_(),
        "subclass": plain.clone().as_subclass(Tagged),
        "parameter of a subclass": torch.nn.Parameter(plain.clone().as_subclass(Tagged)),
        "with an attribute": noted,
        "uint16 with an attribute": noted16,
    }


@pytest.mark.parametrize("form", wrapped_forms())
def test_parameters_and_subclasses(form: str, saved: Any, content: Any, tensor_bytes: Any) -> None:
    tensor = wrapped_forms()[form]
    with open_checkpoint(saved({"w": tensor})) as checkpoint:
        info = checkpoint.tensors["w"]
        assert info.shape == (2, 3)
        assert content(info) == tensor_bytes(tensor.as_subclass(torch.Tensor))
        assert not checkpoint.findings


def test_subclasses_are_written_by_rebuild_from_type_v2(saved: Any, entry: Any) -> None:
    assert b"_rebuild_from_type_v2" in entry(saved({"w": wrapped_forms()["subclass"]}), "data.pkl")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.empty(3, device="meta"), "meta"),
        (lambda: torch.view_as_complex(torch.ones(3, 2)).conj(), "conjugate or negative"),
        (lambda: torch.view_as_complex(torch.ones(3, 2)).conj().imag, "conjugate or negative"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_without_bytes_of_their_own_are_left_out(
    make: Callable[[], torch.Tensor], why: str, saved: Any
) -> None:
    with open_checkpoint(saved({"odd": make(), "w": torch.ones(2)})) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        (finding,) = checkpoint.findings
        assert finding.code == "unreadable-tensor"
        assert why in finding.message
        assert finding.message.startswith("odd ")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol: int, saved: Any, content: Any, tensor_bytes: Any) -> None:
    state = {"state_dict": {"w": torch.randn(3, 4), "h": torch.randn(4, 2).half().T}, "args": {"heads": 4}}
    with open_checkpoint(saved(state, pickle_protocol=protocol)) as checkpoint:
        assert list(checkpoint.tensors) == ["w", "h"]
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(state["state_dict"][name])
        assert checkpoint.configs[0].values == {"heads": 4}


def test_a_storage_that_was_on_a_gpu(saved: Any, entry: Any, rezip: Any, content: Any, tensor_bytes: Any) -> None:
    tensor = torch.randn(4, 4)
    path = saved({"w": tensor})
    pickled = entry(path, "data.pkl")
    cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert cpu in pickled
    rezip(path, {"data.pkl": pickled.replace(cpu, cuda)})
    assert torch.equal(torch.load(path, weights_only=True, map_location="cpu")["w"], tensor)
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors["w"]) == tensor_bytes(tensor)


@batched(
    "dtype width",
    [
        ("float64", 8),
        ("float32", 4),
        ("bfloat16", 2),
        ("float16", 2),
        ("int64", 8),
        ("int16", 2),
        ("uint8", 1),
        ("complex64", 4),
        ("complex128", 8),
        ("bool", 1),
    ],
)
@pytest.mark.parametrize("view", ["whole", "transposed", "sliced"])
def test_big_endian(
    dtype: str, width: int, view: str, saved: Any, entry: Any, rezip: Any, content: Any, tensor_bytes: Any
) -> None:
    whole = some(dtype)
    path = saved({"w": {"whole": whole, "transposed": whole.T, "sliced": whole[1:, 1:3]}[view]})
    data = entry(path, "data/0")
    swapped = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
    rezip(path, {"data/0": swapped, "byteorder": b"big"})
    loaded = torch.load(path, weights_only=True)["w"]
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors["w"]) == tensor_bytes(loaded)


@pytest.mark.parametrize("entry_name", ["byteorder", "version", ".data/serialization_id", ".format_version"])
def test_entries_that_may_be_missing(entry_name: str, saved: Any, rezip: Any, content: Any, tensor_bytes: Any) -> None:
    tensor = torch.randn(3, 3)
    path = rezip(saved({"w": tensor}), {entry_name: None})
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors["w"]) == tensor_bytes(tensor)


def test_storages_lie_where_the_local_header_says(saved: Any, content: Any, tensor_bytes: Any) -> None:
    """torch pads the local header's extra field, so that the central directory tells another offset."""
    state = {f"w{n}": torch.randn(n, 3) for n in range(1, 20)}
    path = saved(state)
    data = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert info.region.start % 64 == 0
            assert data[info.region.start : info.region.start + info.region.nbytes] == tensor_bytes(state[name])
            assert content(info) == tensor_bytes(state[name])


def test_a_stream_without_seeking_reads_too(tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    tensor = torch.randn(3, 3)
    buffer = io.BytesIO()
    torch.save({"w": tensor}, buffer)
    path = tmp_path / "x"
    path.write_bytes(buffer.getvalue())
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors["w"]) == tensor_bytes(tensor)


def test_zip64(saved: Any, rezip: Any, content: Any, tensor_bytes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"w": torch.randn(5, 3), "b": torch.randn(5)}
    path = saved(state)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    rezip(path, {})
    data = path.read_bytes()
    assert b"PK\x06\x06" in data
    assert b"PK\x06\x07" in data
    assert torch.equal(torch.load(path, weights_only=True)["w"], state["w"])
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert content(info) == tensor_bytes(state[name])


def test_zip64_local_headers(saved: Any, content: Any, tensor_bytes: Any) -> None:
    tensor = torch.randn(5, 3)
    path = saved({"w": tensor})
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries.items():
            with new.open(name, "w", force_zip64=True) as file:
                file.write(data)
    with open_checkpoint(path) as checkpoint:
        assert content(checkpoint.tensors["w"]) == tensor_bytes(tensor)


# Damage.


def test_truncated_anywhere(saved: Any, tmp_path: Path, refused: Any) -> None:
    data = saved({"w": torch.randn(3, 3)}).read_bytes()
    cut = tmp_path / "cut.pt"
    for end in [*range(120), *range(120, len(data), 17), *range(len(data) - 60, len(data))]:
        cut.write_bytes(data[:end])
        refused(cut)


ZIP_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no end record": (lambda data: data[: data.rindex(b"PK\x05\x06")], "without an end record"),
    "bytes after the end": (lambda data: data + b"junk", "follows its end record"),
    "newline after the end": (lambda data: data + b"\n", "follows its end record"),
    "bytes before": (lambda data: b"junk" + data, "not a checkpoint"),
    "a zip before": (lambda data: data + data, "damaged zip|not a torch"),
    "directory signature": (lambda data: data.replace(b"PK\x01\x02", b"PK\x01\x00"), "directory"),
    "local signature": (lambda data: patch(data, local(data, b"data/0"), b"PK\x03\x00"), "no local header"),
    "local name": (lambda data: data.replace(b"model/data/0", b"model/data/9", 1), "described otherwise"),
    "local name is shorter": (
        lambda data: patch(data, local(data, b"data/0") + 26, b"\x01\x00"),
        "described otherwise",
    ),
    "local name is endless": (
        lambda data: patch(data, local(data, b"data/0") + 26, b"\xff\xff"),
        "goes past the next one",
    ),
    "local extra is endless": (
        lambda data: patch(data, local(data, b"data/0") + 28, b"\xff\xff"),
        "goes past the next one",
    ),
    "local method": (lambda data: patch(data, local(data, b"data/0") + 8, b"\x08\x00"), "described otherwise"),
    "local says encrypted": (lambda data: patch(data, local(data, b"data/0") + 6, b"\x01"), "encrypted|otherwise"),
    "method": (lambda data: patch(data, central(data, b"data/0") + 10, b"\x63\x00"), "compressed or encrypted"),
    "encrypted": (lambda data: patch(data, central(data, b"data/0") + 8, b"\x01\x00"), "compressed or encrypted"),
    "offset past the end": (
        lambda data: patch(data, central(data, b"data/0") + 42, b"\x00\x00\x00\x7f"),
        "does not fit",
    ),
    "size past the end": (lambda data: patch(data, central(data, b"data/0") + 20, b"\x00\x00\x00\x7f"), "does not fit"),
    "size larger": (lambda data: patch(data, central(data, b"data/0") + 20, b"\x28\0\0\0\x28\0\0\0"), "within another"),
    "size smaller": (lambda data: patch(data, central(data, b"data/0") + 20, b"\x20\0\0\0\x20\0\0\0"), "another size"),
    "zip64 without its extra": (lambda data: patch(data, central(data, b"data/0") + 24, b"\xff\xff\xff\xff"), "zip64"),
    "one entry fewer": (lambda data: patch(data, end(data) + 8, count(data, -1)), "should hold|split"),
    "one entry more": (lambda data: patch(data, end(data) + 8, count(data, +1)), "ends too early|split"),
    "counts differ": (lambda data: patch(data, end(data) + 8, b"\x01\x00"), "split over several"),
    "several disks": (lambda data: patch(data, end(data) + 4, b"\x01\x00"), "split over several"),
    "directory outside": (lambda data: patch(data, end(data) + 16, b"\x00\x00\x00\x7f"), "outside the file|not where"),
    "directory of endless size": (
        lambda data: patch(data, end(data) + 12, b"\x00\x00\x00\x7f"),
        "outside the file|not where",
    ),
    "comment longer than the file": (lambda data: patch(data, end(data) + 20, b"\x09\x00"), "follows its end record"),
    "name not UTF-8": (lambda data: data.replace(b"model/version", b"model/versi\xff\xfe"), "not UTF-8"),
}


def patch(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def end(data: bytes) -> int:
    return data.rindex(b"PK\x05\x06")


def count(data: bytes, more: int) -> bytes:
    (entries,) = struct.unpack_from("<H", data, end(data) + 8)
    return struct.pack("<2H", entries + more, entries + more)


def central(data: bytes, name: bytes) -> int:
    """Where the directory's record of an entry begins."""
    return data.rindex(name, 0, end(data)) - len(b"model/") - 46


def local(data: bytes, name: bytes) -> int:
    """Where an entry's local header begins."""
    return data.index(b"model/" + name) - 30


@pytest.mark.parametrize(("damage", "match"), ZIP_DAMAGE.values(), ids=ZIP_DAMAGE)
def test_damaged_zips(damage: Callable[[bytes], bytes], match: str, saved: Any, rezip: Any, refused: Any) -> None:
    path = rezip(saved({"w": torch.randn(3, 3)}), {})  # by zipfile: no zip64, no data descriptors
    path.write_bytes(damage(path.read_bytes()))
    refused(path, match)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model/data/0", "model/data.pkl"])
def test_duplicate_entries(name: str, saved: Any, refused: Any) -> None:
    path = saved({"w": torch.randn(3, 3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, archive.read(name))
    refused(path, "two entries")


@pytest.mark.parametrize("compressed", ["data/0", "data.pkl", "byteorder"])
def test_compressed_entries(compressed: str, saved: Any, refused: Any) -> None:
    path = saved({"w": torch.zeros(64, 64)})
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries.items():
            deflated = name.partition("/")[2] == compressed
            new.writestr(name, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    refused(path, "compressed")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data/0": None}, "storage is missing"),
        ({"data/0": b""}, "another size"),
        ({"data/0": b"x" * 35}, "another size"),
        ({"data/0": b"x" * 40}, "another size"),
        ({"data.pkl": None}, "not a torch checkpoint"),
        ({"data.pkl": b""}, "malformed pickle"),
        ({"data.pkl": b"\x80\x02N."}, "no model weights"),
        ({"data.pkl": b"\x80\x06N."}, "protocol 6"),
        ({"byteorder": b"middle"}, "byte order"),
        ({"byteorder": b""}, "byte order"),
        ({"byteorder": b"Little"}, "byte order"),
        ({"../evil/data.pkl": b"N."}, ""),
    ],
)
def test_entries_missing_or_wrong(
    changes: dict[str, bytes | None], match: str, saved: Any, rezip: Any, refused: Any, tmp_path: Path
) -> None:
    path = rezip(saved({"w": torch.randn(3, 3)}), changes)
    if match:
        refused(path, match)
    else:  # an entry that nothing refers to is never written anywhere
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint.tensors) == ["w"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_crc_of_the_pickle(saved: Any, rezip: Any, refused: Any) -> None:
    """A changed bit in the pickle can rename or reshape any tensor; the zip holds what is needed to see it."""
    path = rezip(saved({"weight": torch.randn(3, 3)}), {})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x06\x00\x00\x00weight", b"\x06\x00\x00\x00weighu", 1))
    refused(path, "(?i)crc|checksum")


@pytest.mark.parametrize("name", ["other/data.pkl", "other/readme.txt"])
def test_two_folders(name: str, saved: Any, refused: Any) -> None:
    path = saved({"w": torch.randn(3, 3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, archive.read("model/data.pkl"))
    refused(path, "not a torch checkpoint")


def test_an_ordinary_zip(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("docs/readme.txt", b"hello")
        archive.writestr("model.pt", b"hello")
    refused(path, "zip file but not a torch checkpoint")


def test_an_empty_zip(tmp_path: Path, refused: Any) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    refused(tmp_path / "x.zip")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    error = refused(path, "TorchScript")
    assert "state_dict" in (error.hint or "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_torch_package(tmp_path: Path, refused: Any) -> None:
    from torch.package import PackageExporter

    path = tmp_path / "package.pt"
    with PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", {"w": torch.ones(2)})
    refused(path, "torch.package")


# Pickles written by hand: what torch would never write.


def tensor_pickle(
    *,
    function: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n",
    tag: bytes = b"X\x07\x00\x00\x00storage",
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: bytes = b"X\x01\x00\x00\x000",
    numel: bytes = b"K\x06",
    offset: bytes = b"K\x00",
    size: bytes = b"K\x02K\x03\x86",
    stride: bytes = b"K\x03K\x01\x86",
    rest: bytes = b"\x89N",
) -> bytes:
    """``{"w": tensor of [2, 3] float32}`` with any part of it replaced."""
    storage = b"(" + tag + kind + key + b"X\x03\x00\x00\x00cpu" + numel + b"tQ"
    return b"\x80\x02}X\x01\x00\x00\x00w" + function + b"(" + storage + offset + size + stride + rest + b"tRs."


V3 = b"ctorch._utils\n_rebuild_tensor_v3\n"
UNTYPED = b"ctorch.storage\nUntypedStorage\n"


def long(value: int) -> bytes:
    data = value.to_bytes(17, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def test_the_pickle_by_hand_is_sound(zipped: Any, content: Any, tensor_bytes: Any) -> None:
    data = tensor_bytes(torch.arange(6.0))
    for pickled in (
        tensor_pickle(),
        tensor_pickle(rest=b""),
        tensor_pickle(function=b"ctorch._utils\n_rebuild_tensor\n", rest=b""),
        tensor_pickle(function=V3, kind=UNTYPED, numel=b"K\x18", rest=b"\x89Nctorch\nfloat32\n"),
        tensor_pickle(size=b"(K\x02K\x03t", stride=b"(K\x03K\x01t"),
        tensor_pickle(size=b"ctorch\nSize\n(K\x02K\x03t\x85R"),
    ):
        with open_checkpoint(zipped(pickled, {"0": data})) as checkpoint:
            assert content(checkpoint.tensors["w"]) == data
            assert checkpoint.tensors["w"].shape == (2, 3)


HOSTILE: dict[str, dict[str, bytes]] = {
    "not a storage": {"tag": b"X\x07\x00\x00\x00dungeon"},
    "unknown storage type": {"kind": b"cos\nFloatStorages\n"},
    "storage type is text": {"kind": b"X\x01\x00\x00\x00f"},
    "key is a number": {"key": b"K\x00"},
    "key leads out": {"key": b"X\x0c\x00\x00\x00../../passwd"},
    "key is missing": {"key": b"X\x01\x00\x00\x007"},
    "numel is text": {"numel": b"X\x01\x00\x00\x006"},
    "numel is negative": {"numel": long(-6)},
    "numel too large": {"numel": b"K\x07"},
    "numel too small": {"numel": b"K\x05"},
    "numel of 2^63": {"numel": long(1 << 63)},
    "numel of 2^64 + 6": {"numel": long((1 << 64) + 6)},
    "dtype conflicts with the storage": {"kind": b"ctorch\nDoubleStorage\n"},
    "negative offset": {"offset": long(-1)},
    "offset past the storage": {"offset": b"K\x01"},
    "offset of 2^63": {"offset": long(1 << 63)},
    "offset is text": {"offset": b"X\x01\x00\x00\x000"},
    "negative size": {"size": long(-2) + b"K\x03\x86"},
    "size of floats": {"size": b"G\x40\x00\x00\x00\x00\x00\x00\x00K\x03\x86"},
    "size of a bool": {"size": b"\x88K\x03\x86"},
    "size is a number": {"size": b"K\x06"},
    "size is None": {"size": b"N"},
    "size past the storage": {"size": b"K\x03K\x03\x86"},
    "size whose product is 2^64": {"size": long(1 << 32) * 2 + b"\x86"},
    "size of 2^63": {"size": long(1 << 63) + b"K\x03\x86"},
    "rank 1000": {"size": b"(" + b"K\x01" * 1000 + b"t", "stride": b"(" + b"K\x01" * 1000 + b"t"},
    "negative stride": {"stride": long(-3) + b"K\x01\x86", "offset": b"K\x03"},
    "stride past the storage": {"stride": b"K\x04K\x01\x86"},
    "stride of 2^62": {"stride": long(1 << 62) + b"K\x01\x86"},
    "rank of size and stride differ": {"stride": b"K\x03\x85"},
    "untyped without dtype": {"kind": UNTYPED, "numel": b"K\x18"},
    "v3 without dtype": {"function": V3, "kind": UNTYPED, "numel": b"K\x18"},
    "v3 of an unknown dtype": {"function": V3, "kind": UNTYPED, "numel": b"K\x18", "rest": b"\x89Nctorch\nfloat5\n"},
    "v3 dtype of another module": {"function": V3, "kind": UNTYPED, "numel": b"K\x18", "rest": b"\x89Ncos\nfloat32\n"},
    "v3 dtype is text": {"function": V3, "kind": UNTYPED, "numel": b"K\x18", "rest": b"\x89NX\x01\x00\x00\x00f"},
    "v3 dtype is too wide": {"function": V3, "kind": UNTYPED, "numel": b"K\x18", "rest": b"\x89Nctorch\nfloat64\n"},
}


@batched("parts", HOSTILE)
def test_hostile_tensors(parts: dict[str, bytes], zipped: Any, refused: Any) -> None:
    refused(zipped(tensor_pickle(**parts), {"0": bytes(24)}))


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n)Rs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\nNRs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tRs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x000QK\x00))tRs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n()QK\x00))tRs.",
    ],
)
def test_tensors_without_what_makes_one(pickled: bytes, zipped: Any, refused: Any) -> None:
    refused(zipped(pickled, {"0": bytes(24)}), "pickle describes")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_parameter\n)Rs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_parameter\nN\x89N\x87Rs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._tensor\n_rebuild_from_type_v2\n)Rs.",
        b"\x80\x02}X\x01\x00\x00\x00wctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nNX\x01\x00\x00\x00xNtRs.",
    ],
)
def test_parameters_of_nothing_are_left_out(pickled: bytes, zipped: Any) -> None:
    with open_checkpoint(zipped(pickled)) as checkpoint:
        assert not checkpoint.tensors
        assert "unreadable-tensor" in {finding.code for finding in checkpoint.findings}


def test_parameters_in_a_cycle(zipped: Any) -> None:
    """A parameter whose argument tuple leads back to itself."""
    pickled = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_parameter\n]q\x00Rq\x01h\x00h\x01a0s."
    with open_checkpoint(zipped(pickled)) as checkpoint:
        assert not checkpoint.tensors


@pytest.mark.parametrize("depth", [100, 200_000])
def test_deep_rubbish_as_a_dtype_is_an_error_not_a_traceback(depth: int, zipped: Any, refused: Any) -> None:
    nested = b"]" * depth + b"a" * (depth - 1)
    pickled = tensor_pickle(function=V3, kind=UNTYPED, numel=b"K\x18", rest=b"\x89N" + nested)
    error = refused(zipped(pickled, {"0": bytes(24)}), "dtype")
    assert len(str(error)) < 500


def test_a_huge_expanded_tensor_is_refused_or_at_least_not_allotted(zipped: Any) -> None:
    """24 bytes that claim 2^62 rows: no step may need memory for them."""
    from qkvinspect.errors import QkvInspectError
    from qkvinspect.weights.norms import StreamRequest, stream
    from qkvinspect.weights.weight import plain

    pickled = tensor_pickle(size=long(1 << 62) + b"K\x03\x86", stride=b"K\x00K\x01\x86")
    with pytest.raises(QkvInspectError), open_checkpoint(zipped(pickled, {"0": bytes(24)})) as checkpoint:
        list(stream([StreamRequest(plain(checkpoint.tensors["w"]), "out_in")], lambda _: None))


def test_flipped_bits_give_a_checkpoint_or_one_kind_of_error(saved: Any, tmp_path: Path, content: Any) -> None:
    data = saved({"state_dict": {"w": torch.randn(3, 3), "b": torch.randn(3)}, "args": {"heads": 2}}).read_bytes()
    path = tmp_path / "flipped.pt"
    chance = random.Random(0)
    outcomes = set()
    for _ in range(600):
        flipped = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            with open_checkpoint(path) as checkpoint:
                for info in checkpoint.tensors.values():
                    content(info)
            outcomes.add("read")
        except (CheckpointError, LayoutError):
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
