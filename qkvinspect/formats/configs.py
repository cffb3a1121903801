"""Hyper-parameters in JSON or YAML files beside a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePath

from qkvinspect.checkpoint import ByteSource, Config
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import bounded_yaml, config_keys, strict_json
from qkvinspect.formats.directory import SUFFIXES as CHECKPOINT_SUFFIXES
from qkvinspect.formats.limits import Limits
from qkvinspect.parsed import is_items, is_mapping
from qkvinspect.sources import LocalFile, is_remote, local_path
from qkvinspect.sources.folder import Folder

_SUFFIXES = (".json", ".yaml", ".yml")
USUAL = ("config.json", "params.json", "model_config.yaml", "hparams.yaml", "config.yaml", "config.yml")
_NEVER = ("tokenizer", "special_tokens", "vocab", "generation_config", "preprocessor", "added_tokens")
_NAMED_SO = ("config", "param", "arg", "model", "setting", "arch", "train", "opt")
"""What a file is called that somebody meant as a config, whatever stands in it."""
_OF_MODELS = frozenset(
    {
        "model_type",
        "architectures",
        "architecture",
        "arch",
        "model",
        "_class_name",
        "num_hidden_layers",
        "num_layers",
        "n_layers",
        "n_layer",
        "layers",
        "depth",
        "depths",
        "vocab_size",
        "max_position_embeddings",
        "block_size",
        "context_length",
        "patch_size",
        "image_size",
    }
)
_OURS = frozenset({"attentions", "checkpoint", "checkpoints", "same", "written"})
"""What reports of this tool hold, one or another, beside their ``schema_version``."""
_MAX_SIZE = 2_000_000
_MAX_FILES = 20


def beside(source: ByteSource) -> tuple[tuple[Config, ...], tuple[Finding, ...]]:
    """The configs beside a checkpoint, the most trusted first: same name, usual name, any other.

    A file that cannot be parsed is a finding, not an error: it may have nothing to do with the model. Several that are
    not called as a config is are one.
    """
    own = _stem(PurePath(source.name).name)
    siblings = source.siblings()
    around = _around(siblings)
    names = [
        name
        for name in around.configs
        if _stem(name) == own or _stem(name) not in around.checkpoints  # the config of another in the same folder
    ]
    names.sort(key=lambda name: (_stem(name) != own, _rank(name), name))
    configs: list[Config] = []
    unused: dict[str, str] = {}
    for name in names[:_MAX_FILES]:
        try:
            file = source.relative(name)
            try:
                config = _parse(file, f"config:{name}")
            finally:
                file.close()
            if config is not None and (_stem(name) == own or name in USUAL or _is_of_a_model(name, config.values)):
                configs.append(config)
            elif config is not None:
                unused[name] = "it says no more of a model than its heads; --config names it if it is the config"
        except CheckpointError as error:
            unused[name] = error.message
    told = [*_no_files(source.name, siblings), *_unused(unused, own)]
    return tuple(configs), tuple(Finding(FindingCode.CONFIG_UNREADABLE, text) for text in told)


def _unused(why: Mapping[str, str], own: str) -> Iterator[str]:
    """Say why files are not used; of those with any name together, as a folder of data may have many."""
    some = [name for name in why if _stem(name) != own and name not in USUAL]
    for name, reason in why.items():
        if len(some) < 3 or name not in some:
            yield f"{name} beside it is not used: {reason}"
    if len(some) > 2:
        yield f"{some[0]} beside it is not used: {why[some[0]]}; nor are {_listed(some[1:])}, for this or other reasons"


def _listed(names: Sequence[str]) -> str:
    """One or two names, and how many more there are."""
    shown, rest = list(names[:2]), len(names) - 2
    return ", ".join(shown) + f" and {rest} more" if rest > 0 else " and ".join(shown)


def _no_files(path: str, siblings: Collection[str]) -> Iterator[str]:
    """Say of what is called as a config is, and is no file that can be read, that it is not used."""
    for name in USUAL if siblings and not is_remote(path) else ():
        if name not in siblings and os.path.lexists(Path(path).with_name(name)):
            yield f"{name} beside it is not used: it is no regular file, or a link to none"


def within(folders: Sequence[Folder]) -> tuple[tuple[Config, ...], tuple[Finding, ...]]:
    """The configs in folders that are a checkpoint as a whole, the most trusted first."""
    configs: list[Config] = []
    findings: list[Finding] = []
    for folder in folders:
        entries = folder.entries()
        if entries is not None and entries.files:
            with closing(folder.open(entries.files[0])) as anyone:
                found, noticed = beside(anyone)
            configs += found
            findings += noticed
    return tuple(configs), tuple(findings)


def named(path: str) -> Config:
    """The config that the user names with --config.

    Raises:
        UsageError: it cannot be read as a mapping.
    """
    try:
        file = _opened(path)
        try:
            config = _parse(file, f"config:{PurePath(file.name).name}")
        finally:
            file.close()
        if config is None:
            raise CheckpointError("is not a mapping", code=Code.CONFIG, file=file.name)
        return config
    except CheckpointError as error:
        raise UsageError(error.message, file=error.file, hint="give a JSON or YAML file with a mapping") from error


def _opened(path: str) -> ByteSource:
    if not is_remote(path):
        return LocalFile(local_path(path))
    from qkvinspect.sources.locate import Reach, RemoteFile, remote

    found = remote(path, Reach())
    if isinstance(found, RemoteFile):
        return found
    raise CheckpointError("is a folder", code=Code.FILE_DIRECTORY, file=found.name)


class _Around(NamedTuple):
    """What lies beside a checkpoint.

    Attributes:
        configs: files that may be some.
        checkpoints: what checkpoints are called, without suffix.
    """

    siblings: tuple[str, ...]
    configs: tuple[str, ...]
    checkpoints: frozenset[str]


_last = _Around((), (), frozenset())


def _around(siblings: tuple[str, ...]) -> _Around:
    """Classify the files; cached for the same tuple, as a folder may hold thousands of checkpoints."""
    global _last  # noqa: PLW0603
    known = _last
    if known.siblings is siblings:
        return known
    configs = (
        name
        for name in siblings
        if name.endswith(_SUFFIXES) and not name.startswith(_NEVER) and not name.endswith(".index.json")
    )
    checkpoints = frozenset(_stem(name) for name in siblings if name.endswith(CHECKPOINT_SUFFIXES))
    _last = known = _Around(siblings, tuple(configs), checkpoints)
    return known


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _rank(name: str) -> int:
    return USUAL.index(name) if name in USUAL else len(USUAL)


def _parse(file: ByteSource, origin: str) -> Config | None:
    """The config in a file; None where it holds something else (a vocabulary, what this very tool wrote)."""
    if file.size > _MAX_SIZE:
        raise CheckpointError(f"is too large for a config: {file.size} bytes", code=Code.CONFIG, file=file.name)
    data = file.read(0, file.size)
    try:
        values = _json(data, file.name) if file.name.endswith(".json") else bounded_yaml.loads(data)
    except ValueError as error:
        raise CheckpointError(f"cannot be parsed: {error}".splitlines()[0], code=Code.CONFIG, file=file.name) from error
    if not is_mapping(values) or _is_ours(values):
        return None
    return Config(origin, values)


def _is_ours(values: Mapping[str, object]) -> bool:
    """Whether a command of this tool wrote it: reports with ``--format json`` or ``sarif``, and baselines."""
    return (
        "qkvinspect_baseline" in values
        or ("schema_version" in values and not _OURS.isdisjoint(values))
        or {"$schema", "version", "runs"} <= values.keys()
    )


def _is_of_a_model(name: str, values: Mapping[str, object]) -> bool:
    """Whether a file of any name describes a model: results of a benchmark may say ``"heads": 2`` too."""
    if any(word in name.lower() for word in _NAMED_SO):
        return True
    counts: set[str] = set()
    open: list[object] = [values]
    while open:
        value = open.pop()
        if is_mapping(value):
            if not _OF_MODELS.isdisjoint(value):
                return True
            counts |= {key for key in value if config_keys.read(key)}
            open += value.values()
        elif is_items(value):
            open += value
    return len(counts) != 1


def _json(data: bytes, file: str) -> object:
    """Parse JSON with no more values than YAML may have, as every layer looks at all of them."""
    values = strict_json.loads(data, file, Limits())
    if len(data) <= bounded_yaml.MAX_VALUES:
        return values  # each takes a byte
    open: list[object] = [values]
    found = 0
    while open:
        value = open.pop()
        found += 1
        if is_mapping(value):
            open += value.values()
        elif is_items(value):
            open += value
        if found + len(open) > bounded_yaml.MAX_VALUES:
            raise ValueError(f"it holds too many values (over {bounded_yaml.MAX_VALUES})")
    return values
