"""The GGUF format of ggml and llama.cpp, in one file or split over several.

Read here rather than by the gguf package, whose reader makes an object of every token of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Container, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import UsageError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats.damaged import damaged
from qkvinspect.formats.gguf.header import MAGIC, Header, read_header
from qkvinspect.formats.gguf.metadata import Value
from qkvinspect.formats.request import OpenRequest
from qkvinspect.late_pattern import late_pattern

NAME: str = "gguf"
IS_INDEX: bool = False

PART = late_pattern(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
"""The names that llama.cpp gives the files of a split checkpoint (llama_split_path)."""


VALUE_HEADS = "value_heads_of_a_key_head"
"""A key that is added: how many heads of V a gated delta net has for each of K."""


def sniff(head: bytes) -> bool:
    return head.startswith(MAGIC)


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the header, and those of the other files of a split checkpoint; no tensor is read.

    Raises:
        CheckpointError: a header is malformed, or the files are not of one checkpoint.
    """
    if request.container:
        raise UsageError("GGUF files have no containers", file=source.name, found=repr(request.container))
    header = read_header(source, request.limits)
    count = _count(header.values, "split.count") or 1
    if count == 1:
        return _checkpoint([(source, header)], header, dict(header.tensors))
    return _open_split(source, header, count, request)


def _open_split(source: ByteSource, header: Header, count: int, request: OpenRequest) -> Checkpoint:
    """All files of a split checkpoint, of which any may have been named."""
    request.limits.check("shards", count, source.name)
    own = _count(header.values, "split.no")
    name = PART.fullmatch(re.split(r"[/\\]", source.name)[-1])
    if name is None or own is None or (int(name[2]) - 1, int(name[3])) != (own, count):
        expected = f"…-{(own or 0) + 1:05d}-of-{count:05d}.gguf"
        message = f"is one of {count} files of a checkpoint, and not named so that the others can be found"
        raise damaged(source, Code.GGUF_SPLIT, message, f"a name that does not end in {expected}")
    names = [f"{name[1]}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    resources = ExitStack()
    with resources:
        files: list[tuple[ByteSource, Header]] = []
        for number, file in enumerate(names):
            part = source if number == own else source.relative(file)
            if part is not source:
                resources.callback(part.close)
            files.append((part, header if part is source else _read_part(part, number, count, request)))
        checkpoint = _checkpoint(files, files[0][1], _joined(files))
        checkpoint.resources.push(resources.pop_all())
    return checkpoint


def _read_part(part: ByteSource, number: int, count: int, request: OpenRequest) -> Header:
    if part.read(0, min(4, part.size)) != MAGIC:
        raise damaged(part, Code.GGUF_SPLIT, "is named as a part of a GGUF checkpoint, and is not GGUF", None)
    header = read_header(part, request.limits)
    found = _count(header.values, "split.no"), _count(header.values, "split.count")
    if found != (number, count):
        text = f"number {found[0]} of {found[1]}, expected {number} of {count}"
        raise damaged(part, Code.GGUF_SPLIT, "is another part than its name says", text)
    return header


def _joined(files: list[tuple[ByteSource, Header]]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for part, header in files:
        for name, info in header.tensors.items():
            if name in tensors:
                raise damaged(part, Code.GGUF_DUPLICATE, "stands in two files of the checkpoint", None, name)
            tensors[name] = info
    announced = _count(files[0][1].values, "split.tensors.count")
    if announced is not None and announced != len(tensors):
        found = f"{len(tensors)} tensors, {announced} are announced"
        raise damaged(files[0][0], Code.GGUF_SPLIT, "the files do not hold all tensors", found)
    return tensors


def _count(values: Mapping[str, Value], key: str) -> int | None:
    value = values.get(key)
    return value if type(value) is int and value >= 0 else None


def _of_heads(values: Mapping[str, Value]) -> Mapping[str, Value]:
    """The metadata, with the sizes that heads have as transformers cuts them.

    Of latent attention the usual keys say how llama.cpp computes it: all heads of Q on one that K and V share, as wide
    as what both are made of (conversion/deepseek.py, DeepseekV2Model.set_gguf_parameters).
    """
    found = dict(values)
    architecture = values.get("general.architecture")
    key_heads, value_heads = (_count(values, f"{architecture}.ssm.{one}") for one in ("group_count", "time_step_rank"))
    if key_heads and value_heads and value_heads % key_heads == 0:
        found[VALUE_HEADS] = value_heads // key_heads
    for key in values:
        if not key.endswith(".attention.key_length_mla"):
            continue
        start = key.removesuffix("key_length_mla")
        for name, of in (
            ("key_length", "key_length_mla"),
            ("value_length", "value_length_mla"),
            ("head_count_kv", "head_count"),
        ):
            if start + of in values:
                found[start + name] = values[start + of]
    return found


def _checkpoint(files: list[tuple[ByteSource, Header]], first: Header, tensors: dict[str, TensorInfo]) -> Checkpoint:
    architecture = first.values.get("general.architecture")
    values: dict[str, object] = {"architecture": architecture} if isinstance(architecture, str) else {}
    findings = [
        Finding(FindingCode.TRAILING_BYTES, f"{part.name}: {header.unused} bytes follow the last tensor")
        for part, header in files
        if header.unused
    ]
    return Checkpoint(
        path=files[0][0].name,
        format=NAME,
        num_bytes=sum(part.size for part, _ in files),
        tensors=tensors,
        num_files=len(files),
        metadata={key: value for key, value in first.values.items() if isinstance(value, str)},
        configs=(Config("checkpoint:metadata", {**values, **_of_heads(first.values)}, inside=True),),
        containers=(Container("", len(tensors), "model"),),
        findings=tuple(findings),
        loader="gguf",
        sorted_names=True,
    )
