"""The parts of what writes files: order of rows, shards, names, views in pieces, and where torch's entries begin."""

from __future__ import annotations

import struct
import zipfile
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import UsageError
from qkvinspect.export import scattered as in_pieces
from qkvinspect.export.files import shards
from qkvinspect.export.naming import layer_in, naming, renaming
from qkvinspect.export.pieces import OutputTensor, RowRun
from qkvinspect.export.row_runs import arrange, count, merged, same_bytes
from qkvinspect.export.torch_file import write_torch
from qkvinspect.layouts import LAYOUTS
from qkvinspect.layouts.packing import Geometry, Packing, split_rows
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.weight import Weight, plain
from tests.batches import batched
from tests.weights.test_reading import plain_bytes, stored

PACKINGS = [
    (Packing(("q", "k", "v")), Geometry(4, 2, 3)),
    (Packing(("k", "q", "v"), "kv_heads"), Geometry(4, 2, 3, 2)),
    (Packing(("q", "k", "v"), "heads"), Geometry(3, 3, 2)),
    (Packing(("q", "k", "v"), "heads", slot_innermost=True), Geometry(3, 3, 4)),
    (Packing(("q", "v", "k"), 2), Geometry(4, 4, 3)),
    (Packing(("q", "k", "v"), heads_innermost=True), Geometry(4, 2, 3)),
]


def weight(name: str, rows: int) -> Weight:
    return Weight(name, (rows, 1), DTYPES["float32"], None, None)


@batched("packing geometry", PACKINGS)
@pytest.mark.parametrize("cut", [1, 2, 5, 100])
def test_rows_are_put_where_the_packing_has_them(packing: Packing, geometry: Geometry, cut: int) -> None:
    """Each part's rows lie in several runs of a tensor of its own, with one row between."""
    parts: dict[str, tuple[RowRun, ...]] = {}
    for part in "qkv":
        size = geometry.heads(part) * geometry.width(part)
        own = weight(part, 2 * size)
        starts = range(0, size, cut)
        parts[part] = tuple(RowRun(range(s + s // cut, s + s // cut + min(cut, size - s)), own) for s in starts)
    total = sum(map(count, parts.values()))
    expected: dict[int, tuple[str, int]] = {}
    for part, heads in split_rows(packing, geometry, total).items():
        rows = chain.from_iterable(run.rows for run in parts[part])
        expected |= {place: (part, row) for place, row in zip(chain.from_iterable(heads), rows, strict=True)}
    found = arrange(packing, geometry, parts)
    assert [(run.weight.name, row) for run in found if run.weight for row in run.rows] == [
        expected[place] for place in range(total)
    ]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.integers(1, 3), st.integers(1, 2)), max_size=8))
def test_neighbouring_rows_are_joined_and_none_is_lost(given: list[tuple[str, int, int, int]]) -> None:
    weights = {name: weight(name, 99) for name in "ab"}
    runs = [RowRun(range(start, start + size * step, step), weights[name]) for name, start, size, step in given]
    found = merged(runs)
    rows = [[(run.weight, row) for run in some for row in run.rows] for some in (runs, found)]
    assert rows[0] == rows[1]
    assert len(merged([RowRun(range(n, n + 1), weights["a"]) for n in range(2, 9, 2)])) == 1
    assert len(merged([RowRun(range(4), weights["a"]), RowRun(range(4, 6), weights["a"])])) == 1
    assert len(merged([RowRun(range(4), weights["a"]), RowRun(range(4, 6), weights["b"])])) == 2
    assert len(merged([RowRun(range(4), weights["a"]), RowRun(range(4, 6), weights["a"], "in_out")])) == 2


@given(st.binary(max_size=12), st.lists(st.integers(0, 12), max_size=4), st.lists(st.integers(0, 12), max_size=4))
def test_two_streams_of_the_same_bytes(data: bytes, some: list[int], others: list[int]) -> None:
    def cut(data: bytes, at: list[int]) -> Any:
        edges = [0, *sorted(min(place, len(data)) for place in at), len(data)]
        return (data[start:stop] for start, stop in pairwise(edges))

    assert same_bytes(cut(data, some), cut(data, others))
    assert not same_bytes(cut(data, some), cut(data + b"x", others))
    assert not same_bytes(cut(data + b"x", some), cut(data, others))
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert not same_bytes(cut(data, some), cut(changed, others))


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 9))
def test_shards_are_as_full_as_they_may_be(sizes: list[int], most: int) -> None:
    pieces = [OutputTensor(str(n), (size,), DTYPES["uint8"], ()) for n, size in enumerate(sizes)]
    found = shards(pieces, most)
    assert list(chain.from_iterable(found)) == pieces
    held = [[piece.nbytes for piece in shard] for shard in found]
    assert all(len(shard) == 1 or sum(shard) <= most for shard in held if shard)
    assert all(sum(shard) + following[0] > most for shard, following in pairwise(held))
    assert all(held) or not sizes


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{layer}.{part}.{kind}", "l.0.k.bias"),
        ("{layer}/{word}-{kind}", "l.0/key-bias"),
        (".{part}{word}{kind}", "kkeybias"),
        ("{layer}.{kind}", None),
        ("{layer}.{part}", None),
        ("{part}.{kind}.{other}", None),
        ("{part}.{kind!r}", None),
        ("{part}.{kind", None),
    ],
)
def test_names_by_template(template: str, named: str | None) -> None:
    if named is None:
        with pytest.raises(UsageError, match="no way to name tensors"):
            naming(template)
    else:
        assert naming(template)("l.0", "k", "bias") == named


