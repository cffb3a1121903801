"""The ``.metadata`` of a torch.distributed.checkpoint (its metadata.py and filesystem.py, torch 1.13 to 2.13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qkvinspect.dtypes import DType
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.pickle import Call, Global, is_dict, is_sequence
from qkvinspect.formats.torch_objects import named_dtype, sizes_of
from qkvinspect.late_pattern import late_pattern

Sizes = tuple[int, ...]
MODULE = late_pattern(r"torch\.distributed\.(_shard\.)?checkpoint\.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk, or a value that is no tensor, lies."""

    file: str
    offset: int
    length: int
    transformed: bool


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as a whole; its chunks are (first element, sizes)."""

    dtype: DType
    shape: Sizes
    chunks: tuple[tuple[Sizes, Sizes], ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a checkpoint holds.

    Attributes:
        entries: by flat name; None for a value that is no tensor.
        paths: the keys that led to an entry in the nested dict that was saved.
        places: by flat name and the chunk's first element, None for a value that is no tensor.
    """

    entries: Mapping[str, Tensor | None]
    paths: Mapping[str, tuple[str, ...]]
    places: Mapping[tuple[str, Sizes | None], Place]


def parse(root: object, file: str) -> Metadata:
    """Extract the metadata from its pickle.

    Raises:
        CheckpointError: it is no such metadata.
    """
    fields = _fields(root, "Metadata", file)
    entries: dict[str, Tensor | None] = {}
    for name, node in _dict(fields.get("state_dict_metadata"), "state_dict_metadata", file).items():
        if not isinstance(name, str):
            raise _malformed("state_dict_metadata has a key that is no text", file, "text", name)
        entries[name] = _tensor(node, name, file)
    return Metadata(entries, _paths(fields.get("planner_data"), entries, file), _places(fields, file))


def _tensor(node: object, name: str, file: str) -> Tensor | None:
    if isinstance(node, Call) and _class(node) == "BytesStorageMetadata":
        return None
    fields = _fields(node, "TensorStorageMetadata", file, name)
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Call) else None
    if not is_sequence(state) or not state or _class(properties) != "TensorProperties":
        raise _malformed("a tensor has no properties", file, "TensorProperties", properties, name)
    chunks = fields.get("chunks")
    if not is_sequence(chunks):
        raise _malformed("a tensor has no list of chunks", file, "a list", chunks, name)
    boxes: list[tuple[Sizes, Sizes]] = []
    for chunk in chunks:
        box = _fields(chunk, "ChunkStorageMetadata", file, name)
        boxes.append((sizes_of(box.get("offsets"), name, file), sizes_of(box.get("sizes"), name, file)))
    return Tensor(named_dtype(state[0], name, file), sizes_of(fields.get("size"), name, file), tuple(boxes))


def _paths(node: object, entries: Mapping[str, object], file: str) -> dict[str, tuple[str, ...]]:
    """The path of every entry: that which the planner noted when it flattened the dict, else its whole name."""
    noted = _dict(node, "planner_data", file) if node is not None else {}
    paths: dict[str, tuple[str, ...]] = {}
    for name in entries:
        path = noted.get(name, (name,))
        keys = tuple(map(str, path)) if is_sequence(path) and all(type(key) in (str, int) for key in path) else ()
        if ".".join(keys) != name:
            raise _malformed("planner_data does not tell the path of an entry", file, name, ".".join(keys), name)
        paths[name] = keys
    return paths


def _places(fields: Mapping[object, object], file: str) -> dict[tuple[str, Sizes | None], Place]:
    places: dict[tuple[str, Sizes | None], Place] = {}
    for key, node in _dict(fields.get("storage_data"), "storage_data", file).items():
        index = _fields(key, "MetadataIndex", file)
        name, at = index.get("fqn"), index.get("offset")
        if not isinstance(name, str):
            raise _malformed("an entry of storage_data has no name", file, "text", name)
        place = name, None if at is None else sizes_of(at, name, file)
        if place in places:
            raise CheckpointError(
                "the place of a chunk is given twice",
                code=Code.DCP_PLACE,
                file=file,
                tensor=name,
                expected="one place",
                found=f"a second for the chunk at {'' if place[1] is None else list(place[1])}",
                hint="the checkpoint is damaged",
            )
        info = _fields(node, "_StorageInfo", file, name)
        path, offset, length = info.get("relative_path"), info.get("offset"), info.get("length")
        if not isinstance(path, str) or type(offset) is not int or type(length) is not int:
            found = ", ".join(type(value).__name__ for value in (path, offset, length))
            raise _malformed("a chunk has no place", file, "relative_path, offset and length", found, name)
        places[place] = Place(path, offset, length, bool(info.get("transform_descriptors")))
    return places


def _fields(node: object, kind: str, file: str, name: str | None = None) -> Mapping[object, object]:
    """The attributes of an object that must be of the class ``kind``."""
    state = node.state if isinstance(node, Call) else None
    if _class(node) != kind or not is_dict(state):
        raise _malformed(f"something else stands where a {kind} should", file, kind, node, name)
    return state


def _class(node: object) -> str:
    function = node.function if isinstance(node, Call) else None
    if isinstance(function, Global) and (MODULE.match(function.module) or "sharded_tensor" in function.module):
        return function.name
    return ""


def _dict(node: object, what: str, file: str) -> dict[object, object]:
    if not is_dict(node):
        raise _malformed(f"{what} is not a dict", file, "a dict", node)
    return node


def _malformed(message: str, file: str, expected: str, found: object, name: str | None = None) -> CheckpointError:
    if isinstance(found, Call):
        found = found.function
    return CheckpointError(
        message,
        code=Code.DCP_METADATA,
        file=file,
        tensor=name,
        expected=expected,
        found=found if isinstance(found, (str, Global)) else f"a {type(found).__name__}",
        hint="the file is damaged, or not of torch.distributed.checkpoint",
    )
