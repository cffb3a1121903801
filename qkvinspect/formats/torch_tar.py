"""torch's format before 0.1.10: a tar of pickles with storages and tensors between them (torch/serialization.py 2.13,
legacy_load).
"""

from __future__ import annotations

import struct

from qkvinspect.checkpoint import ByteSource, Checkpoint, Region
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats import pickle, tardir, torch_state
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle.tensor_calls import REBUILD
from qkvinspect.formats.request import OpenRequest
from qkvinspect.formats.tardir import damaged
from qkvinspect.formats.torch_legacy import check_system
from qkvinspect.formats.torch_storages import StorageId

NAME: str = "torch-tar"
IS_INDEX: bool = False

_NEEDED = frozenset({"storages", "tensors", "pickle"})
_SYSTEM = "sys_info"
_NO_TENSOR = ("opaque", "complex")  # torch has storages of these, but no class of tensors such as torch.FloatTensor
_MAX_RANK = 64
_FIRST_WINDOW = 256
_CUT = (Code.PICKLE_TRUNCATED, Code.PICKLE_LENGTH, Code.PICKLE_FRAME)


def sniff(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the pickles and what stands between them; no storage is read.

    Raises:
        CheckpointError: it is not such a file, or is damaged.
    """
    members = tardir.read_members(source, _NEEDED)
    if not members:
        raise CheckpointError(
            "is a tar archive, but not torch's format before 0.1.10",
            code=Code.IS_TAR,
            file=source.name,
            expected=f"members {', '.join(sorted(_NEEDED))}",
            hint="unpack it first and inspect what it holds",
        )
    for name, member in members.items():
        if member.kind:
            raise damaged(source, Code.TAR_KIND, f"member {name!r} is no plain file", member.kind)
        if name not in _NEEDED and name != _SYSTEM:
            raise damaged(source, Code.TAR_MEMBER, "it has a member that torch does not write", repr(name))
    if _SYSTEM in members:
        system = _MemberReader(source, members[_SYSTEM], request.limits)
        check_system(source, system.pickle())
        system.finish(Code.TAR_MEMBER)
    storages = _storages(_MemberReader(source, members["storages"], request.limits))
    nodes = _tensors(_MemberReader(source, members["tensors"], request.limits), storages)

    def refer(reference: object) -> object:
        match reference:
            case str() if reference in nodes:
                return nodes[reference]
            case (pickle.Global() as module, object(), object()):  # with its source
                return module
            case _:
                found = repr(reference) if isinstance(reference, str) else f"a {type(reference).__name__}"
                raise damaged(source, Code.TAR_REFERENCE, "the pickle refers to no tensor or storage in it", found)

    size = members["pickle"].size
    request.limits.check("pickle", size, source.name)
    data = source.read(members["pickle"].start, size)
    loaded = pickle.load_whole(data, source.name, request.limits, refer)
    regions = {key: storage.region for key, storage in storages.items()}
    return torch_state.checkpoint(source, NAME, loaded, request, "little", regions.__getitem__)


class _MemberReader:
    """A member, read from its start to its end."""

    def __init__(self, source: ByteSource, member: tardir.Member, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.position = member.start
        self._end = member.start + member.size

    def pickle(self) -> object:
        """The pickle that comes next; nothing says how long it is, so more is read until it ends."""
        window = _FIRST_WINDOW
        while True:
            size = min(window, self._end - self.position, self.limits.pickle)
            try:
                part = pickle.load_prefix(self.source.read(self.position, size), 0, self.source.name, self.limits)
            except CheckpointError as error:
                if size == self._end - self.position or error.code not in _CUT:
                    raise
                self.limits.check("pickle", window, self.source.name)
                window *= 8
            else:
                self.position += part.end
                return part.value

    def count(self, code: Code) -> int:
        found = self.pickle()
        if type(found) is not int or not 0 <= found <= self._end - self.position:
            raise damaged(self.source, code, "it does not say how many there are", f"a {type(found).__name__}")
        self.limits.check("tensors", found, self.source.name)
        return found

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.source.read(self.skip(struct.calcsize(layout)), struct.calcsize(layout)))

    def skip(self, length: int) -> int:
        """Pass over some bytes; where they begin."""
        start = self.position
        if length > self._end - start:
            raise damaged(self.source, Code.TAR_SHORT, "a member ends too early", f"{self._end - start} of {length}")
        self.position += length
        return start

    def finish(self, code: Code) -> None:
        if self.position != self._end:
            raise damaged(self.source, code, "bytes follow what a member lists", self._end - self.position)


class _TarStorage(NamedTuple):
    """A storage or a part of one: the region is that of the whole, the view what follows its key in the id."""

    kind: pickle.Global
    key: str
    numel: int
    region: Region
    offset: int
    size: int

    @property
    def node(self) -> pickle.Persistent:
        view = (self.key, self.offset, self.size)
        return pickle.Persistent(("storage", self.kind, self.key, "cpu", self.numel, view))


def _storages(reader: _MemberReader) -> dict[str, _TarStorage]:
    """Every storage by its number: first those with bytes of their own, then parts of these."""
    found: dict[str, _TarStorage] = {}

    def wrong(what: str, found: object) -> CheckpointError:
        return damaged(reader.source, Code.TAR_STORAGES, what, found)

    for _ in range(reader.count(Code.TAR_STORAGES)):
        match reader.pickle():
            case (int(number), str(), pickle.Global() as kind):
                key = str(number)
            case _:
                raise wrong("a storage is not listed with number, location and type", "something else")
        (numel,) = reader.numbers("<q")
        dtype = StorageId(kind, key, numel).dtype
        if kind.module != "torch" or dtype is None or dtype.kind in _NO_TENSOR or numel < 0:
            raise wrong(f"storage {key} is of a type or size that torch does not have", f"{numel} of {kind}")
        if key in found:
            raise wrong("two storages have the same number", key)
        nbytes = dtype.nbytes(numel)
        region = Region(reader.source, reader.skip(nbytes), nbytes)
        found[key] = _TarStorage(kind, key, numel, region, 0, numel)
    views = reader.pickle()
    for view in views if pickle.is_sequence(views) else (None,):
        match view:
            case (int(number), int(root), int(offset), int(size)) if str(root) in found and str(number) not in found:
                whole = found[str(root)]
            case object():
                raise wrong("a view of a storage is not one", "another number, or not four")
        if not 0 <= offset <= offset + size <= whole.size:
            raise damaged(reader.source, Code.STORAGE_VIEW, f"view {number} reaches past its storage", (offset, size))
        found[str(number)] = whole._replace(offset=whole.offset + offset, size=size)
    reader.finish(Code.TAR_STORAGES)
    return found


def _tensors(reader: _MemberReader, storages: dict[str, _TarStorage]) -> dict[str, pickle.Call | pickle.Persistent]:
    """What the pickle's references stand for: every tensor and storage, by its number."""
    nodes: dict[str, pickle.Call | pickle.Persistent] = {key: storage.node for key, storage in storages.items()}
    for _ in range(reader.count(Code.TAR_TENSORS)):
        match reader.pickle():
            case (int(number), int(storage), pickle.Global() as kind) if str(storage) in storages:
                key, whole = str(number), storages[str(storage)]
            case _:
                raise damaged(
                    reader.source, Code.TAR_TENSORS, "a tensor is not listed with number, storage, type", "another"
                )
        expected = whole.kind.name.removesuffix("Storage") + "Tensor"
        if key in nodes or kind.module not in ("torch", "torch.cuda") or kind.name != expected:
            raise damaged(
                reader.source, Code.TAR_TENSORS, f"tensor {key} is there twice, or no {expected}", f"a {kind}"
            )
        (rank,) = reader.numbers("<i4x")  # the other four bytes are whatever lay in torch's memory
        if not 0 <= rank <= _MAX_RANK:
            raise damaged(reader.source, Code.TAR_RANK, f"tensor {key} has too many dimensions, or below 0", rank)
        place = reader.numbers(f"<{2 * rank + 1}q")
        if min(place) < 0:
            raise damaged(reader.source, Code.TAR_NEGATIVE, f"tensor {key} has a negative size or place", place[:9])
        shape, strides = place[:rank], place[rank:-1]
        nodes[key] = pickle.Call(REBUILD, (whole.node, place[-1], shape, strides))
    reader.finish(Code.TAR_TENSORS)
    return nodes
