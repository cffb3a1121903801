"""torch.distributed.checkpoint folders: a ``.metadata`` pickle, and files of chunks that are torch zips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.hostile.writers import pickles, zips
from tests.hostile.writers.pickles import call, items, mapping, name, named, number, numbers, row, text

_METADATA = "torch.distributed.checkpoint.metadata"
_FILES = "torch.distributed.checkpoint.filesystem"
_KINDS = {"float32": ("FloatStorage", 4), "int64": ("LongStorage", 8)}


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor, and where it lies.

    Attributes:
        at, size: its first element and its sizes, in the whole.
        file, start, length: the bytes of its zip.
        listed_size: its sizes in the tensor's description, if others.
    """

    at: Sequence[int]
    size: Sequence[int]
    file: str
    start: int
    length: int
    listed_size: Sequence[int] | None = None


@dataclass(frozen=True)
class Tensor:
    """A whole tensor, in chunks."""

    size: Sequence[int]
    chunks: Sequence[Chunk]
    dtype: str = "float32"


def made(module: str, attribute: str, state: bytes) -> bytes:
    """An object as protocol 2 writes a plain one: NEWOBJ without arguments, then BUILD."""
    return name(module, attribute) + b")\x81" + state + b"b"


def size(values: Sequence[int]) -> bytes:
    """A torch.Size."""
    return call(name("torch", "Size"), numbers(values))


def zipped(content: bytes, sizes: Sequence[int], dtype: str = "float32") -> bytes:
    """A chunk's file, as torch.save writes a contiguous tensor."""
    kind, width = _KINDS[dtype]
    stride = [1]
    for count in reversed(sizes[1:]):
        stride.insert(0, stride[0] * max(count, 1))
    place = pickles.storage("0", len(content) // width, kind)
    root = pickles.whole(pickles.tensor(place, 0, sizes, stride[: len(sizes)]))
    return zips.torch_archive(root, {"0": content})


def _properties(dtype: str) -> bytes:
    layout = call(name("torch.serialization", "_get_layout"), text("torch.strided"))
    encoding = call(name(_METADATA, "_MEM_FORMAT_ENCODING"), number(0))
    state = row(name("torch", dtype), layout, pickles.FALSE, encoding, pickles.FALSE)
    return made(_METADATA, "TensorProperties", state)


def _description(tensor: Tensor) -> bytes:
    chunks = [
        made(
            _METADATA,
            "ChunkStorageMetadata",
            named({"offsets": size(chunk.at), "sizes": size(chunk.listed_size or chunk.size)}),
        )
        for chunk in tensor.chunks
    ]
    state = named({"properties": _properties(tensor.dtype), "size": size(tensor.size), "chunks": items(*chunks)})
    return made(_METADATA, "TensorStorageMetadata", state)


def _place(fqn: str, chunk: Chunk) -> tuple[bytes, bytes]:
    index = named({"fqn": text(fqn), "index": number(0), "offset": size(chunk.at)})
    info = {"relative_path": text(chunk.file), "offset": number(chunk.start), "length": number(chunk.length)}
    return made(_METADATA, "MetadataIndex", index), made(_FILES, "_StorageInfo", named(info))


def metadata(tensors: Mapping[str, Tensor], **replaced: bytes) -> bytes:
    """The ``.metadata`` of some tensors; ``replaced`` are fields of it that hold something else."""
    fields = {
        "state_dict_metadata": named({fqn: _description(tensor) for fqn, tensor in tensors.items()}),
        "planner_data": named({fqn: row(*map(text, fqn.split("."))) for fqn in tensors}),
        "storage_data": mapping([_place(fqn, chunk) for fqn, tensor in tensors.items() for chunk in tensor.chunks]),
        "storage_meta": pickles.NONE,
        "version": text("1.0.0"),
        **replaced,
    }
    return pickles.whole(made(_METADATA, "Metadata", named(fields)), 4)
