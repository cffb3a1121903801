"""torch.distributed.checkpoint: what it saves itself, by one process and by two, and folders written by hand."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

from qkvinspect.checkpoint import Region, TensorInfo
from qkvinspect.dtypes import DTYPES
from qkvinspect.error_codes import Code
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.assembled import Assembled, Box
from tests.hostile.memory import MemoryFile
from tests.hostile.writers import dcp, pickles

pytestmark = pytest.mark.filterwarnings("ignore")
Refused = Callable[..., Any]


def save_as(rank: int, folder: Path) -> None:
    """What one of two ranks saves."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = torch.nn.MultiheadAttention(8, 2).state_dict() | {
        "columns": torch.randn(6, 7), "uneven": torch.randn(5, 3), "one": torch.randn(1, 3),
        "conv": torch.randn(3, 4, 2, 2), "half": torch.randn(6, 4).bfloat16(), "long": torch.arange(7),
    }  # fmt: skip
    cut: dict[str, Any] = {name: Shard(0) for name in whole} | {
        "columns": Shard(1), "conv": Shard(1), "half": Shard(1), "in_proj_bias": Replicate(), "out_proj.bias": None,
    }  # fmt: skip
    model = {name: distribute_tensor(value, mesh, [cut[name]]) if cut[name] else value for name, value in whole.items()}
    turned = distribute_tensor(torch.randn(4, 6).t(), mesh, [Shard(0)])
    dcp_save({"model": {**model, "turned": turned}, "step": 3}, checkpoint_id=folder / "dcp")
    del model["long"]  # which torch does not consolidate
    joined = HuggingFaceStorageWriter(f"{folder}/joined", save_distributed=True, enable_consolidation=True)
    dcp_save(model, storage_writer=joined)
    if rank == 0:
        torch.save(whole, folder / "whole.pt")
    dist.barrier()


