"""Recognise files of formats that are not read by their first bytes, and say what to do with each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from qkvinspect.checkpoint import ByteSource
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern

HEAD = 512


class Kind(NamedTuple):
    """A kind of file: what it is, as a noun, and what to do with it."""

    code: Code
    what: str
    hint: str

    def error(self, file: str) -> CheckpointError:
        return CheckpointError(f"is {self.what}", code=self.code, file=file, hint=self.hint)


_ORIGINAL = "inspect the PyTorch checkpoint that it was made from"
_UNPACK = "unpack it first and inspect what it holds"
_TENSORFLOW = "convert it with transformers' from_pretrained(folder, from_tf=True).save_pretrained(folder)"
SAVED_MODEL = Kind(Code.IS_TENSORFLOW, "a TensorFlow SavedModel", _TENSORFLOW)
_INDEX = Kind(Code.IS_TENSORFLOW, "the index of a TensorFlow checkpoint", _TENSORFLOW)
_FLAX = Kind(
    Code.IS_MSGPACK,
    "a msgpack file, as Flax writes",
    "convert it with transformers' from_pretrained(folder, from_flax=True).save_pretrained(folder)",
)
HDF5 = Kind(Code.IS_HDF5, "an HDF5 file (Keras)", _ORIGINAL)
NPY = Kind(
    Code.IS_NUMPY,
    "a NumPy array, without names",
    "inspect the PyTorch checkpoint, or save it with safetensors.numpy.save_file under the name of its layer",
)
_JSON_ERROR = Kind(
    Code.IS_JSON_ERROR,
    "an error message of a server saved under the name of a checkpoint",
    "download it again; it may need a login or another address",
)

_BEGINNINGS: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"\x93NUMPY", NPY),
    (b"\x1f\x8b", Kind(Code.IS_COMPRESSED, "a gzip file", "unpack it with gunzip first")),
    (b"7z\xbc\xaf\x27\x1c", Kind(Code.IS_COMPRESSED, "a 7-Zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", Kind(Code.IS_COMPRESSED, "a RAR archive", _UNPACK)),
    (b"\xfd7zXZ\x00", Kind(Code.IS_COMPRESSED, "an xz file", "unpack it with unxz first")),
    (b"\x28\xb5\x2f\xfd", Kind(Code.IS_COMPRESSED, "a zstd file", "unpack it with unzstd first")),
    (b"\x04\x22\x4d\x18", Kind(Code.IS_COMPRESSED, "an lz4 file", "unpack it with unlz4 first")),
    (b"BZh", Kind(Code.IS_COMPRESSED, "a bzip2 file", "unpack it with bunzip2 first")),
    (
        b"version https://git-lfs",
        Kind(Code.IS_LFS_POINTER, "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    ),
    (b"\x08\x01\x12", SAVED_MODEL),
    (
        b"\x80",
        Kind(
            Code.IS_BARE_PICKLE,
            "a bare pickle, without tensors of torch's own",
            "torch.save the state_dict and inspect that",
        ),
    ),
)
_SHAPES: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    # A map whose first key is a text.
    (late_pattern(rb"(?:[\x81-\x8f]|\xde..)(?:[\xa1-\xbf]|\xd9.)[\w.]", re.DOTALL), _FLAX),
    (
        late_pattern(rb"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE),
        Kind(Code.IS_WEB_PAGE, "a web page saved under the name of a checkpoint", "download it again"),
    ),
    (
        late_pattern(rb"(?![{\[])[\t\n\r -~\x80-\xf4]{9,}"),
        Kind(
            Code.IS_TEXT,
            "a text, not a checkpoint",
            "read it: it may say what went wrong; then download the checkpoint again",
        ),
    ),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")  # LevelDB's table_format.md: the last eight bytes of every table


def refuse(source: ByteSource, head: bytes) -> CheckpointError:
    """The error for a file whose format is not read."""
    if not head:
        return CheckpointError("is empty", code=Code.FILE_EMPTY, file=source.name, hint="copy or download it again")
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind.error(source.name)
    for shape, kind in _SHAPES:
        found = shape.match(head)
        if found and (kind.code is not Code.IS_TEXT or (found.end() == len(head) and _is_utf8(head))):
            return kind.error(source.name)
    if source.size >= len(_TABLE_END) and source.read(source.size - 8, 8) == _TABLE_END:
        return _INDEX.error(source.name)
    return CheckpointError(
        "is not a checkpoint",
        code=Code.NOT_A_CHECKPOINT,
        file=source.name,
        expected="a torch file, safetensors or a shard index",
        found=f"bytes {head[:8].hex(' ')}",
        hint="the format is recognised by the content: check that this is the right file",
    )


def json_error(content: Mapping[str, object], file: str) -> CheckpointError | None:
    """The error for a server's JSON message that was saved in place of a file; None if it is no such message."""
    said = [content.get(key) for key in ("error", "errors", "message", "detail")]
    return _JSON_ERROR.error(file) if any(isinstance(text, (str, dict, list)) for text in said) else None


def named(names: Iterable[str], kinds: Iterable[tuple[str, Kind]]) -> Kind | None:
    """The first kind whose pattern matches one of the names."""
    known = list(names)
    return next((kind for pattern, kind in kinds if any(re.fullmatch(pattern, name) for name in known)), None)


def _is_utf8(head: bytes) -> bool:
    """Whether it is UTF-8 text; the last character may be cut off."""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.end == len(head) == HEAD and error.reason == "unexpected end of data"
    return True
