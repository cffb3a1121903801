"""Small weights that lie near each other are read at once, and their norms are those that torch finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.sources import LocalFile
from qkvinspect.sources.briefly import AT_ONCE
from qkvinspect.weights.compiled import squares_of
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.many_small import SmallForms, squares_of_columns
from qkvinspect.weights.neighbours import in_runs
from qkvinspect.weights.norms import StreamRequest, stream
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.tiles import tiles
from qkvinspect.weights.weight import plain


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads but those of headers."""
    sizes: list[int] = []
    real = LocalFile.read_into

    def read_into(self: LocalFile, offset: int, room: memoryview) -> None:
        sizes.append(len(room))
        real(self, offset, room)

    monkeypatch.setattr(LocalFile, "read_into", read_into)
    return sizes


def written(
    path: Path, sizes: dict[str, tuple[int, int]], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {name: torch.randn(shape).to(dtype) for name, shape in sizes.items()}
    save_file(state, path)
    return state


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "float64"])
def test_norms_of_many_small_weights(dtype: str, tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "m.safetensors"
    state = written(path, {f"w{n:04}": (1 + n % 7, 3 + n % 50) for n in range(400)}, getattr(torch, dtype))
    state["w0007"][0, 0] = torch.nan
    state["w0009"].zero_()
    save_file(state, path)
    with open_checkpoint(path) as checkpoint:
        infos = checkpoint.tensors
        found = list(stream([StreamRequest(plain(info), "out_in") for info in infos.values()], lambda _: None))
    for (name, info), stats in zip(infos.items(), found, strict=True):
        assert stats is not None
        expected = state[name].double()
        if name == "w0007":
            assert stats.odd == {0: (1, 1)}
            continue
        assert list(stats.squares) == pytest.approx(expected.square().sum(1).tolist(), rel=1e-6, abs=0), name
        assert len(stats.squares) == info.shape[0]
    if dtype != "float64":  # which numpy sums, each on its own
        assert len(reads) < 20


def test_what_lies_far_apart_is_read_alone(tmp_path: Path) -> None:
    written(tmp_path / "m.safetensors", {"a": (4, 4), "b": (4, 4), "big": (200, 200), "c": (4, 4), "d": (4, 4)})
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        pieces = [
            tile
            for name in ("a", "b", "big", "c", "d")
            for tile in tiles(strided_matrix(checkpoint.tensors[name], "out_in"), 1 << 20)
        ]
        assert [[one is not None for one in read] for read in in_runs(pieces)] == [[True] * 2, [False], [True] * 2]
        assert [len(read) for read in in_runs([pieces[0], pieces[4]])] == [1, 1]
        assert [len(read) for read in in_runs([pieces[1], pieces[0]])] == [1, 1]  # not in the order of the file


@pytest.mark.parametrize("between", [0, 5, 10_000])
def test_weights_of_modules_in_step_are_summed_as_those_in_any_order(
    between: int, tmp_path: Path, reads: list[int]
) -> None:
    path = tmp_path / "m.safetensors"
    state = {
        name: torch.randn(shape)
        for n in range(700)
        for name, shape in {f"{n:03}.a": (7, 33), f"{n:03}.b": (between,), f"{n:03}.c": (3, 5)}.items()
    }
    state["123.a"][2, 0] = torch.inf
    state["456.c"].zero_()
    save_file(state, path)
    with open_checkpoint(path) as checkpoint:
        weights, forms = weights_of(checkpoint), SmallForms()
        columns = [[name for name in weights if name.endswith(end)] for end in "ac"]
        named = [(forms.of(weights[names[0]], "out_in"), names) for names in columns]
        known = [(form, form.table.starts(names)) for form, names in named if form is not None]
        if len(known) < 2:
            pytest.skip("numpy sums them here")
        reads.clear()
        found = [[*column] for column in squares_of_columns(known)]
        bytes_of_all = 700 * 4 * (7 * 33 + between + 15)
        assert len(reads) <= (bytes_of_all // AT_ONCE + 2 if between < 10_000 else 1500)
        turned = [[*column] for column in squares_of_columns([(form, starts[::-1]) for form, starts in known])]
        assert found == [every[::-1] for every in turned]
        assert [column.count(None) for column in found] == [1, 0]
        assert found[0][123] is None
        firsts = squares_of_columns([(form, starts[:1]) for form, starts in known])
        assert [[*column] for column in firsts] == [every[:1] for every in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_small_weights_of_a_table_are_summed_as_each_is_alone(dtype: str, tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "m.safetensors"
    kind = getattr(torch, dtype)
    state = {f"w{n:04}": torch.randn(7, 33).to(kind) for n in range(800)}
    state |= {f"w{n:04}.bias": torch.randn(7).to(kind) for n in range(0, 800, 3)}
    state |= {"w0500.far": torch.randn(300, 200).to(kind)}
    state["w0007"][0, 0] = torch.nan
    state["w0700"].zero_()
    state["w0600"] = (state["w0600"].double() * 1e-30).to(kind)
    save_file(state, path)
    with open_checkpoint(path) as checkpoint:
        weights = weights_of(checkpoint)
        forms = SmallForms()
        assert forms.of(weights["w0500.far"], "out_in") is None
        assert forms.of(weights["w0000"], "in_out") is None
        if squares_of(dtype) is None:  # numpy sums all of them
            assert forms.of(weights["w0000"], "out_in") is None
            return
        columns = [[name for name in weights if len(weights[name].shape) == axes][:800] for axes in (2, 1)]
        columns[0].remove("w0500.far")
        named = [(forms.of(weights[names[0]], "out_in"), names) for names in columns]
        known = [(form, form.table.starts(names[::-1])) for form, names in named if form is not None]
        assert len(known) == 2
        found = [[*column] for column in squares_of_columns(known)]  # in any order
        assert len(reads) < len(state) / 30
        for names, every in zip(columns, found, strict=True):
            alone = stream([StreamRequest(plain(weights.tensors[name]), "out_in") for name in names], lambda _: None)
            for name, squares, stats in zip(names, reversed(every), alone, strict=True):
                assert stats is not None
                if name == "w0007":
                    assert (squares, stats.odd) == (None, {0: (1, 1)})
                elif squares is None:  # too small for what sums in float32
                    assert name == "w0600"
                else:
                    assert squares == list(stats.squares), name
    assert found[0][columns[0][::-1].index("w0001")] == pytest.approx(
        state["w0001"].double().square().sum(1).tolist(), rel=1e-6
    )
