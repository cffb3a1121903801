"""Checkpoints in several files, by the index that transformers and diffusers write (``weight_map``)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import cast

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import strict_json
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.request import Request
from qkvinspect.model import ByteSource, Checkpoint, Container, Finding, TensorInfo

NAME = "sharded"


def sniff(head: bytes) -> bool:
    text = head.lstrip()
    return text.startswith(b"{") and (head[8:9] != b"{" or any(head[5:8]))


def open(source: ByteSource, request: Request) -> Checkpoint:
    """Open every shard that the index names.

    Raises:
        CheckpointError: the index is malformed, a shard is missing, or a tensor is not where it should be.
    """
    weight_map = _weight_map(source, request.limits)
    resources = ExitStack()
    tensors: dict[str, TensorInfo] = {}
    shards: dict[str, Checkpoint] = {}
    size = 0
    with resources:
        files = dict.fromkeys(weight_map.values())
        request.limits.check("shards", len(files), source.name)
        for file in files:
            shard_source = source.relative(file)
            resources.callback(shard_source.close)
            shards[file] = request.open_shard(shard_source)
            size += shard_source.size
        for name, file in weight_map.items():
            if name not in shards[file].tensors:
                raise CheckpointError(
                    f"index says that this tensor is in {file!r}, which does not hold it",
                    code=Code.INDEX_TENSOR,
                    file=source.name,
                    tensor=name,
                    hint="index and shards are of different checkpoints, or a shard is incomplete",
                )
            tensors[name] = shards[file].tensors[name]
        formats = sorted({shard.format for shard in shards.values()})
        twice = [name for file, shard in shards.items() for name in shard.tensors if weight_map.get(name, file) != file]
        note = f"{', '.join(twice[:4])}: in two shards; read from the one that the index names"
        findings = [Finding("tensor-in-two-shards", "warning", note)] if twice else []
        return Checkpoint(
            path=source.name,
            format=f"sharded-{'+'.join(formats)}",
            num_bytes=size,
            tensors=tensors,
            num_files=len(shards),
            containers=(Container("", len(tensors), "model"),),
            findings=(*findings, *(finding for shard in shards.values() for finding in shard.findings)),
            resources=resources.pop_all(),
        )


def _weight_map(source: ByteSource, limits: Limits) -> dict[str, str]:
    limits.check("header", source.size, source.name)
    try:
        index = strict_json.loads(source.read(0, source.size), source.name, limits)
    except ValueError as error:
        code = Code.INDEX_DUPLICATE if isinstance(error, strict_json.DuplicateError) else Code.INDEX_JSON
        raise CheckpointError(
            f"is not a checkpoint, and not valid JSON: {error}",
            code=code,
            file=source.name,
            hint="the file is damaged: copy or download it again",
        ) from error
    files = cast(dict[str, object], index).get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(
            "is JSON but not a shard index",
            code=Code.INDEX_MAP,
            file=source.name,
            expected="a weight_map from tensors to files",
            hint="name the checkpoint file itself",
        )
    weight_map = cast(dict[str, object], files)
    if not all(isinstance(file, str) for file in weight_map.values()):
        name, file = next((name, file) for name, file in weight_map.items() if not isinstance(file, str))
        raise CheckpointError(
            "maps a tensor to something that is not a file name",
            code=Code.INDEX_FILE,
            file=source.name,
            tensor=name,
            expected="text",
            found=f"a {type(file).__name__}",
            hint="the index is damaged: copy or download it again",
        )
    return cast("dict[str, str]", files)
