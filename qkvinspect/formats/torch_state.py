"""From what a torch pickle holds to a checkpoint: choose the state_dict, describe its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from qkvinspect.checkpoint import ByteSource, Checkpoint, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import containers, foreign_parts, pickle, torch_objects, torch_subclasses
from qkvinspect.formats.pickle import dangers
from qkvinspect.formats.request import OpenRequest
from qkvinspect.formats.torch_storages import FindStorage, check_kinds


def checkpoint(
    source: ByteSource,
    format: str,
    loaded: pickle.Loaded,
    request: OpenRequest,
    byteorder: Literal["little", "big"],
    find_storage: FindStorage,
) -> Checkpoint:
    """Describe every tensor of the chosen state_dict; no storage is read.

    Args:
        loaded: the pickle.
        find_storage: gives the bytes of a storage by its key.

    Raises:
        CheckpointError: there are no tensors, or one is malformed.
    """
    root = loaded.value
    check_kinds(loaded, source.name)
    foreign_parts.check_pickle(root, source.name)
    findings = list(dangers.findings(loaded.globals, loaded.called))
    try:
        found, all_containers = containers.find(root, request.container, source.name, request.limits)
    except CheckpointError as error:
        error.hint = next((f.message for f in findings if f.severity == "warning"), error.hint)
        raise
    tensors: dict[str, TensorInfo] = {}
    for name, keys, node in _one_by_one(found.tensors):
        reason = torch_objects.unreadable(node)
        if reason is not None:
            what = f"{name} is {reason}{torch_subclasses.kind_of(node)}: left out"
            findings.append(Finding(FindingCode.UNREADABLE_TENSOR, what))
        elif name in tensors:
            raise CheckpointError(
                "two tensors have the same name: one has a dot where the other is nested",
                code=Code.TENSOR_TWICE,
                file=source.name,
                tensor=name,
                hint="load it with torch, give them names of their own and save it again",
            )
        else:
            path = () if found.modules else (*found.keys, *keys)
            tensors[name] = torch_objects.tensor_info(
                node, name, path, source.name, byteorder, find_storage, request.limits
            )
    foreign_parts.check_tensors(tensors, source.name)
    for keys, what in found.lost:
        findings.append(Finding(FindingCode.UNKNOWN_TENSOR, f"{'.'.join(keys)} is {what}: left out"))
    return Checkpoint(
        path=source.name,
        format=format,
        num_bytes=source.size,
        tensors=tensors,
        configs=containers.configs(root, found.keys),
        modules=found.modules,
        container=found.container.path,
        containers=all_containers,
        findings=tuple(findings),
        loader="torch",
    )


def _one_by_one(tensors: Mapping[tuple[str, ...], object]) -> Iterator[tuple[str, tuple[str, ...], object]]:
    """Each tensor with its name and how to reach it; of torchao's, what they are made of."""
    for keys, node in tensors.items():
        parts = torch_subclasses.parts(keys, node) if torch_objects.unreadable(node) is not None else {}
        for name, (path, part) in parts.items():
            yield name, path, part
        if not parts:
            yield ".".join(keys), keys, node