def save_and_end(rank: int, folder: Path) -> NoReturn:
    try:
        save_as(rank, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # gloo's threads abort some processes that end in the usual way


def same(path: Path, expected: Mapping[str, torch.Tensor], content: Any, tensor_bytes: Any, **options: Any) -> None:
    with open_checkpoint(path, **options) as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, info in checkpoint.tensors.items():
            assert info.shape == expected[name].shape
            assert content(info) == tensor_bytes(expected[name]), name


@pytest.mark.usefixtures("torch_compiler")
@pytest.mark.gate
def test_what_two_ranks_saved_is_what_torch_joins(
    tmp_path: Path, content: Any, tensor_bytes: Any, refused: Refused, run: Any
) -> None:
    fork = multiprocessing.get_context("fork")  # which imports nothing again
    ranks = [fork.Process(target=save_and_end, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "torch.pt")
    joined = torch.load(tmp_path / "torch.pt", weights_only=True)["model"]
    assert all(torch.equal(joined[name], value) for name, value in whole.items())

    same(tmp_path / "dcp", joined, content, tensor_bytes)
    same(tmp_path / "dcp" / ".metadata", joined, content, tensor_bytes)
    with open_checkpoint(tmp_path / "dcp") as checkpoint:
        assert (checkpoint.format, checkpoint.container, checkpoint.num_files) == ("dcp", "model", 3)
        assert checkpoint.loader == "distributed"

    del whole["long"]
    parts = tmp_path / "joined" / "sharded"
    same(tmp_path / "joined", whole, content, tensor_bytes)
    same(parts, whole, content, tensor_bytes)
    first, second = sorted(parts.iterdir())
    same(second, whole, content, tensor_bytes)
    with open_checkpoint(parts) as checkpoint:
        assert (checkpoint.format, checkpoint.num_files) == ("dcp-safetensors", 2)
        assert checkpoint.loader == "distributed-safetensors"
        assert [finding.code for finding in checkpoint.findings] == ["parts-uncounted"]

    norms = [measures(run("show", path, "--format", "json", "--heads", "2").json()) for path in
             (tmp_path / "whole.pt", tmp_path / "dcp", parts)]  # fmt: skip
    assert norms[0] == norms[1] == norms[2]
    out = tmp_path / "out.safetensors"
    assert run("export", "--split", tmp_path / "dcp", "-o", out).code == 0
    split = safetensors.torch.load_file(out)
    assert torch.equal(split["k_proj.weight"], whole["in_proj_weight"][8:16])
    assert run("export", "--split", parts, "-o", second, "--force").code == 2

    first.rename(tmp_path / first.name)
    assert refused(parts, file=second).code is Code.PART_ALONE
    assert refused(tmp_path / first.name).code is Code.PART_ALONE


def measures(report: Any) -> list[Any]:
    return [attention[part] for attention in report["attentions"] for part in "qkv"]


def test_what_one_process_saved(tmp_path: Path, content: Any, tensor_bytes: Any) -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(2, 1, 8)).sum().backward()
    optimizer.step()
    odd = {"f8": torch.arange(4.0).to(torch.float8_e4m3fn), "scalar": torch.tensor(3.0), "none": torch.zeros(0, 3),
           "complex": torch.randn(2, 2, dtype=torch.complex64), "bool": torch.tensor([True]),
           "turned": torch.randn(4, 3, 2).permute(2, 0, 1)}  # fmt: skip
    model = layer.state_dict() | odd
    state = {"model": model, "optimizer": optimizer.state_dict(), "hyper_parameters": {"nhead": 2}, "epoch": 3}
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    same(tmp_path / "dcp", model, content, tensor_bytes)
    with open_checkpoint(tmp_path / "dcp") as checkpoint:
        assert {(c.path, c.role) for c in checkpoint.containers} == {("model", "model"), ("optimizer", "optimizer")}
        assert [(c.origin, c.values) for c in checkpoint.configs] == [
            ("checkpoint:hyper_parameters", {"nhead": 2}),
            ("checkpoint", {"epoch": 3}),
        ]
    moments = {
        f"state.{n}.{key}": value for n, s in optimizer.state_dict()["state"].items() for key, value in s.items()
    }
    same(tmp_path / "dcp", moments, content, tensor_bytes, container="optimizer")


@pytest.mark.gate
def test_rows_of_all_shapes_and_cuts() -> None:
    """Every range of bytes of a tensor that is cut along three axes, some pieces stored in another order."""
    shape, cuts = (4, 5, 3), ((0, 1, 4), (0, 3, 5), (0, 2, 3))
    whole = np.arange(60, dtype="<u2").reshape(shape)
    pieces: list[Box] = []
    for count, spans in enumerate(product(*(list(pairwise(cut)) for cut in cuts))):
        part = whole[tuple(slice(*span) for span in spans)]
        big = count % 2 == 1
        stored = np.asarray(part, ">u2" if big else "<u2", order="F" if count % 3 == 1 else "C")
        data = stored.tobytes(order="A")
        strides = tuple(step // 2 for step in stored.strides)
        file = MemoryFile(b"??" + data)
        info = TensorInfo("x", DTYPES["uint16"], part.shape, strides, Region(file, 0, len(data) + 2), 1,
                          "big" if big else "little")  # fmt: skip
        pieces.append(Box(tuple(a for a, _ in spans), part.shape, info.region, lambda info=info: info))
    region = Assembled(MemoryFile(b""), DTYPES["uint16"], shape, pieces)
    expected = whole.tobytes()
    for start in range(0, 120, 5):
        for stop in range(start, 121):
            assert region.read(start, stop - start) == expected[start:stop]
            assert start % 17 or region.part(start, 120 - start).read(0, stop - start) == expected[start:stop]
    assert [extent.source for extent in region.extents] == [piece.reach.source for piece in pieces]


FLOATS = np.arange(16, dtype="<f4")
PARTS = [dcp.zipped(FLOATS[:8].tobytes(), (2, 4)), dcp.zipped(FLOATS[8:].tobytes(), (2, 4))]
FIRST = dcp.Chunk((0, 0), (2, 4), "__0_0.distcp", 0, len(PARTS[0]))
SECOND = dcp.Chunk((2, 0), (2, 4), "__1_0.distcp", 0, len(PARTS[1]))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint of one tensor [4, 4] in two chunks, written by hand; ``metadata`` may be other bytes."""

    def write(*chunks: dcp.Chunk, size: Any = (4, 4), dtype: str = "float32", metadata: bytes | None = None) -> Path:
        place = tmp_path / "dcp"
        place.mkdir(exist_ok=True)
        tensors = {"w": dcp.Tensor(size, chunks or (FIRST, SECOND), dtype)}
        (place / ".metadata").write_bytes(dcp.metadata(tensors) if metadata is None else metadata)
        for name, part in zip(("__0_0.distcp", "__1_0.distcp"), PARTS, strict=True):
            (place / name).write_bytes(part)
        return place

    return write


def test_a_folder_by_hand(folder: Any, content: Any) -> None:
    with open_checkpoint(folder()) as checkpoint:
        assert content(checkpoint.tensors["w"]) == FLOATS.tobytes()
        region = checkpoint.tensors["w"].region
        assert region.read(30, 5) == FLOATS.tobytes()[30:35]
        assert region.read(30, 0) == b""


def test_no_element_in_several_pieces() -> None:
    nowhere = Region(MemoryFile(b""), 0, 0)
    pieces = [Box((0, 0), (0, 3), nowhere, lambda: pytest.fail("there is nothing to read"))] * 2
    assert Assembled(MemoryFile(b""), DTYPES["float32"], (4, 0), pieces).read(0, 0) == b""


@pytest.mark.parametrize(
    ("chunk", "code", "file"),
    [
        (replace(SECOND, file="../dcp/__1_0.distcp"), Code.FILE_ESCAPE, ".metadata"),
        (replace(SECOND, file="/etc/passwd"), Code.FILE_ESCAPE, ".metadata"),
        (replace(SECOND, file="__7_0.distcp"), Code.FILE_MISSING, "__7_0.distcp"),
        (replace(SECOND, start=1), Code.DCP_RANGE, ".metadata"),
        (replace(SECOND, length=len(PARTS[1]) + 1), Code.DCP_RANGE, ".metadata"),
        (replace(SECOND, start=1 << 62, length=1 << 62), Code.DCP_RANGE, ".metadata"),
        (replace(SECOND, length=len(PARTS[1]) - 1), Code.ZIP_NO_END, "__1_0.distcp"),
        (replace(SECOND, start=8, length=100), Code.DCP_CHUNK, "__1_0.distcp"),
        (replace(SECOND, at=(1, 0)), Code.CHUNK_OVERLAP, ".metadata"),
        (replace(SECOND, at=(3, 0)), Code.CHUNK_OUTSIDE, ".metadata"),
        (replace(SECOND, at=(2, 0, 0)), Code.CHUNK_OUTSIDE, ".metadata"),
        (replace(SECOND, listed_size=(1, 4)), Code.CHUNK_GAP, ".metadata"),
        (replace(SECOND, listed_size=(2, 5)), Code.CHUNK_OUTSIDE, ".metadata"),
        (replace(SECOND, listed_size=(2,)), Code.CHUNK_OUTSIDE, ".metadata"),
        (replace(SECOND, listed_size=(2, 4, 1)), Code.CHUNK_OUTSIDE, ".metadata"),
        (replace(SECOND, file="__0_0.distcp", at=(0, 0)), Code.DCP_PLACE, ".metadata"),
        (replace(SECOND, at=(-2, 0)), Code.TENSOR_SHAPE, ".metadata"),
        (replace(SECOND, start=-1), Code.DCP_RANGE, ".metadata"),
    ],
    ids=str,
)
def test_a_chunk_that_lies(chunk: dcp.Chunk, code: Code, file: str, folder: Any, refused: Refused) -> None:
    place = folder(FIRST, chunk)
    error = refused(place, file=place / file)
    assert error.code is code
    assert error.hint or error.found


def test_chunks_that_are_too_few_or_of_another_kind(folder: Any, refused: Refused) -> None:
    place = folder(FIRST)
    assert refused(place, file=place / ".metadata").code is Code.CHUNK_GAP
    place = folder(dtype="int64")
    assert refused(place, file=place / "__0_0.distcp").code is Code.DCP_CHUNK
    swapped = (replace(FIRST, listed_size=(2, 2), size=(2, 2)), replace(SECOND, at=(0, 2)), replace(FIRST, at=(2, 0)))
    assert refused(folder(*swapped), file=place / ".metadata").code in (Code.CHUNK_OUTSIDE, Code.CHUNK_OVERLAP)
    mixed = (replace(FIRST, listed_size=(4, 2)), replace(SECOND, at=(0, 2), listed_size=(4, 2)))
    assert refused(folder(*mixed), file=place / "__0_0.distcp").code is Code.DCP_CHUNK


def test_equal_numbers_of_elements_do_not_hide_a_gap(folder: Any, refused: Refused) -> None:
    chunks = (FIRST, replace(SECOND, at=(1, 0)), replace(SECOND, at=(3, 0), listed_size=(0, 4)))
    place = folder(*chunks)
    error = refused(place, file=place / ".metadata")
    assert error.code is Code.CHUNK_OVERLAP
    assert "16 elements" in str(error)


def test_a_link_out_of_the_folder(folder: Any, tmp_path: Path, refused: Refused, content: Any) -> None:
    place = folder()
    chunk = place / "__1_0.distcp"
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    assert refused(place, file=chunk).code is Code.FILE_LINK_OUT
    (place / ".metadata").rename(tmp_path / "metadata")
    (place / ".metadata").symlink_to(tmp_path / "metadata")  # as the hub's cache does for every file
    with open_checkpoint(place) as checkpoint:
        assert content(checkpoint.tensors["w"]) == FLOATS.tobytes()


def test_a_flipped_bit_of_a_chunk_is_seen(folder: Any, refused: Refused) -> None:
    place = folder()
    data = bytearray(PARTS[1])
    data[data.index(FLOATS[8:].tobytes()) + 5] ^= 1
    (place / "__1_0.distcp").write_bytes(data)
    assert refused(place, file=place / "__1_0.distcp").code is Code.ZIP_CHECKSUM


@pytest.mark.parametrize(
    "fields",
    [
        {"state_dict_metadata": pickles.NONE},
        {"state_dict_metadata": pickles.mapping([(pickles.number(1), pickles.NONE)])},
        {"state_dict_metadata": pickles.named({"w": pickles.text("x")})},
        {"state_dict_metadata": pickles.named({"w": dcp.made("os", "TensorStorageMetadata", pickles.named({}))})},
        {"storage_data": pickles.NONE},
        {"storage_data": pickles.mapping([(pickles.text("w"), pickles.NONE)])},
        {"planner_data": pickles.named({"w": pickles.row(pickles.text("other"))})},
        {"planner_data": pickles.text("w")},
    ],
    ids=str,
)
def test_metadata_that_is_something_else(fields: Any, folder: Any, refused: Refused) -> None:
    place = folder(metadata=dcp.metadata({"w": dcp.Tensor((4, 4), (FIRST, SECOND))}, **fields))
    assert refused(place, file=place / ".metadata").code is Code.DCP_METADATA


def test_hostile_metadata_runs_nothing(folder: Any, refused: Refused, tmp_path: Path) -> None:
    bomb = pickles.call(pickles.name("os", "mkdir"), pickles.text(str(tmp_path / "made")))
    place = folder(metadata=dcp.metadata({"w": dcp.Tensor((4, 4), (FIRST, SECOND))}, storage_meta=bomb))
    with open_checkpoint(place) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
    assert not (tmp_path / "made").exists()
    cut = dcp.metadata({"w": dcp.Tensor((4, 4), (FIRST, SECOND))})[:-3]
    assert refused(folder(metadata=cut), file=place / ".metadata").code is Code.PICKLE_TRUNCATED


def test_a_folder_without_its_metadata(folder: Any, refused: Refused) -> None:
    place = folder()
    (place / ".metadata").rename(place / "__0.metadata")
    assert refused(place, "__0.metadata").code is Code.DCP


def test_an_extension(folder: Any, refused: Refused) -> None:
    data = dcp.metadata({"w": dcp.Tensor((4, 4), (FIRST, SECOND))})
    length = pickles.text("length")
    listed = pickles.text("transform_descriptors") + pickles.items(pickles.text("zstd"))
    place = folder(metadata=data.replace(length, listed + length))
    assert refused(place, file=place / ".metadata").code is Code.DCP_TRANSFORMED


def part(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], info: object) -> Path:
    text = info if isinstance(info, str) else json.dumps({k: {"saved_offsets": v} for k, v in info.items()})
    safetensors.torch.save_file(dict(tensors), folder / name, {"DCP_SHARDING_INFO": text})
    return folder / name


def test_parts_that_do_not_fit(tmp_path: Path, refused: Refused, content: Any) -> None:
    a, b = torch.ones(2, 3), torch.zeros(2, 3)
    one = part(tmp_path, "shard-00001-model-00001-of-00001.safetensors", {"w": a}, {"w": [0, 0]})
    for tensor, at, code in (
        (b, [3, 0], Code.CHUNK_GAP),
        (b, [1, 0], Code.CHUNK_OVERLAP),
        (b, [0, 0], Code.CHUNK_OVERLAP),
        (b, [2, 1], Code.CHUNK_GAP),
        (b.half(), [2, 0], Code.PART_CONFLICT),
        (b[0], [2], Code.PART_CONFLICT),
    ):
        two = part(tmp_path, "shard-00002-model-00001-of-00001.safetensors", {"w": tensor}, {"w": at})
        assert refused(tmp_path, file=two if code is Code.PART_CONFLICT else one).code is code
    part(tmp_path, "shard-00002-model-00001-of-00001.safetensors", {"w": b}, {"w": [2, 0]})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors["w"].shape == (4, 3)
        assert content(checkpoint.tensors["w"]) == b"\0\0\x80?" * 6 + bytes(24)


@pytest.mark.parametrize(
    "info", ["", "[]", "{}", '{"w": {}}', {"w": [0]}, {"w": [0, -1]}, {"w": ["0", 0]}, {"v": [0, 0]}]
)
def test_offsets_that_say_nothing(info: object, tmp_path: Path, refused: Refused) -> None:
    assert refused(part(tmp_path, "model.safetensors", {"w": torch.ones(2, 3)}, info)).code is Code.PART_OFFSETS


def test_a_whole_file_says_where_its_tensors_begin_too(tmp_path: Path) -> None:
    """As HuggingFaceStorageWriter writes it from one process."""
    with open_checkpoint(part(tmp_path, "model.safetensors", {"w": torch.ones(2, 3)}, {"w": [0, 0]})) as checkpoint:
        assert checkpoint.format == "safetensors"
    path = part(tmp_path, "model.safetensors", {"w": torch.ones(2, 3)}, {"w": [2, 0]})
    with pytest.raises(Exception, match="only parts of tensors"):
        open_checkpoint(path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what /proc shows")
def test_every_file_is_closed_again(folder: Any, refused: Refused) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open_checkpoint(folder()):
        assert len(os.listdir("/proc/self/fd")) == before + 1
    place = folder(FIRST)
    refused(place, file=place / ".metadata")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_hyper_parameters_that_lightning_saves_beside_the_tensors(tmp_path: Path, run: Any) -> None:
    """``meta.pt`` of lightning.fabric's FSDP and ModelParallel strategies holds all but the tensors."""
    state = {f"blocks.0.self_attn.{name}_proj.weight": torch.randn(32, 32) for name in "qkvo"}
    torch.distributed.checkpoint.save({"state_dict": state}, checkpoint_id=tmp_path / "last.ckpt", no_dist=True)
    meta = {"epoch": 3, "hyper_parameters": {"num_heads": 4, "width": 32}, "pytorch-lightning_version": "2.6.0"}
    torch.save(meta, tmp_path / "last.ckpt" / "meta.pt")
    (attention,) = run("show", tmp_path / "last.ckpt", "-f", "json").json()["attentions"]
    assert (attention["num_heads"], attention["num_heads_from"]) == (4, "checkpoint:hyper_parameters:num_heads")
    (tmp_path / "last.ckpt" / "meta.pt").write_bytes(b"PK no zip")
    result = run("show", tmp_path / "last.ckpt", "-f", "json")
    assert result.code == 0
    assert [one["message"] for one in result.json()["findings"] if one["code"] == "config-unreadable"] != []
