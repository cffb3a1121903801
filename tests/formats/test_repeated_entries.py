"""Entries of a header that repeat those of the layer before say what they say when each is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint, plain_header
from qkvinspect.formats.repeated_entries import RepeatedEntries, RepeatedLayers
from qkvinspect.tensor_table import NamedBlock, TensorTable

Entries = Iterable[tuple[str, str, list[int]]]
SIZES = {"F32": 4, "F16": 2, "U8": 1}


def layer(stack: str, number: object, width: int = 2, dtype: str = "F32") -> Iterator[tuple[str, str, list[int]]]:
    yield f"{stack}.{number}.attn.qkv.weight", dtype, [3 * width, width]
    yield f"{stack}.{number}.attn.qkv.bias", dtype, [3 * width]
    yield f"{stack}.{number}.100%.d %b", "U8", []


def layers(stack: str, numbers: Iterable[object], width: int = 2, dtype: str = "F32") -> Entries:
    return [entry for number in numbers for entry in layer(stack, number, width, dtype)]


def described(entries: Entries) -> dict[str, dict[str, object]]:
    """The header: their bytes one after another."""
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, dtype, shape in entries:
        start, size = end, SIZES[dtype]
        for count in shape:
            size *= count
        end = start + size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return header


def written(folder: Path, text: str, size: int) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + bytes(size))
    return path


def end_of(header: dict[str, dict[str, object]]) -> int:
    offsets = [entry["data_offsets"] for entry in header.values()]
    return max(int(one[1]) for one in offsets if isinstance(one, list))


STACK = layers("model.layers", range(12))
HEADERS: dict[str, tuple[Entries, int]] = {
    "one after another": (STACK, 11),
    "sorted as text": (layers("h", [0, 1, 10, 100, 11, 2, 20, 3]), 7),
    "a few beside them": ([("wte", "F32", [4]), *STACK, ("norm.weight", "F32", [2]), ("lm_head", "F32", [4])], 11),
    "two stacks": ([*layers("encoder.h", range(5)), *layers("decoder.h", range(5), 4)], 8),
    "one of another dtype": ([*layers("h", range(4)), *layers("h", [4], dtype="F16"), *layers("h", range(5, 9))], 6),
    "one with more": ([*layers("h", range(4)), ("h.3.more", "F32", [1]), *layers("h", range(4, 9))], 7),
    "one with less": ([*layers("h", range(4)), *[*layer("h", 4)][:2], *layers("h", range(5, 9))], 6),
    "words in the place of numbers": (layers("h", ["first", "second", "3", "4", "5"]), 2),
    "leading zeros": (layers("h", ["00", "01", "02", "03"]), 3),
    "other letters": (layers("schicht_ü.键", range(4)), 3),
    "numbers without an end": (layers("h", [10**30 + one for one in range(4)]), 0),
    "numbers before": (layers("3.layers", range(5)), 4),
    "nothing but numbers": (layers("7", range(5)), 4),
    "over a thousand": (layers("h", range(1100)), 1099),
    "some left out": (layers("h", [*range(40), *range(700, 90, -7), *range(2000, 2050)]), 40 + 88 + 50 - 2 + 1),
    "without bytes": ([(f"h.{number}.empty", "F32", [0]) for number in range(40)], 39),
    "a word among them": (layers("h", [*range(10, 40), "4x", *range(40, 60)]), 29 + 19),
    "figures that are no digits": (layers("h", [*range(10, 40), "4²", *range(40, 60)]), 29 + 19),
}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("name", HEADERS)
def test_says_what_each_entry_says(
    name: str, separators: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, repeated = HEADERS[name]
    header = described(entries)
    path = written(tmp_path, json.dumps(header, separators=separators, ensure_ascii=False), end_of(header))
    found: list[NamedBlock] = []
    real = RepeatedEntries.layers

    def noted(
        self: RepeatedEntries, text: bytes, at: int, start: int, table: tuple[int, int]
    ) -> Iterator[RepeatedLayers]:
        for one in real(self, text, at, start, table):
            found.extend(one.blocks)
            yield one

    monkeypatch.setattr(RepeatedEntries, "layers", noted)
    with open_checkpoint(path) as quickly:
        assert isinstance(quickly.tensors, TensorTable)
        assert len(found) == repeated
        monkeypatch.setattr(plain_header, "is_of_stack", lambda *_: False)
        with open_checkpoint(path) as each:
            assert isinstance(each.tensors, TensorTable)
            assert len(found) == repeated
            assert quickly.tensors.kinds == each.tensors.kinds
            _are_the_same(quickly.tensors, each.tensors, [*header])


def _are_the_same(some: TensorTable, others: TensorTable, names: list[str]) -> None:
    assert [*some] == [*others] == names
    assert [name for name, _ in some.items()] == [one.name for one in some.values()] == names
    assert len(some) == len(others) == len(names)
    assert some.counted() == others.counted()
    assert [*map(some.place, names)] == [*map(others.place, names)]
    assert [*map(some.kind_number, names)] == [*map(others.kind_number, names)]
    assert some.starts(names) == others.starts(names)
    for name in (*names, *(f"{name}.more" for name in names), *(name[:-1] for name in names), "", "h.7", "h.7."):
        assert (name in some) == (name in others), name
        assert (some.get(name) is None) == (others.get(name) is None) == (name not in others)
        assert some.kind_number(name) == others.kind_number(name)
    for asked in (names, names[:1], names[-1:], names[1::4], []):
        assert some.positions({*asked}) == {name: at for at, name in enumerate(names) if name in asked}
    without_numbers = [{re.sub(r"\d+", "#", name) for name in held} for held in (some.unlike(), others.unlike())]
    assert without_numbers[0] == without_numbers[1]
    assert {*some.unlike()} <= {*names}


def test_of_alike_layers_the_one_with_the_shortest_number_stands_for_all(tmp_path: Path) -> None:
    header = described(layers("h", [100, 1000, 10, 12345, 11, 2000]))
    with open_checkpoint(written(tmp_path, json.dumps(header), end_of(header))) as checkpoint:
        assert isinstance(checkpoint.tensors, TensorTable)
        numbers = [name.split(".")[1] for name in checkpoint.tensors.unlike()]
        assert numbers == ["100"] * 3 + ["10"] * 3  # the first is in no block


def test_bytes_in_another_order_than_the_entries_are_read(tmp_path: Path) -> None:
    header = described(STACK)
    names = [*header]
    turned = {name: header[name] for name in (*names[9:], *names[:9])}
    with open_checkpoint(written(tmp_path, json.dumps(turned), end_of(header))) as checkpoint:
        assert [*checkpoint.tensors] == [*turned]
        assert {name: info.region.start for name, info in checkpoint.tensors.items()} == {
            name: 8 + len(json.dumps(turned)) + entry["data_offsets"][0]  # pyright: ignore
            for name, entry in turned.items()
        }


FAULTS = {
    "a layer twice": ('"model.layers.5.', '"model.layers.4.'),
    "a byte between two": ('"data_offsets": [365, 413]', '"data_offsets": [366, 414]'),
    "a number that is none": ('"model.layers.6.', '"model.layers.6".'),
    "another dtype of as many bytes": ('"model.layers.7.attn.qkv.weight": {"dtype": "F32"', '"x": {"dtype": "F33"'),
    "a field more": ('"model.layers.8.attn.qkv.weight": {', '"model.layers.8.attn.qkv.weight": {"a": 1, '),
    "no comma": ('}, "model.layers.6.attn.qkv.weight', '} "model.layers.6.attn.qkv.weight'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_later_layer_is_found(name: str, tmp_path: Path) -> None:
    header = described(STACK)
    text, (old, new) = json.dumps(header), FAULTS[name]
    assert old in text
    with pytest.raises(CheckpointError):
        open_checkpoint(written(tmp_path, text.replace(old, new), end_of(header))).close()