def test_names_are_renamed_one_rule_after_the_other() -> None:
    rename = renaming([r"^h\.(\d+)=layers.\1", "layers=blocks", "gone="])
    assert [rename(name) for name in ("h.7.gone", "x.h.7", "layers.0")] == ["blocks.7.", "x.h.7", "blocks.0"]
    for text in ("no-equals", "(=x", r"a=\1"):
        with pytest.raises(UsageError, match="cannot be used"):
            renaming([text])


@pytest.mark.parametrize("behind", [False, True])
def test_a_layer_s_name_in_any_layout_keeps_its_number_and_stays(behind: bool) -> None:
    for layout in (one for one in LAYOUTS if one.layer):
        name = layer_in(layout, "model.layers.7.self_attn", None, behind=behind)
        demanded = [choice.split("|") for choice in layout.layer.split(".")]
        for part, choices in zip(name.split(".")[-len(demanded) :], demanded, strict=True):
            assert part in choices or ("#" in choices and part == "7")
        assert layer_in(layout, name, None, behind=behind) == name
        if behind and not layout.label:
            assert name.startswith("model.layers.7.self_attn")
        assert "0" in layer_in(layout, "", None) or not any(choices[0] == "#" for choices in demanded)


@pytest.mark.parametrize("at_once", [16, 40, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_views_are_written_in_pieces(at_once: int, dtype: torch.dtype, byteorder: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(in_pieces, "_GATHERED", at_once)
    base = torch.randint(0, 99, (5, 4, 6)).to(dtype)
    for view in (base, base.permute(2, 0, 1), base[1:, ::2, 1:], base[:1].expand(3, 4, 6), base[:, :1, 3]):
        info = stored(view, byteorder)
        found = in_pieces.strided(info, info.shape, info.strides, info.offset)
        assert b"".join(found) == plain_bytes(view)
    parts = [torch.randint(0, 99, (rows, 7)).to(dtype) for rows in (3, 1, 5)]
    matrices = [strided_matrix(stored(part, byteorder), "out_in") for part in parts]
    assert b"".join(in_pieces.transposed(matrices, DTYPES[str(dtype)[6:]], "w")) == plain_bytes(torch.cat(parts).T)


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 10])
def test_entries_begin_where_torch_would_map_them(limit: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Also those of more than 4 GiB, whose headers are longer: here of more than ten bytes."""
    state = {"a": torch.ones(1, 3), "b": torch.arange(40, dtype=torch.float64).view(4, 10)}
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    pieces = [
        OutputTensor(name, tuple(tensor.shape), info.dtype, (RowRun(range(len(tensor)), plain(info)),))
        for name, tensor in state.items()
        if (info := stored(tensor))
    ]
    with (tmp_path / "m.pt").open("wb") as file:
        write_torch(file, pieces, dict, lambda _: None)
    monkeypatch.undo()
    data = (tmp_path / "m.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        for entry in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
            assert (entry.header_offset + 30 + name + extra) % 64 == 0
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
    loaded = torch.load(tmp_path / "m.pt", weights_only=True)
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize(("layer", "code"), [("1", 0), ("0", 2)])
def test_a_layer_beside_codes_that_nobody_can_read_is_refused_and_no_other(
    layer: str, code: int, tmp_path: Path, run
) -> None:
    """GPTQ's zeros beside a weight that has no codes."""
    name = "model.layers.{}.self_attn.{}_proj"
    state = {f"{name.format(n, part)}.weight": torch.randn(32, 32) for n in (0, 1) for part in "qkvo"}
    state |= {f"{name.format(0, part)}.qzeros": torch.zeros(4, dtype=torch.int32) for part in "qkv"}
    save_file(state, tmp_path / "model.safetensors")
    argv = ("convert", tmp_path / "model.safetensors", "--to", "torch-mha", "--heads", "4", "--no-evidence")
    found = run(*argv, "--layer", f"model.layers.{layer}.self_attn", "-o", tmp_path / "out.safetensors")
    assert found.code == code, found.err
    assert ("it is quantised" in found.err) == (code == 2)
