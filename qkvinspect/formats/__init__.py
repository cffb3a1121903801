"""The formats of checkpoint files. A new one is one module here, what imports it, and its line in FORMATS."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import replace
from qkvinspect.findings import Finding
from qkvinspect.formats import configs, directory, foreign
from qkvinspect.formats.limits import limits_for
from qkvinspect.formats.request import Format, OpenRequest
from qkvinspect.garbage import none_collected
from qkvinspect.progress import Progress
from qkvinspect.sources import LocalFile, is_remote, local_path
from qkvinspect.sources.folder import Folder, LocalFolder

if TYPE_CHECKING:
    from qkvinspect.formats.ranks.file_names import RankFiles


def _safetensors() -> Format:
    from qkvinspect.formats import safetensors

    return safetensors


def _torch_zip() -> Format:
    from qkvinspect.formats import torch_zip

    return torch_zip


def _torch_legacy() -> Format:
    from qkvinspect.formats import torch_legacy

    return torch_legacy


def _torch_tar() -> Format:
    from qkvinspect.formats import torch_tar

    return torch_tar


def _dcp() -> Format:
    from qkvinspect.formats import dcp

    return dcp


def _gguf() -> Format:
    from qkvinspect.formats import gguf

    return gguf


def _onnx() -> Format:
    from qkvinspect.formats import onnx

    return onnx


def _sharded() -> Format:
    from qkvinspect.formats import sharded

    return sharded


FORMATS: tuple[Callable[[], Format], ...] = (
    _safetensors,
    _torch_zip,
    _torch_legacy,
    _torch_tar,
    _dcp,
    _gguf,
    _onnx,
    _sharded,
)
"""The formats, tried in this order and imported when their turn comes; the first whose ``sniff`` agrees opens a
file."""


def open_checkpoint(
    path: str | Path,
    *,
    container: str | None = None,
    config: str | Path | None = None,
    limits: Mapping[str, int] | None = None,
    download: bool = False,
    progress: Progress | None = None,
    base: str | Path | None = None,
) -> Checkpoint:
    """Open a file, a shard index, a directory, or a URL of one. No tensor is read; close the result when done.

    Args:
        base: the model that ``path``, an adapter, is added to.
        container: which state_dict, where a file holds several (``state_dict_ema`` ...).
        config: hyper-parameters to trust before any found beside or inside the checkpoint.
        limits: what to allow a file instead of what is usual for its size; see ``formats.limits.Limits``.
        download: fetch remote files whole, to a temporary file.
        progress: called while that goes on.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
        UsageError: the URL needs a package that is missing, or ``base`` is given for what is no adapter.
    """
    if base is not None:
        from qkvinspect.formats.adapted import with_base

        adapter = open_checkpoint(path, config=config, limits=limits, download=download, progress=progress)
        with _closed_if_not_used(adapter):
            model = open_checkpoint(
                base, container=container, config=config, limits=limits, download=download, progress=progress
            )
            with _closed_if_not_used(model):
                return with_base(adapter, model)
    own = (configs.named(os.fspath(config)),) if config is not None else ()
    found = _located(os.fspath(path), download, progress)
    if not isinstance(found, tuple):
        return _joined(found, container, own, limits or {})
    source, findings = found
    try:
        with none_collected():
            checkpoint = _open(source, container, limits or {})
        beside, config_findings = configs.beside(source)
    except CheckpointError:
        with closing(source):
            source.check()
        raise
    except BaseException:
        source.close()
        raise
    checkpoint.resources.callback(source.close)
    return replace(
        checkpoint,
        configs=(*own, *beside, *checkpoint.configs),
        findings=(*findings, *checkpoint.findings, *config_findings),
        source=source,
    )


def _joined(files: RankFiles, container: str | None, own: tuple[Config, ...], limits: Mapping[str, int]) -> Checkpoint:
    """Open rank files as the one checkpoint that they make up."""
    from qkvinspect.formats.ranks import opening

    beside, findings = configs.within(files.around)
    with none_collected():
        checkpoint = opening.open(
            files,
            lambda source: _open(source, container, limits),
            (*own, *beside),
            lambda size: limits_for(size, limits),
        )
    return replace(
        checkpoint,
        configs=(*own, *beside, *checkpoint.configs),
        findings=(*checkpoint.findings, *findings),
    )


@contextmanager
def _closed_if_not_used(checkpoint: Checkpoint) -> Generator[None]:
    try:
        yield
    except BaseException:
        checkpoint.close()
        raise


_File = tuple[ByteSource, tuple[Finding, ...]]
"""The file that a path stands for, and what was noticed when it was chosen."""


def _located(path: str, download: bool, progress: Progress | None) -> RankFiles | _File:
    """What a path or a URL stands for: a file, or the files of several ranks."""
    if is_remote(path):
        from qkvinspect.sources.locate import Reach, RemoteFile, remote

        named = remote(path, Reach(download, progress))
        if isinstance(named, RemoteFile):
            return named, ()
        return _of_ranks(named) or directory.choose_remote(named)
    place = local_path(path)
    if not os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises where the folder may not be read)
        return LocalFile(place), ()
    found = _of_ranks(LocalFolder(place))
    if found is None:
        place, findings = directory.choose(place)
        return LocalFile(place), findings
    return found


def _of_ranks(folder: Folder) -> RankFiles | _File | None:
    """The files of ranks that a folder holds, or the only one."""
    from qkvinspect.formats.ranks.file_names import find

    found = find(folder)
    if found is None or len(found.files) != 1:
        return found
    return found.folder.open(found.files[0].name), ()


def _open(
    source: ByteSource, container: str | None, limits: Mapping[str, int], *, is_shard: bool = False
) -> Checkpoint:
    head = source.read(0, min(source.size, foreign.HEAD))
    for load in FORMATS:
        format = load()
        if not (is_shard and format.IS_INDEX) and format.sniff(head):
            own = limits_for(source.size, limits)
            return format.open(
                source, OpenRequest(container, lambda shard: _open(shard, container, limits, is_shard=True), own)
            )
    raise foreign.refuse(source, head)
