"""From what a torch pickle holds to a checkpoint: choose the state_dict, describe its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import containers, torch_objects
from qkvinspect.formats.request import Request
from qkvinspect.model import ByteSource, Checkpoint, Finding, TensorInfo


def checkpoint(
    source: ByteSource,
    format: str,
    root: object,
    request: Request,
    byteorder: Literal["little", "big"],
    find_storage: torch_objects.FindStorage,
) -> Checkpoint:
    """Describe every tensor of the chosen state_dict; no storage is read.

    Args:
        root: what the pickle holds.
        find_storage: gives the bytes of a storage by its key.

    Raises:
        CheckpointError: there are no tensors, or one is malformed.
    """
    found, all_containers = containers.find(root, request.container, source.name)
    tensors: dict[str, TensorInfo] = {}
    findings: list[Finding] = []
    for keys, node in found.tensors.items():
        name = ".".join(keys)
        reason = torch_objects.unreadable(node)
        if reason is not None:
            findings.append(Finding("unreadable-tensor", "warning", f"{name} is {reason}: left out"))
        elif name in tensors:
            raise CheckpointError(
                "two tensors have the same name", code=Code.TENSOR_TWICE, file=source.name, tensor=name
            )
        else:
            info = torch_objects.tensor_info(node, name, source.name, byteorder, find_storage)
            tensors[name] = replace(info, keys=() if found.modules else (*found.keys, *keys))
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
    )
