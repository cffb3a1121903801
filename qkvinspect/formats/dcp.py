"""torch.distributed.checkpoint: ``.metadata``, and files of chunks of tensors, each chunk a torch zip of its own.

The metadata is a pickle, which torch itself unpickles; here it is walked like any other. A chunk is opened when its
tensor is read, and compared with the metadata then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Region, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import chunks, containers, pickle, torch_objects, torch_zip
from qkvinspect.formats.assembled import Box
from qkvinspect.formats.dcp_metadata import Metadata, Sizes, Tensor, parse
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle import Call, Global, dangers, is_dict, is_sequence
from qkvinspect.formats.request import OpenRequest
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources import Window

NAME: str = "dcp"
IS_INDEX: bool = True

_ROOT = late_pattern(rb"torch\.distributed\.(_shard\.)?checkpoint\.metadata.{1,8}Metadata\W", re.DOTALL)
_LEAF = Global("torch._utils", "_rebuild_tensor_v2")
_META = "meta.pt"
_MAX_VALUES = 1000
_MAX_VALUE = 1 << 16
_OPTIMIZER = late_pattern(r"optim|sched", re.IGNORECASE)


def sniff(head: bytes) -> bool:
    return head.startswith(b"\x80") and _ROOT.search(head[:128]) is not None


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the metadata and open the files of chunks; no chunk is read.

    Raises:
        CheckpointError: the metadata is malformed, a file is missing, or chunks do not make up their tensors.
    """
    limits = request.limits
    limits.check("pickle", source.size, source.name)
    loaded = pickle.load_whole(source.read(0, source.size), source.name, _own(limits, source.size))
    metadata = parse(loaded.value, source.name)
    with ExitStack() as resources:
        files = _open_files(source, metadata, limits, resources)
        reader = _Assembler(source, metadata, files, limits)
        root, findings = reader.nested()
        found, all_containers = containers.find(root, request.container, source.name, limits)
        tensors: dict[str, TensorInfo] = {}
        for keys, node in found.tensors.items():
            info = reader.tensor(".".join(keys), _name_in(node))
            if info is None:
                message = f"{'.'.join(keys)} is cut within bytes: left out"
                findings.append(Finding(FindingCode.UNREADABLE_TENSOR, message))
            else:
                tensors[info.name] = info
        beside = _lightning(source, limits, findings)
        return Checkpoint(
            path=source.name,
            format=NAME,
            num_bytes=source.size + sum(file.size for file in files.values()),
            tensors=tensors,
            num_files=1 + len(files),
            configs=(*beside, *containers.configs(root, found.keys)),
            container=found.container.path,
            containers=all_containers,
            findings=(*dangers.findings(loaded.globals, ()), *findings),
            resources=resources.pop_all(),
            loader="distributed",
        )


def _lightning(source: ByteSource, limits: Limits, findings: list[Finding]) -> tuple[Config, ...]:
    """The hyper-parameters that Lightning saves beside the tensors (fabric/strategies/fsdp.py: _METADATA_FILENAME)."""
    if _META not in source.siblings():
        return ()
    try:
        file = source.relative(_META)
        try:
            loaded = torch_zip.unpack(file, limits).loaded
        finally:
            file.close()
    except CheckpointError as error:
        findings.append(Finding(FindingCode.CONFIG_UNREADABLE, f"{_META} beside it is not used: {error.message}"))
        return ()
    findings += dangers.findings(loaded.globals, ())
    return containers.configs(loaded.value, ())


