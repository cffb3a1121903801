"""Categories 97 and 105 to 113: what the file system can do, in a folder of its own."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qkvinspect.error_codes import Code
from tests.hostile import seeds
from tests.hostile.categories.case import Reads, Refused
from tests.hostile.categories.several import INDEX, MAP, SHARDS
from tests.hostile.writers.headers import safetensors

WHOLE = seeds.SAFETENSORS["two"]
SOUND = Reads({"a": seeds.FLOATS, "b": seeds.LONGS})


@dataclass(frozen=True)
class Scene:
    """A path to open.

    Attributes:
        arrange: makes what is needed in an empty folder, and gives the path.
        meanwhile: what happens between opening and reading.
        user: the user that opens it, where root may do anything.
    """

    label: str
    arrange: Callable[[Path], Path | str]
    outcome: Refused | Reads
    meanwhile: Callable[[Path], object] | None = None
    user: int | None = None


Scenes = Mapping[int, Callable[[], Iterator[Scene]]]


def _write(data: bytes, folder: Path, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _files(files: Mapping[str, bytes], at: str, folder: Path) -> Path:
    for name, data in files.items():
        _write(data, folder, name)
    return folder / at


def _sharded(folder: Path) -> Path:
    return _files({INDEX: json.dumps({"weight_map": MAP}).encode(), **SHARDS}, INDEX, folder)


def links_out() -> Iterator[Scene]:
    def outside(folder: Path) -> Path:
        path = _sharded(folder / "checkpoint")
        (folder / "checkpoint/two.safetensors").rename(folder / "elsewhere")
        (folder / "checkpoint/two.safetensors").symlink_to(folder / "elsewhere")
        return path

    def hub(folder: Path) -> Path:
        path = _sharded(folder / "blobs")
        snapshot = folder / "snapshots/1"
        snapshot.mkdir(parents=True)
        for blob in path.parent.iterdir():
            (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
        return snapshot / INDEX

    yield Scene("links to blobs, as the hub's cache has them", hub, SOUND)
    yield Scene("a shard that is a link to a sound file elsewhere", outside, Refused(Code.FILE_LINK_OUT))
    for target, code in (
        ("/etc/passwd", Code.FILE_LINK_OUT),
        ("/dev/zero", Code.FILE_DEVICE),
        ("/", Code.FILE_DIRECTORY),
        ("nowhere", Code.FILE_MISSING),
    ):

        def linked(folder: Path, target: str = target) -> Path:
            path = _sharded(folder)
            (folder / "two.safetensors").unlink()
            (folder / "two.safetensors").symlink_to(target)
            return path

        yield Scene(f"a shard that is a link to {target}", linked, Refused(code))

    def distributed(folder: Path, target: str = "../elsewhere") -> Path:
        path = _files(seeds.DCP["two ranks"], ".metadata", folder / "checkpoint")
        (folder / "checkpoint/__1_0.distcp").rename(folder / "elsewhere")
        (folder / "checkpoint/__1_0.distcp").symlink_to(target)
        return path

    yield Scene("a rank's file that is a link out of the folder", distributed, Refused(Code.FILE_LINK_OUT))
    yield Scene(
        "a rank's file that is a link to /etc/passwd",
        partial(distributed, target="/etc/passwd"),
        Refused(Code.FILE_LINK_OUT),
    )


def folders() -> Iterator[Scene]:
    for names in ((), ("readme.md",), ("config.json",), ("a.txt", "b.h5"), ("optimizer",)):
        yield Scene(
            f"a folder with {', '.join(names) or 'nothing'}",
            partial(_files, dict.fromkeys(names, b"{}"), ""),
            Refused(Code.FOLDER_NONE),
        )
    for names in (("a.pt", "b.pt"), ("a.safetensors", "b.bin"), ("x.ckpt", "y.ckpt", "z.pth")):
        yield Scene(
            f"a folder with {', '.join(names)}",
            partial(_files, dict.fromkeys(names, WHOLE), ""),
            Refused(Code.FOLDER_SEVERAL),
        )
    yield Scene("a folder with one checkpoint", partial(_files, {"a.safetensors": WHOLE}, ""), SOUND)
    yield Scene("a folder called model.pt", partial(_files, {"model.pt/x": b""}, "model.pt"), Refused(Code.FOLDER_NONE))
    yield Scene("ranks' files without .metadata", partial(_files, {"__0_0.distcp": b"x"}, ""), Refused(Code.DCP))
    for name in ("model-rank-1-part-0.safetensors", "mp_rank_01_model_states.pt", "mp_rank_01/model_optim_rng.pt"):
        names = {name: WHOLE, name.replace("1", "2"): WHOLE}
        yield Scene(f"ranks 1 and 2, but not 0: {name}", partial(_files, names, ""), Refused(Code.RANKS))
    expert = {f"mp_rank_00_000_00{number}/model_optim_rng.pt": WHOLE for number in (0, 1)}
    yield Scene("ranks of expert parallelism", partial(_files, expert, ""), Refused(Code.RANKS))
    yield Scene("a shard that is a folder", _folder_for_a_shard, Refused(Code.FILE_DIRECTORY))


def _folder_for_a_shard(folder: Path) -> Path:
    path = _sharded(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").mkdir()
    return path


def _fifo(folder: Path, name: str = "model.pt") -> Path:
    os.mkfifo(folder / name)
    return folder / name


def pipes() -> Iterator[Scene]:
    for name in ("model.pt", "model.safetensors", INDEX, "x"):
        yield Scene(f"a pipe called {name}", partial(_fifo, name=name), Refused(Code.FILE_PIPE))

    def linked(folder: Path) -> Path:
        (folder / "link.pt").symlink_to(_fifo(folder))
        return folder / "link.pt"

    def shard(folder: Path) -> Path:
        path = _sharded(folder)
        (folder / "one.safetensors").unlink()
        _fifo(folder, "one.safetensors")
        return path

    yield Scene("a link to a pipe", linked, Refused(Code.FILE_PIPE))
    yield Scene("a shard that is a pipe", shard, Refused(Code.FILE_PIPE))


def devices() -> Iterator[Scene]:
    for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"):
        yield Scene(path, lambda folder, path=path: path, Refused(Code.FILE_DEVICE))

        def linked(folder: Path, path: str = path) -> Path:
            (folder / "model.pt").symlink_to(path)
            return folder / "model.pt"

        yield Scene(f"a link to {path}", linked, Refused(Code.FILE_DEVICE))


def sockets() -> Iterator[Scene]:
    def bound(folder: Path, name: str) -> Path:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        finally:
            os.chdir(here)
        return folder / name

    for name in ("model.pt", "model.safetensors"):
        yield Scene(f"a socket called {name}", partial(bound, name=name), Refused(Code.FILE_SOCKET))


def links() -> Iterator[Scene]:
    def linked(folder: Path, targets: Mapping[str, str], at: str) -> Path:
        for name, target in targets.items():
            (folder / name).symlink_to(target)
        return folder / at

    yield Scene("a link to nothing", partial(linked, targets={"a.pt": "b.pt"}, at="a.pt"), Refused(Code.FILE_MISSING))
    yield Scene("a link to itself", partial(linked, targets={"a.pt": "a.pt"}, at="a.pt"), Refused(Code.FILE_LINKS))
    yield Scene(
        "two links to each other",
        partial(linked, targets={"a.pt": "b.pt", "b.pt": "a.pt"}, at="a.pt"),
        Refused(Code.FILE_LINKS),
    )
    chain = {f"l{n}": f"l{n + 1}" for n in range(60)}
    yield Scene("60 links in a row", partial(linked, targets=chain, at="l0"), Refused(Code.FILE_LINKS))
    yield Scene(
        "a folder that links to itself",
        partial(linked, targets={"d": "."}, at="d/d/d/x.pt"),
        Refused(Code.FILE_MISSING),
    )
    for name in ("nowhere.pt", "no/such/folder.pt"):
        yield Scene(name, lambda folder, name=name: folder / name, Refused(Code.FILE_MISSING))
    yield Scene("a file taken for a folder", lambda folder: _write(WHOLE, folder) / "x", Refused(Code.FILE_MISSING))
    yield Scene("a name of 300 letters", lambda folder: folder / ("x" * 300), Refused(Code.FILE_PATH))
    yield Scene("a NUL in the path", lambda folder: f"{folder}/a\0b", Refused(Code.FILE_PATH))


NOBODY = 65534


def permissions() -> Iterator[Scene]:
    def closed(folder: Path, mode: int, inside: bool) -> Path:
        folder.chmod(0o755)
        path = _write(WHOLE, folder / "sub")
        (path.parent if inside else path).chmod(mode)
        return path

    for mode in (0o000, 0o200, 0o300):
        yield Scene(
            f"a file of mode {mode:03o}",
            partial(closed, mode=mode, inside=False),
            Refused(Code.FILE_PERMISSION),
            user=NOBODY,
        )
    for mode in (0o000, 0o600):
        yield Scene(
            f"a file in a folder of mode {mode:03o}",
            partial(closed, mode=mode, inside=True),
            Refused(Code.FILE_PERMISSION),
            user=NOBODY,
        )
    for mode in (0o000, 0o300):
        folder = partial(closed, mode=mode, inside=True)
        yield Scene(
            f"a folder of mode {mode:03o}",
            lambda where, make=folder: make(where).parent,
            Refused(Code.FOLDER_LIST),
            user=NOBODY,
        )
    yield Scene("a file of mode 444", partial(closed, mode=0o444, inside=False), SOUND, user=NOBODY)


def shrinking() -> Iterator[Scene]:
    for label, data, name in (
        ("safetensors", WHOLE, "m.safetensors"),
        ("a zip", seeds.ZIPS["torch"], "m.pt"),
        ("the format before 1.6", seeds.LEGACY["torch"], "old.pt"),
        ("a tar", seeds.TARS["torch"], "older.pt"),
    ):
        for left in (0, 1, len(data) // 8):
            yield Scene(
                f"{label} is cut to {left} bytes",
                partial(_write, data, name=name),
                Refused(Code.FILE_CHANGED),
                partial(os.truncate, length=left),
            )

    def shard(path: Path) -> None:
        os.truncate(path.parent / "two.safetensors", 9)

    yield Scene("a shard is cut", _sharded, Refused(Code.FILE_SHRANK), shard)


def replaced() -> Iterator[Scene]:
    def renamed(path: Path) -> None:
        _write(safetensors({}), path.parent, "new").replace(path)

    for label, change in {
        "another is renamed over it": renamed,
        "it is removed": Path.unlink,
        "it is moved away": lambda path: path.rename(f"{path}.old"),
    }.items():
        yield Scene(label, partial(_write, WHOLE), Refused(Code.FILE_CHANGED), change)
    yield Scene(
        "its permissions go: what was opened is read", partial(_write, WHOLE), SOUND, lambda path: path.chmod(0)
    )

    def grown(path: Path) -> None:
        with path.open("ab") as file:
            file.write(bytes(1000))

    yield Scene("it grows", partial(_write, WHOLE), Refused(Code.FILE_CHANGED), grown)

    def overwritten(path: Path) -> None:
        path.write_bytes(seeds.ZIPS["torch"][: len(WHOLE) // 2])

    yield Scene("a shorter file is written over it", partial(_write, WHOLE), Refused(Code.FILE_CHANGED), overwritten)

    def other_zip(path: Path) -> None:
        data = bytearray(seeds.ZIPS["torch"])
        place = data.index(seeds.FLOATS)
        data[place + 3] ^= 1
        path.write_bytes(data)

    yield Scene(
        "a storage of a zip is written anew",
        partial(_write, seeds.ZIPS["torch"], name="m.pt"),
        Refused(Code.FILE_CHANGED),
        other_zip,
    )


def _zip_of(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


def _tar_of(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def containers() -> Iterator[Scene]:
    torch_zip = seeds.ZIPS["torch"]
    files = {
        "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), Code.IS_COMPRESSED),
        "gzip": (gzip.compress(torch_zip), Code.IS_COMPRESSED),
        "xz": (lzma.compress(torch_zip), Code.IS_COMPRESSED),
        "bzip2": (b"BZh91AY&SY" + bytes(50), Code.IS_COMPRESSED),
        "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), Code.IS_COMPRESSED),
        "GGUF": (b"GGUF\1\0\0\0" + bytes(50), Code.GGUF_VERSION),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), Code.IS_HDF5),
        "NumPy": (b"\x93NUMPY\1\0" + bytes(50), Code.IS_NUMPY),
        "a pointer of Git LFS": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            Code.IS_LFS_POINTER,
        ),
        "a web page": (b"\n<!DOCTYPE html>\n<html></html>", Code.IS_WEB_PAGE),
        "XML": (b"<?xml version='1.0'?><Error/>", Code.IS_WEB_PAGE),
        "a bare pickle": (seeds.PICKLES["plain"], Code.IS_BARE_PICKLE),
        "a zip of a checkpoint": (_zip_of("model.pt", torch_zip), Code.ZIP_PICKLE),
        "a zip of a safetensors file": (_zip_of("a/model.safetensors", WHOLE), Code.ZIP_PICKLE),
        "a tar of a checkpoint": (_tar_of("model.pt", torch_zip), Code.IS_TAR),
        "gzip in gzip": (gzip.compress(gzip.compress(WHOLE)), Code.IS_COMPRESSED),
        "TorchScript": (_zip_of("m/code/__torch__.py", b""), Code.IS_TORCHSCRIPT),
        "TorchScript's constants": (_zip_of("m/constants.pkl", b""), Code.IS_TORCHSCRIPT),
        "torch.package": (_zip_of("m/.data/extern_modules", b""), Code.IS_PACKAGE),
        "text": (b"hello, world\n" * 10, Code.IS_TEXT),
        "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), Code.NOT_A_CHECKPOINT),
        "ELF": (b"\x7fELF" + bytes(60), Code.NOT_A_CHECKPOINT),
        "a JSON list": (b'["a"]', Code.NOT_A_CHECKPOINT),
        "a config": (b'{"num_heads": 4}', Code.INDEX_MAP),
    }
    for label, (data, code) in files.items():
        for name in ("model.pt", "model.safetensors"):
            yield Scene(f"{label}, called {name}", partial(_write, data, name=name), Refused(code))
    for name in ("model.safetensors", "model.pt", "model.gguf", "model", "model.json"):
        yield Scene(f"safetensors called {name}: the content tells", partial(_write, WHOLE, name=name), SOUND)
    for name in ("model.safetensors", "model.tar", "model.zip"):
        reads = Reads({"weight": seeds.FLOATS, "index": seeds.LONGS[8:]})
        yield Scene(f"a torch zip called {name}: the content tells", partial(_write, torch_zip, name=name), reads)


SCENES: Scenes = {
    97: links_out,
    105: folders,
    106: pipes,
    107: devices,
    108: sockets,
    109: links,
    110: permissions,
    111: shrinking,
    112: replaced,
    113: containers,
}
