"""The SHA-256 that a model hub publishes for the files that it keeps as large files (Git LFS).

``GET /api/models/OWNER/NAME/revision/REVISION?blobs=true`` of huggingface.co, or of the HF_ENDPOINT of the environment;
huggingface_hub's ``model_info(files_metadata=True)`` asks the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from urllib.parse import quote

from qkvinspect.errors import UsageError
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_items, is_mapping
from qkvinspect.sources import urls
from qkvinspect.sources.fetching import patiently
from qkvinspect.sources.http import HttpFile

_ENDPOINT = "HF_ENDPOINT"
_REPOSITORY = late_pattern(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MAX_BYTES = 32 << 20
_DIGEST = late_pattern(r"[0-9a-f]{64}")


def digests(repository: str) -> Mapping[str, str]:
    """Fetch the SHA-256, in hexadecimal digits, of each large file of a repository, by its name.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.

    Raises:
        UsageError: that is no name of a repository, or the hub says nothing of large files.
        CheckpointError: the hub cannot be asked.
    """
    name, _, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name):
        raise UsageError("--hub takes OWNER/NAME or OWNER/NAME@REVISION", found=repr(repository[:80]))
    endpoint = os.environ.get(_ENDPOINT, "https://huggingface.co").rstrip("/")
    if not urls.is_web(endpoint):
        raise UsageError(f"{_ENDPOINT} is no address of the web", found=urls.shown(endpoint))
    file = HttpFile(
        f"{endpoint}/api/models/{name}/revision/{quote(revision or 'main', safe='')}?blobs=true", whole=True
    )
    try:
        data = patiently(file.name, lambda: _whole(file))
    finally:
        file.close()
    found = _listed(data, file.name)
    if not found:
        raise UsageError("the hub names no SHA-256 of any file", file=file.name, expected="files kept by Git LFS")
    return found


def _whole(file: HttpFile) -> bytes:
    with file.fetch(0, _MAX_BYTES + 1) as answer:
        data = bytearray()
        for piece in answer.pieces:
            data += piece
            if len(data) > _MAX_BYTES:
                raise UsageError("the hub's answer is too long", file=file.name, expected=f"at most {_MAX_BYTES} bytes")
    return bytes(data)


def _listed(data: bytes, name: str) -> dict[str, str]:
    try:
        root: object = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("the hub's answer is no JSON", file=name) from None
    siblings = root.get("siblings") if is_mapping(root) else None
    found: dict[str, str] = {}
    for one in siblings if is_items(siblings) else ():
        large = one.get("lfs") if is_mapping(one) else None
        path = one.get("rfilename") if is_mapping(one) else None
        digest = large.get("sha256", large.get("oid")) if is_mapping(large) else None
        if not isinstance(path, str) or not is_mapping(large):
            continue
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
            raise UsageError("the hub's answer holds what is no SHA-256", file=name, found=f"{path[:80]!r}")
        if found.setdefault(path, digest.lower()) != digest.lower():
            raise UsageError("the hub's answer has two digests of one file", file=name, found=f"{path[:80]!r}")
    return found