def _own(limits: Limits, size: int) -> Limits:
    """The limits for the metadata: a chunk is forty small objects in 400 bytes, more than in any other format."""
    return replace(
        limits,
        opcodes=max(limits.opcodes, size),
        objects=max(limits.objects, size // 4),
        memo=max(limits.memo, size // 4),
    )


def _open_files(
    source: ByteSource, metadata: Metadata, limits: Limits, resources: ExitStack
) -> Mapping[str, ByteSource]:
    names = dict.fromkeys(place.file for place in metadata.places.values())
    limits.check("shards", len(names), source.name)
    files: dict[str, ByteSource] = {}
    for name in names:
        file = source.relative(name)
        resources.callback(file.close)
        files[name] = file
    return files


@dataclass(frozen=True)
class _Assembler:
    """Rebuilds the saved dict and its tensors from the metadata and the files of chunks."""

    source: ByteSource
    metadata: Metadata
    files: Mapping[str, ByteSource]
    limits: Limits

    def nested(self) -> tuple[dict[object, object], list[Finding]]:
        """The dict that was saved, as a pickle of it would have been read, with small values but the optimizer's."""
        root: dict[object, object] = {}
        findings: list[Finding] = []
        values = 0
        for name, entry in self.metadata.entries.items():
            *folders, last = self.metadata.paths[name]
            node = root
            for key in folders:
                below = node.setdefault(key, {})
                if not is_dict(below):
                    raise self._wrong(Code.DCP_METADATA, name, "lies below another entry", "a dict", "an entry")
                node = below
            if entry is not None:
                value: object = Call(_LEAF, (name,))
            elif values < _MAX_VALUES and not any(map(_OPTIMIZER.search, folders)):
                values += 1
                value = self._value(name, findings)
            else:
                continue
            if last in node:
                raise self._wrong(Code.DCP_METADATA, name, "lies where other entries do", "one entry", "several")
            node[last] = value
        return root, findings

    def tensor(self, name: str, key: str) -> TensorInfo | None:
        """The tensor that the file calls ``key``; None if its elements do not begin on whole bytes where it is cut."""
        entry = self.metadata.entries[key]
        assert entry is not None
        if entry.dtype.bits % 8 and len(entry.chunks) > 1:
            return None
        pieces = [self._piece(key, entry, at, sizes) for at, sizes in entry.chunks]
        return chunks.assembled(self.source, name, key, entry.dtype, entry.shape, pieces, self.limits)

    def _piece(self, key: str, entry: Tensor, at: Sizes, sizes: Sizes) -> Box:
        window = self._window(key, at)
        return Box(at, sizes, Region(window, 0, window.size), lambda: self._chunk(window, key, entry, sizes))

    def _chunk(self, window: Window, key: str, entry: Tensor, sizes: Sizes) -> TensorInfo:
        """The tensor in a chunk, which must be the one that the metadata describes."""
        info = self._read_chunk(window, key)
        if (info.dtype, info.shape) != (entry.dtype, sizes) or info.region.nbytes != info.nbytes:
            raise CheckpointError(
                "a chunk is not the tensor that the metadata describes",
                code=Code.DCP_CHUNK,
                file=window.name,
                tensor=key,
                expected=f"{entry.dtype.name} {list(sizes)} in {entry.dtype.nbytes(prod(sizes))} bytes",
                found=f"{info.dtype.name} {list(info.shape)} in {info.region.nbytes}",
                hint="metadata and chunks are of different checkpoints: copy the folder again",
            )
        return info

    def _read_chunk(self, window: Window, key: str) -> TensorInfo:
        head = window.read(0, min(window.size, 16))
        if not torch_zip.sniff(head):
            raise CheckpointError(
                "a chunk is no file of torch.save",
                code=Code.DCP_CHUNK,
                file=window.name,
                tensor=key,
                expected="a zip",
                found=f"bytes {head[:8].hex(' ')}",
                hint="if it was saved as safetensors, which torch itself does not load from .distcp files, rename "
                "them shard-*.safetensors; else copy the folder again",
            )
        zipped = torch_zip.unpack(window, self.limits)
        root = zipped.loaded.value
        why = torch_objects.unreadable(root) if torch_objects.is_tensor(root) else "not a tensor"
        if why is not None:
            raise self._wrong(Code.DCP_CHUNK, key, f"has a chunk that is {why}", "a plain tensor", why)
        return torch_objects.tensor_info(root, key, (), window.name, zipped.byteorder, zipped.find_storage, self.limits)

    def _value(self, name: str, findings: list[Finding]) -> object:
        window = self._window(name, None)
        if window.size > _MAX_VALUE:
            return None
        try:
            return torch_zip.unpack(window, self.limits).loaded.value
        except CheckpointError as error:
            findings.append(Finding(FindingCode.VALUE_UNREADABLE, f"{name} is not used: {error.message}"))
            return None

    def _window(self, key: str, at: Sizes | None) -> Window:
        place = self.metadata.places.get((key, at))
        where = "a value" if at is None else f"the chunk at {list(at)}"
        if place is None:
            raise self._wrong(Code.DCP_PLACE, key, f"does not say in which file {where} lies", "an entry", "none")
        if place.transformed:
            raise self._wrong(
                Code.DCP_TRANSFORMED, key, "was written through an extension, such as compression", "none", "one"
            )
        file = self.files[place.file]
        if place.offset < 0 or place.length < 0 or place.offset + place.length > file.size:
            found = f"{place.length} bytes at {place.offset} in {place.file!r}"
            raise self._wrong(Code.DCP_RANGE, key, f"has {where} outside its file", f"{file.size} bytes in all", found)
        return Window(file, place.offset, place.length)

    def _wrong(self, code: Code, key: str, message: str, expected: str, found: str) -> CheckpointError:
        return CheckpointError(
            message,
            code=code,
            file=self.source.name,
            tensor=key,
            expected=expected,
            found=found,
            hint="the checkpoint is damaged or incomplete: copy the folder again",
        )


def _name_in(leaf: object) -> str:
    arguments = leaf.arguments if isinstance(leaf, Call) else ()
    return str(arguments[0]) if is_sequence(arguments) else ""
