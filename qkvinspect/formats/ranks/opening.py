"""Open the files of tensor- and pipeline-parallel ranks as one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from glob import escape

from qkvinspect.checkpoint import ByteSource, Checkpoint, Config, Container, Share, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.ranks.copies import are_equal
from qkvinspect.formats.ranks.file_names import RankFile, RankFiles
from qkvinspect.formats.ranks.joining import Joining
from qkvinspect.formats.ranks.stages import in_line
from qkvinspect.parsed import is_mapping, is_size

_TENSOR_SIZES = ("tensor_model_parallel_size", "model_parallel_size", "mp_world_size")
_STAGE_SIZES = ("pipeline_model_parallel_size", "pipe_parallel_size")
_EXPERT_SIZES = ("expert_model_parallel_size",)
_ARGS = ("args", "cfg", "model")
_MAX_FILES = 4096


def open(
    files: RankFiles,
    open_file: Callable[[ByteSource], Checkpoint],
    beside: Sequence[Config],
    limits_for: Callable[[int], Limits],
) -> Checkpoint:
    """Open every rank's file and join what they hold.

    Args:
        open_file: opens one of them by its content.
        beside: configs that lie with them.
        limits_for: the limits for so many bytes.

    Raises:
        CheckpointError: a rank is missing, or one of the files is damaged or of another checkpoint.
    """
    limits_for(0).check("shards", min(len(files.files), _MAX_FILES + 1), files.folder.name)
    files.require_complete()
    with ExitStack() as resources:
        sources = files.folder.open_all([file.name for file in files.files])
        for one in sources:
            resources.callback(one.close)
        limits = limits_for(sum(one.size for one in sources))
        opened = [(file, _opened(one, open_file, resources)) for file, one in zip(files.files, sources, strict=True)]
        first = opened[0][1]
        _require_sizes(files, (*beside, *first.configs))
        source = first.source
        assert source is not None
        stages: list[Joining] = []
        for stage in range(files.stages):
            ranks = [_of_rank(opened, stage, rank, files) for rank in range(files.tensor)]
            joining = Joining(source, files.kind, ranks, (*beside, *first.configs), limits)
            joining.join()
            stages.append(joining)
        tensors, shares, findings = _together(stages, files.folder.name)
        formats = sorted({checkpoint.format for _, checkpoint in opened})
        of = f"{files.tensor} tensor-parallel rank{'s' * (files.tensor > 1)}"
        of += f" x {files.stages} pipeline stages" if files.stages > 1 else ""
        told = Finding(FindingCode.RANKS_JOINED, f"{len(files.files)} files of {of} were joined")
        return Checkpoint(
            path=files.folder.name,
            format=f"ranks-{'+'.join(formats)}",
            num_bytes=sum(checkpoint.num_bytes for _, checkpoint in opened),
            tensors=tensors,
            num_files=len(files.files),
            configs=first.configs,
            container=first.container,
            containers=(Container(first.container, len(tensors), "model"),),
            findings=(told, *_of_each(opened), *findings),
            resources=resources.pop_all(),
            source=source,
            shares=shares,
            packed=tuple(_in_blocks(tensors)) if files.kind == "vllm" else (),
        )


def _opened(source: ByteSource, open_file: Callable[[ByteSource], Checkpoint], resources: ExitStack) -> Checkpoint:
    checkpoint = open_file(source)
    checkpoint.source = source
    resources.callback(checkpoint.close)
    return checkpoint


def _of_rank(
    opened: Sequence[tuple[RankFile, Checkpoint]], stage: int, rank: int, files: RankFiles
) -> Mapping[str, TensorInfo]:
    """All tensors of a rank, which may lie in several files.

    Raises:
        CheckpointError: one lies in two of them.
    """
    found: dict[str, TensorInfo] = {}
    for file, checkpoint in opened:
        if (file.tensor, file.stage) != (rank, stage):
            continue
        for name, info in checkpoint.tensors.items():
            whole = f"{file.prefix}{name}"
            if whole in found:
                raise CheckpointError(
                    "stands in two files of one rank",
                    code=Code.RANKS,
                    file=files.folder.name,
                    tensor=whole,
                    expected="it in one of them",
                    hint="the files are of different checkpoints: copy or download all of them again",
                )
            found[whole] = info
    return found


def _require_sizes(files: RankFiles, configs: Sequence[Config]) -> None:
    """Check that there are as many ranks as the checkpoint itself says.

    Raises:
        CheckpointError: there are fewer, or more; or they share experts, whose ranks' folders are named as stages are.
    """
    experts = _said(configs, _EXPERT_SIZES)
    if experts is not None and experts > 1:
        raise CheckpointError(
            "is shared out over ranks of expert parallelism, which are not joined",
            code=Code.RANKS,
            file=files.folder.name,
            expected="ranks of tensor and pipeline parallelism only",
            found=f"{experts} ranks of experts",
            hint="convert the checkpoint to one expert-parallel rank, or name the file of one rank",
        )
    for keys, count, what in (
        (_TENSOR_SIZES, files.tensor, "tensor-parallel ranks"),
        (_STAGE_SIZES, files.stages, "pipeline stages"),
    ):
        said = _said(configs, keys)
        if said is not None and said != count and files.kind != "vllm":
            raise CheckpointError(
                f"does not hold the files of all {what}",
                code=Code.RANKS,
                file=files.folder.name,
                expected=str(said),
                found=str(count),
                hint="copy the whole folder, or name the file of one rank to see its share alone",
            )


def _said(configs: Sequence[Config], keys: Sequence[str]) -> int | None:
    for config in configs:
        places: list[object] = [dict(config.values), *(config.values.get(key) for key in _ARGS)]
        for place in places:
            for key in keys if is_mapping(place) else ():
                value = place.get(key) if is_mapping(place) else None
                if is_size(value):
                    return value
    return None


def _together(
    stages: Sequence[Joining], folder: str
) -> tuple[dict[str, TensorInfo], dict[str, tuple[Share, ...]], list[Finding]]:
    tensors: dict[str, TensorInfo] = {}
    shares: dict[str, tuple[Share, ...]] = {}
    findings: list[Finding] = []
    for joining, names in zip(stages, in_line([list(one.tensors) for one in stages], folder), strict=True):
        findings += joining.findings()
        for old, new in names.items():
            if new in tensors:  # what the first and the last stage share, such as tied embeddings
                if not are_equal([tensors[new], joining.tensors[old]]):
                    text = f"{new} is on several pipeline stages and differs: that of the first was taken"
                    findings.append(Finding(FindingCode.RANKS_DIFFER, text))
                continue
            info = joining.tensors[old]
            tensors[new] = info if new == info.name else replace(info, name=new, keys=())
            if old in joining.shares:
                shares[new] = joining.shares[old]
    return tensors, shares, findings


def _in_blocks(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """VLLM keeps Q, K and V in blocks also where the model's own library packs them by heads under the same name."""
    for name in names:
        layer, found, _ = name.rpartition(".query_key_value.weight")
        if found:
            yield escape(layer), "megatron-v0"


def _of_each(opened: Sequence[tuple[RankFile, Checkpoint]]) -> list[Finding]:
    """The findings of all files, each once."""
    return list({(f.code, f.message): f for _, checkpoint in opened for f in checkpoint.findings}.values())
