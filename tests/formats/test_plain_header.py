"""Headers read without a parser of JSON say what the parser says of them, or are left to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint, plain_header, safetensors
from qkvinspect.tensor_table import TensorTable
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.weight import plain

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
OTHER = {"dtype": "F16", "shape": [], "data_offsets": [24, 26]}
TEXTS = {"format": "pt", "said": 'a "quote", \\ and }'}
PLAIN = {
    "one": {"a.weight": ENTRY, "b": OTHER},
    "metadata": {"__metadata__": TEXTS, "a.weight": ENTRY, "b": OTHER},
    "metadata alone": {"__metadata__": TEXTS},
    "not in order": {"b": OTHER, "a.weight": ENTRY},
    "no bytes": {"z": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}, "a": ENTRY, "b": OTHER},
    "other letters": {"schlüssel.键": ENTRY, "b": OTHER},
}


def written(folder: Path, text: str, size: int = 26) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + bytes(range(size)))
    return path


def _nothing(*_: object) -> None:
    """Leaves every header to the parser."""


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("name", PLAIN)
def test_says_what_the_parser_says(
    name: str, separators: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(PLAIN[name], separators=separators, ensure_ascii=False) + "  "
    path = written(tmp_path, text, 0 if name == "metadata alone" else 26)
    with open_checkpoint(path) as quickly:
        monkeypatch.setattr(plain_header, "read", _nothing)
        with open_checkpoint(path) as parsed:
            assert isinstance(quickly.tensors, TensorTable) or name == "metadata alone"
            assert not isinstance(parsed.tensors, TensorTable)
            assert list(quickly.tensors) == list(parsed.tensors)
            assert quickly.metadata == parsed.metadata
            for one, other in zip(quickly.tensors.values(), parsed.tensors.values(), strict=True):
                assert (one.name, one.dtype, one.shape, one.strides) == (
                    other.name,
                    other.dtype,
                    other.shape,
                    other.strides,
                )
                assert (one.keys, one.offset, one.byteorder) == (other.keys, other.offset, other.byteorder)
                assert one.region.read(0, one.nbytes) == other.region.read(0, other.nbytes)
                assert one.region.extents[0][1:] == other.region.extents[0][1:]


LEFT = {
    "escapes": f'{{"a\\u002e":{{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}},"b":{json.dumps(OTHER)}}}',
    "another order": f'{{"a":{{"shape":[2,3],"dtype":"F32","data_offsets":[0,24]}},"b":{json.dumps(OTHER)}}}',
    "lines": json.dumps({"a": ENTRY, "b": OTHER}, indent=1),
    "metadata last": json.dumps({"a": ENTRY, "b": OTHER, "__metadata__": TEXTS}),
}
FAULTY = {
    "twice": f'{{"a":{json.dumps(ENTRY)},"a":{json.dumps(OTHER)}}}',
    "a comma more": f'{{"a":{json.dumps(ENTRY)},"b":{json.dumps(OTHER)},}}',
    "no comma": f'{{"a":{json.dumps(ENTRY)}"b":{json.dumps(OTHER)}}}',
    "not closed": f'{{"a":{json.dumps(ENTRY)},"b":{json.dumps(OTHER)}',
    "a leading zero": f'{{"a":{{"dtype":"F32","shape":[02,3],"data_offsets":[0,24]}},"b":{json.dumps(OTHER)}}}',
    "a comma in a shape": f'{{"a":{{"dtype":"F32","shape":[2,,3],"data_offsets":[0,24]}},"b":{json.dumps(OTHER)}}}',
    "too short": json.dumps({"a": ENTRY}),
    "an overlap": json.dumps({"a": ENTRY, "b": {**OTHER, "data_offsets": [22, 24]}, "c": OTHER}),
    "no such dtype": json.dumps({"a": {**ENTRY, "dtype": "F33"}, "b": OTHER}),
    "half a byte": json.dumps({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}, "b": OTHER}),
    "a tensor called as metadata is": json.dumps({"a": ENTRY, "__metadata__": OTHER}),
    "more after it": json.dumps({"a": ENTRY, "b": OTHER}) + "}",
}


@pytest.mark.parametrize("name", [*LEFT, *FAULTY])
def test_leaves_the_rest_to_the_parser(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, {**LEFT, **FAULTY}[name])
    if name in FAULTY:
        with pytest.raises(CheckpointError):
            open_checkpoint(path).close()
        return
    with open_checkpoint(path) as checkpoint:
        assert not isinstance(checkpoint.tensors, TensorTable)
        assert len(checkpoint.tensors) == 2


def test_a_table_is_a_mapping_of_tensors_that_are_equal_each_time(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path, json.dumps(PLAIN["one"]))) as checkpoint:
        table = checkpoint.tensors
        assert isinstance(table, TensorTable)
        assert len(table) == 2
        assert "b" in table
        assert "c" not in table
        assert table.get("c") is None
        assert table["b"] == table["b"] != table["a.weight"]
        assert len({*table.values(), *table.values()}) == 2
        assert dict(table.items()) == {name: table[name] for name in table.keys()}  # noqa: SIM118
        with pytest.raises(KeyError):
            table["c"]
        weight = weights_of(checkpoint)["b"]
        assert weight == plain(table["b"])
        assert plain(table["b"]) == weight
        assert hash(weight) == hash(plain(table["b"]))
        assert weight.info == table["b"]
        assert weight.regions


def test_codes_are_those_of_the_parser() -> None:
    assert safetensors.CODES is plain_header.CODES
