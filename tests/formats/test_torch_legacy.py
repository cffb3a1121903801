"""torch's format before 1.6, against torch.load, and what is damaged in it."""

from __future__ import annotations

import argparse
import io
import random
import re
from pathlib import Path

import pytest
import torch

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.reading import read_rows
from qkvinspect.weights.strided import strided_matrix

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def save(content: object, path: Path) -> bytes:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def read(path: Path, name: str) -> bytes:
    with open_checkpoint(path) as checkpoint:
        matrix = strided_matrix(checkpoint.tensors[name], "out_in")
        return b"".join(read_rows(matrix, (range(matrix.rows),)))


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (5, 3 * dtype.itemsize), dtype=torch.uint8).view(dtype)
    save({"w": tensor, "b": torch.randn(7)}, tmp_path / "m.bin")
    assert read(tmp_path / "m.bin", "w") == raw(torch.load(tmp_path / "m.bin", weights_only=True)["w"])
    with open_checkpoint(tmp_path / "m.bin") as checkpoint:
        assert (checkpoint.format, checkpoint.loader) == ("torch-legacy", "torch")
        assert checkpoint.tensors["w"].dtype.name == str(dtype).removeprefix("torch.")


def test_views_and_shared_storages(tmp_path: Path) -> None:
    base = torch.randn(8, 6)
    content = {"t": base.T, "part": base[2:5, 1:4], "same": base, "wide": base[:, :1].expand(8, 4)}
    save(content, tmp_path / "m.pt")
    for name, tensor in content.items():
        assert read(tmp_path / "m.pt", name) == raw(tensor)


def test_a_training_checkpoint_that_torch_refuses(tmp_path: Path, run) -> None:
    """Namespaces stop torch.load(weights_only=True); here they tell the number of heads."""
    state = {f"encoder.layers.0.self_attn.{part}_proj.weight": torch.randn(8, 8) for part in "qkv"}
    content = {"args": argparse.Namespace(encoder_attention_heads=4), "model": state, "last_optimizer_state": {}}
    save(content, tmp_path / "m.pt")
    (attention,) = run("show", tmp_path / "m.pt", "-f", "json").json()["attentions"]
    assert (attention["num_heads"], attention["num_heads_from"]) == (4, "checkpoint:args:encoder_attention_heads")


def test_a_pickled_module(tmp_path: Path) -> None:
    module = torch.nn.MultiheadAttention(8, 2)
    save(module, tmp_path / "m.pt")
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        assert list(checkpoint.tensors) == list(module.state_dict())
    assert read(tmp_path / "m.pt", "in_proj_weight") == raw(module.in_proj_weight.detach())


def test_pickles_of_over_a_megabyte(tmp_path: Path) -> None:
    content = {f"a_rather_long_name_of_a_tensor_{i:01000d}": torch.full((1,), float(i)) for i in range(2200)}
    assert len(save(content, tmp_path / "m.pt")) > 2_000_000
    assert read(tmp_path / "m.pt", list(content)[1321]) == raw(torch.tensor([1321.0]))


def test_views_of_storages_as_old_torch_wrote_them(tmp_path: Path) -> None:
    """The sixth field of a storage's id: a key of its own, an offset and a size, in elements."""
    root = torch.arange(10.0)
    data = save({"w": root}, tmp_path / "m.pt")
    view = b"X\x01\x00\x00\x00vK\x03K\x04\x87"
    old, views = re.subn(rb"K\nN(t(?:q.)?Q)", lambda found: b"K\n" + view + found[1], data)
    old, sizes = re.subn(rb"K\x00K\n\x85", b"K\x00K\x04\x85", old)
    assert (views, sizes) == (1, 1)
    (tmp_path / "m.pt").write_bytes(old)
    assert read(tmp_path / "m.pt", "w") == raw(root[3:7])
    assert torch.equal(torch.load(tmp_path / "m.pt", weights_only=False)["w"], root[3:7])


def test_truncated_anywhere(tmp_path: Path) -> None:
    data = save({"w": torch.randn(2, 3), "b": torch.randn(3)}, tmp_path / "m.pt")
    for size in range(15, len(data)):
        (tmp_path / "m.pt").write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data + b"\0", "follow the last storage"),
        (lambda data: data.replace(b"M\xe9\x03", b"M\xe8\x03", 1), "magic number or protocol"),
        (lambda data: re.sub(rb"(little_endianq.)\x88", rb"\1N", data), "byte order"),
        (lambda data: data.replace((6).to_bytes(8, "little") + b"\x00", (7).to_bytes(8, "little") + b"\x00"), "size"),
    ],
    ids=["trailing", "protocol", "byte order", "size"],
)
def test_damage_is_named(tmp_path: Path, change, words: str) -> None:
    data = save({"w": torch.zeros(2, 3)}, tmp_path / "m.pt")
    changed = change(data)
    assert changed != data
    (tmp_path / "m.pt").write_bytes(changed)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "m.pt")


@pytest.mark.gate
def test_flipped_bits_give_a_checkpoint_or_one_kind_of_error(tmp_path: Path) -> None:
    data = save({"state_dict": {"w": torch.randn(3, 3)}, "args": {"heads": 2}}, tmp_path / "m.pt")
    chance, outcomes = random.Random(0), set()
    for _ in range(600):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "m.pt").write_bytes(flipped)
        try:
            open_checkpoint(tmp_path / "m.pt").close()
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_nothing_is_called(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "touched",)

    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3), "evil": Evil()}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    assert read(tmp_path / "m.pt", "w") == raw(torch.ones(3))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_writes(tmp_path: Path, protocol: int) -> None:
    path, weight = tmp_path / "legacy.pt", torch.arange(6.0).view(2, 3)
    torch.save({"w": weight}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert read(path, "w") == raw(weight)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torch-legacy"
