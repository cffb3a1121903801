"""The storages that torch's pickles refer to (torch/serialization.py, torch/storage.py, 2.13)."""

from __future__ import annotations

from collections.abc import Callable

from qkvinspect.checkpoint import Region
from qkvinspect.dtypes import DTYPES, DType
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.pickle import Global, Loaded, Persistent, TensorCall, is_sequence

STORAGES: dict[str, DType | None] = {
    "DoubleStorage": DTYPES["float64"],
    "FloatStorage": DTYPES["float32"],
    "HalfStorage": DTYPES["float16"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "LongStorage": DTYPES["int64"],
    "IntStorage": DTYPES["int32"],
    "ShortStorage": DTYPES["int16"],
    "CharStorage": DTYPES["int8"],
    "ByteStorage": DTYPES["uint8"],
    "BoolStorage": DTYPES["bool"],
    "ComplexDoubleStorage": DTYPES["complex128"],
    "ComplexFloatStorage": DTYPES["complex64"],
    "QInt32Storage": DTYPES["qint32"],
    "QInt8Storage": DTYPES["qint8"],
    "QUInt8Storage": DTYPES["quint8"],
    "QUInt4x2Storage": DTYPES["quint4x2"],
    "QUInt2x4Storage": DTYPES["quint2x4"],
    "UntypedStorage": None,
}
"""torch's storages; the untyped one counts bytes and leaves the dtype to _rebuild_tensor_v3."""

FindStorage = Callable[[str], Region]


class StorageId(NamedTuple):
    """What a pickle says of a storage: ``('storage', Type, key, location, numel, view)``.

    Attributes:
        kind: the storage's class.
        key: under which its bytes are found.
        numel: elements; bytes where the class is untyped.
        view: (key, offset, size) if it is part of another storage; empty if not.
    """

    kind: Global
    key: str
    numel: int
    view: tuple[object, ...] = ()

    @property
    def dtype(self) -> DType | None:
        return STORAGES.get(self.kind.name)

    @property
    def nbytes(self) -> int:
        dtype = STORAGES.get(self.kind.name)
        return self.numel if dtype is None else dtype.nbytes(self.numel)


def storage_id(node: object) -> StorageId | None:
    """The storage that a persistent id stands for, or None if it stands for something else."""
    parts = node.id if isinstance(node, Persistent) and is_sequence(node.id) else ()
    if isinstance(parts, list) or len(parts) < 5 or parts[0] != "storage":
        return None
    kind, key, numel = parts[1], parts[2], parts[4]
    if not isinstance(kind, Global) or not isinstance(key, str) or type(numel) is not int or not 0 <= numel < 1 << 63:
        return None
    view = parts[5] if len(parts) > 5 else None
    return StorageId(kind, key, numel, tuple(view) if is_sequence(view) else ())


def check_kinds(loaded: Loaded, file: str) -> None:
    """Refuse a storage that is of two types: torch takes the one that it meets first for both.

    Raises:
        CheckpointError: there is one.
    """
    kinds: dict[bytes, Global] = {}
    for reference in loaded.persistent:
        if isinstance(reference, TensorCall):
            key, kind = reference.key, reference.kind
        else:
            storage = storage_id(reference)
            if storage is None:
                continue
            text = storage.key.encode("utf-8", "surrogatepass")
            key, kind = len(text).to_bytes(4, "little") + text, storage.kind
        first = kinds.setdefault(key, kind)
        if first is not kind and first != kind and {first.name, kind.name} != {"UntypedStorage", "ByteStorage"}:
            raise CheckpointError(
                f"storage {key[4:].decode(errors='replace')!r} is of two types",
                code=Code.STORAGE_CONFLICT,
                file=file,
                expected=str(first),
                found=str(kind),
                hint="the file is damaged: copy or download it again",
            )


def storage_region(storage: StorageId, name: str, file: str, find: FindStorage) -> Region:
    """The bytes of a storage, found by its key.

    Raises:
        CheckpointError: there are none, or not as many as the pickle says.
    """
    kind = storage.kind
    if kind.name not in STORAGES or not (kind.module == "torch" or kind.module.startswith("torch.")):
        raise CheckpointError(
            "storage of an unknown type",
            code=Code.STORAGE_TYPE,
            file=file,
            tensor=name,
            expected="one of torch's storages",
            found=str(kind),
            hint="the file is damaged, or of a newer torch than this tool knows",
        )
    region, nbytes = find(storage.key), storage.nbytes
    if region.nbytes != nbytes:
        raise CheckpointError(
            f"storage {storage.key!r} has another size than its pickle says",
            code=Code.STORAGE_SIZE,
            file=file,
            tensor=name,
            expected=f"{nbytes} bytes",
            found=f"{region.nbytes} bytes",
            hint="the file is damaged",
        )
    if storage.view and storage.dtype is not None:
        return _view(region, storage.dtype, storage.view, name, file)
    return region


def _view(region: Region, dtype: DType, view: tuple[object, ...], name: str, file: str) -> Region:
    """Part of a storage, as torch before 0.4 and the legacy format say it: (key, offset, size), in elements."""
    match view:
        case (_, int(offset), int(size)) if 0 <= offset <= offset + size:
            start, nbytes = dtype.nbytes(offset), dtype.nbytes(size)
        case _:
            raise malformed(Code.STORAGE_VIEW, "a view of a storage without offset and size", name, file)
    if start + nbytes > region.nbytes:
        raise malformed(Code.STORAGE_VIEW, "a view that reaches past its storage", name, file)
    return region.part(start, nbytes)


def malformed(code: Code, what: str, name: str, file: str) -> CheckpointError:
    return CheckpointError(f"pickle describes {what}", code=code, file=file, tensor=name, hint="the file is damaged")
