"""Safetensors files that hold parts of tensors, as torch.distributed.checkpoint's HuggingFaceStorageWriter makes.

Every file says in its metadata at which element of the whole each of its tensors begins. None says how large the
whole is, or how many files there were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import PurePath

from qkvinspect.checkpoint import ByteSource, Checkpoint, Container, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import chunks, strict_json
from qkvinspect.formats.assembled import Box
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.request import OpenRequest
from qkvinspect.parsed import is_integers, is_mapping

NAME = "dcp-safetensors"
KEY = "DCP_SHARDING_INFO"

_PREFIX = "shard-"
_SUFFIX = ".safetensors"


class Described(NamedTuple):
    """The header of a safetensors file."""

    tensors: Mapping[str, TensorInfo]
    texts: dict[str, str]


Describe = Callable[[ByteSource, Limits], Described]
Offsets = dict[str, tuple[int, ...]]


def offsets(source: ByteSource, described: Described, limits: Limits) -> Offsets:
    """At which element of the whole every tensor of a file begins.

    Raises:
        CheckpointError: the file does not say it of every one.
    """
    try:
        noted = strict_json.loads(described.texts.get(KEY, "").encode("utf-8", "surrogatepass"), source.name, limits)
    except ValueError as error:
        raise _unknown(source, None, f"no JSON: {error}") from error
    entries = noted if is_mapping(noted) else {}
    found: Offsets = {}
    for name, info in described.tensors.items():
        entry = entries.get(name)
        numbers = entry.get("saved_offsets") if is_mapping(entry) else None
        if not is_integers(numbers) or len(numbers) != len(info.shape) or min(numbers, default=0) < 0:
            raise _unknown(source, name, str(numbers)[:60])
        found[name] = tuple(numbers)
    return found


def is_part(source: ByteSource, offsets: Offsets) -> bool:
    """Whether the file holds less than whole tensors; one that a single process wrote says where they begin, too."""
    return _file(source).startswith(_PREFIX) or any(map(any, offsets.values()))


def open(source: ByteSource, own: tuple[Described, Offsets], request: OpenRequest, describe: Describe) -> Checkpoint:
    """Put the parts in a file together with those in the files beside it.

    Raises:
        CheckpointError: others are missing, or do not fit.
    """
    prefix = _PREFIX if _file(source).startswith(_PREFIX) else ""
    beside = [
        name
        for name in source.siblings()
        if name.startswith(prefix) and name.endswith(_SUFFIX) and name != _file(source)
    ]
    request.limits.check("shards", 1 + len(beside), source.name)
    with ExitStack() as resources:
        files = [(source, *own)]
        for name in beside:
            file = source.relative(name)
            resources.callback(file.close)
            described = describe(file, request.limits)
            if KEY in described.texts:
                files.append((file, described, offsets(file, described, request.limits)))
        if len(files) == 1:
            raise CheckpointError(
                "holds only parts of tensors, and no other part is beside it",
                code=Code.PART_ALONE,
                file=source.name,
                expected=f"every {prefix}*{_SUFFIX} of the checkpoint in one folder",
                found="one",
                hint="copy the whole folder, or join it with torch.distributed.checkpoint's "
                "consolidate_safetensors_files",
            )
        tensors, findings = _join(source, files, request.limits)
        note = f"{len(files)} files of parts were joined; they do not say how many there were: if the last are missing,"
        findings.append(Finding(FindingCode.PARTS_UNCOUNTED, f"{note} tensors are missing or cut short"))
        return Checkpoint(
            path=source.name,
            format=NAME,
            num_bytes=sum(file.size for file, _, _ in files),
            tensors=tensors,
            num_files=len(files),
            metadata={key: text for key, text in own[0].texts.items() if key != KEY},
            containers=(Container("", len(tensors), "model"),),
            findings=tuple(findings),
            resources=resources.pop_all(),
            loader="distributed-safetensors",
            sorted_names=True,
        )


def _join(
    source: ByteSource, files: list[tuple[ByteSource, Described, Offsets]], limits: Limits
) -> tuple[dict[str, TensorInfo], list[Finding]]:
    pieces: dict[str, list[Box]] = {}
    for _, described, offsets in sorted(files, key=lambda item: item[0].name):
        for name, info in described.tensors.items():
            pieces.setdefault(name, []).append(Box(offsets[name], info.shape, info.region, lambda info=info: info))
    tensors: dict[str, TensorInfo] = {}
    findings: list[Finding] = []
    for name, parts in pieces.items():
        first, *others = (part.info for part in parts)
        for part, info in zip(parts[1:], others, strict=True):
            if info.dtype != first.dtype or len(info.shape) != len(first.shape):
                raise CheckpointError(
                    "two files give a tensor other dtypes or ranks",
                    code=Code.PART_CONFLICT,
                    file=part.reach.source.name,
                    tensor=name,
                    expected=f"{first.dtype.name} of rank {len(first.shape)}, as in {parts[0].reach.source.name}",
                    found=f"{info.dtype.name} of rank {len(info.shape)}",
                    hint="the files are of different checkpoints",
                )
        if first.dtype.bits % 8 and others:
            findings.append(Finding(FindingCode.UNREADABLE_TENSOR, f"{name} is cut within bytes: left out"))
            continue
        ends = [[a + n for a, n in zip(part.at, part.sizes, strict=True)] for part in parts]
        shape = tuple(map(max, zip(*ends, strict=True)))
        tensors[name] = chunks.assembled(source, name, name, first.dtype, shape, parts, limits)
    return tensors, findings


def _file(source: ByteSource) -> str:
    return PurePath(source.name).name


def _unknown(source: ByteSource, name: str | None, found: str) -> CheckpointError:
    return CheckpointError(
        f"{KEY} does not say where every tensor lies in its whole",
        code=Code.PART_OFFSETS,
        file=source.name,
        tensor=name,
        expected="saved_offsets, one for each axis",
        found=found,
        hint="the file is damaged: copy or download it again",
    )
