"""Files that are no checkpoint this tool reads, each with what it is and what to do about it."""

from __future__ import annotations

from qkvinspect.codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.model import ByteSource

HEAD = 512

_RESAVE = "load it with torch.load(path, weights_only=True) and torch.save it again"

_MAGIC: tuple[tuple[int, bytes, Code, str, str], ...] = (
    (0, b"GGUF", Code.IS_GGUF, "a GGUF file", "inspect the checkpoint that it was converted from"),
    (0, b"\x89HDF\r\n\x1a\n", Code.IS_HDF5, "an HDF5 file (Keras)", "inspect the PyTorch checkpoint"),
    (0, b"\x93NUMPY", Code.IS_NUMPY, "a NumPy array", "inspect the PyTorch checkpoint"),
    (0, b"\x1f\x8b", Code.IS_COMPRESSED, "a gzip file", "unpack it with gunzip first"),
    (0, b"7z\xbc\xaf\x27\x1c", Code.IS_COMPRESSED, "a 7-Zip archive", "unpack it first"),
    (0, b"\xfd7zXZ\x00", Code.IS_COMPRESSED, "an xz file", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", Code.IS_COMPRESSED, "a zstd file", "unpack it first"),
    (0, b"BZh", Code.IS_COMPRESSED, "a bzip2 file", "unpack it first"),
    (
        0,
        b"version https://git-lfs",
        Code.IS_LFS_POINTER,
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull`",
    ),
    (
        0,
        b"\x80",
        Code.IS_BARE_PICKLE,
        "a bare pickle, without tensors of its own",
        "torch.save the state_dict and inspect that",
    ),
)
_HTML = (b"<!doctype", b"<html", b"<?xml")


def refuse(source: ByteSource, head: bytes) -> CheckpointError:
    """The error for a file of no format that can be read."""
    if not head:
        return CheckpointError("is empty", code=Code.FILE_EMPTY, file=source.name, hint="copy or download it again")
    for offset, magic, code, what, hint in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return CheckpointError(f"is {what}, which qkvinspect does not read", code=code, file=source.name, hint=hint)
    if head.lstrip().lower().startswith(_HTML):
        return CheckpointError(
            "is a web page saved under the name of a checkpoint",
            code=Code.IS_WEB_PAGE,
            file=source.name,
            hint="download it again",
        )
    return CheckpointError(
        "is not a checkpoint",
        code=Code.NOT_A_CHECKPOINT,
        file=source.name,
        expected="a torch file, safetensors or a shard index",
        found=f"bytes {head[:8].hex(' ')}",
        hint="the format is told by the content: check that this is the right file",
    )
