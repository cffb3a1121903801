"""Checkpoints in several files, by the index that transformers and diffusers write (``weight_map``).

A shard may be a link within the index's folder, or, where the index is a link too, to a file beside the index's
own (the hub's cache, where both lead into ``blobs``); see ``sources.local``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from qkvinspect.checkpoint import ByteSource, Checkpoint, Container, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import foreign, strict_json
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.request import OpenRequest
from qkvinspect.parsed import is_mapping, is_texts

NAME: str = "sharded"
IS_INDEX: bool = True
_MAX_NAMED = 4


def sniff(head: bytes) -> bool:
    text = head.lstrip()
    return text.startswith(b"{") and (head[8:9] != b"{" or any(head[5:8]))


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
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
        sources = {file: source.relative(file) for file in files}  # remote ones are asked all at once
        for file, shard_source in sources.items():
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
        findings = [finding for shard in shards.values() for finding in shard.findings]
        findings += _unlisted(source, weight_map, shards)
        formats = sorted({shard.format for shard in shards.values()})
        return Checkpoint(
            path=source.name,
            format=f"sharded-{'+'.join(formats)}",
            num_bytes=size,
            tensors=tensors,
            num_files=len(shards),
            containers=(Container("", len(tensors), "model"),),
            findings=tuple(findings),
            resources=resources.pop_all(),
            loader="torch" if any(shard.loader == "torch" for shard in shards.values()) else "safetensors",
            sorted_names=any(shard.sorted_names for shard in shards.values()),
        )


def _unlisted(source: ByteSource, weight_map: Mapping[str, str], shards: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """Find tensors in shards that the index does not place there: readers that go by the shards would load them."""
    for file, shard in shards.items():
        extra = [name for name in shard.tensors if weight_map.get(name) != file]
        twice = next((name for name in extra if name in weight_map), None)
        if twice is not None:
            raise CheckpointError(
                "stands in two shards",
                code=Code.INDEX_TWICE,
                file=source.name,
                tensor=twice,
                expected=f"it in {weight_map[twice]!r} only, as the index says",
                found=f"another in {file!r}",
                hint="the shards are of different checkpoints: copy or download all of them again",
            )
        if extra:
            names = ", ".join(extra[:_MAX_NAMED]) + (
                f" and {len(extra) - _MAX_NAMED} others" * (len(extra) > _MAX_NAMED)
            )
            yield Finding(FindingCode.UNLISTED_TENSORS, f"{file} also holds {names}, which the index omits: left out")


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
    files = index.get("weight_map") if is_mapping(index) else None
    if not is_mapping(files) or not files:
        said = foreign.json_error(index, source.name) if is_mapping(index) else None
        if said is not None:
            raise said
        raise CheckpointError(
            "is JSON but not a shard index",
            code=Code.INDEX_MAP,
            file=source.name,
            expected="a weight_map from tensors to files",
            hint="name the checkpoint file itself",
        )
    if not is_texts(files):
        name, file = next((name, file) for name, file in files.items() if not isinstance(file, str))
        raise CheckpointError(
            "maps a tensor to something that is not a file name",
            code=Code.INDEX_FILE,
            file=source.name,
            tensor=name,
            expected="text",
            found=f"a {type(file).__name__}",
            hint="the index is damaged: copy or download it again",
        )
    return files
