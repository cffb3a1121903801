"""Recognise the rank files of a checkpoint in a folder, and which rank each is.

Megatron-LM writes ``mp_rank_TT[_PPP]/model_optim_rng.pt`` (megatron/training/checkpointing.py, get_checkpoint_name)
and a tracker file beside its iterations; NeMo ``mp_rank_TT/model_weights.ckpt`` or ``tp_rank_TT_pp_rank_PPP``;
DeepSpeed ``mp_rank_TT_model_states.pt`` or, of a pipeline, ``layer_LL-model_TT-model_states.pt``, and ``latest``;
vLLM's sharded state ``model-rank-T-part-N.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Literal

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources.folder import Entries, Folder

Kind = Literal["megatron", "deepspeed", "vllm"]
"""The library that wrote the files, which determines how fused tensors are cut."""


@dataclass(frozen=True, slots=True)
class RankFile:
    """A file of one rank.

    Attributes:
        name: its name, from the folder of all of them on.
        tensor, stage: its rank of tensor and of pipeline parallelism.
        expert: its rank of expert parallelism.
        part: which of several files of the rank.
        prefix: what its names lack in front.
    """

    name: str
    tensor: int
    stage: int = 0
    expert: int = 0
    part: int = 0
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class RankFiles:
    """All files of one checkpoint.

    Attributes:
        folder: the folder that holds them.
        around: the folders in which a config may lie, the nearest first.
    """

    kind: Kind
    folder: Folder
    files: tuple[RankFile, ...]
    around: tuple[Folder, ...]

    @property
    def tensor(self) -> int:
        """How many ranks of tensor parallelism there are."""
        return 1 + max(file.tensor for file in self.files)

    @property
    def stages(self) -> int:
        """How many stages of a pipeline there are."""
        return 1 + max(file.stage for file in self.files)

    def require_complete(self) -> None:
        """Refuse a checkpoint of which a rank is missing.

        Raises:
            CheckpointError: a rank is missing.
        """
        for file in self.files:
            if file.expert:
                raise CheckpointError(
                    "is a rank of expert parallelism, which is not joined",
                    code=Code.RANKS,
                    file=f"{self.folder.name}/{file.name}",
                    expected="ranks of tensor and pipeline parallelism only",
                    hint="convert the checkpoint to one expert-parallel rank with Megatron's own tools",
                )
        there = {(file.prefix, file.tensor, file.stage) for file in self.files}
        wanted = {
            (prefix, tensor, stage)
            for prefix in {file.prefix for file in self.files}
            for tensor in range(self.tensor)
            for stage in range(self.stages)
        }
        missing = sorted(wanted - there)
        if missing:
            prefix, tensor, stage = missing[0]
            stages = f" of stage {stage}" if self.stages > 1 else ""
            raise CheckpointError(
                f"lacks the file of tensor-parallel rank {tensor}{stages}{f' for {prefix[:-1]}' if prefix else ''}",
                code=Code.RANKS,
                file=self.folder.name,
                expected=f"{len(wanted)} ranks",
                found=f"{len(there)}",
                hint="copy the whole folder, or name the file of one rank to see its share alone",
            )


_VLLM = late_pattern(r"model-rank-(?P<tensor>\d{1,4})-part-(?P<part>\d{1,6})\.safetensors")
_LAYERS = late_pattern(r"layer_(?P<layer>\d{1,4})-model_(?P<tensor>\d{1,4})-model_states\.pt")
_STATES = late_pattern(r"mp_rank_(?P<tensor>\d{1,4})_model_states\.pt")
_FOLDER = late_pattern(
    r"mp_rank_(?P<tensor>\d{1,4})(?:_(?P<stage>\d{1,4}))?(?:_(?P<expert>\d{1,4}))?"
    r"|tp_rank_(?P<tp>\d{1,4})_pp_rank_(?P<pp>\d{1,4})"
)
_IN_FOLDER = ("model_optim_rng.pt", "model_rng.pt", "model_weights.ckpt")
_ZERO = late_pattern(r"(bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
_POINTERS = ("latest_checkpointed_iteration.txt", "latest")
_MAX_POINTER = 200


def find(folder: Folder) -> RankFiles | None:
    """The rank files of a folder, or of the one that its tracker file names; None where there are none.

    A folder with DeepSpeed's ZeRO partitions is left alone; ``foreign_parts`` says what to do about these.
    """
    files, folders = entries = folder.entries() or Entries()
    found = _among(entries, folder)
    if found is not None:
        return found
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".index.json")) for name in files):
        return None  # it is a checkpoint itself, as a Trainer writes one beside DeepSpeed's own
    for named in _pointed(folder, files):
        below = find(folder.folder(named)) if named in folders else None
        if below is not None:
            return replace(below, around=(*below.around, folder))
    return None


def here(folder: Folder) -> RankFiles | None:
    """The rank files of a folder itself, whatever a tracker file says."""
    return _among(folder.entries() or Entries(), folder)


def _among(entries: Entries, folder: Folder) -> RankFiles | None:
    names, below = entries
    for pattern, kind in ((_VLLM, "vllm"), (_LAYERS, "deepspeed"), (_STATES, "deepspeed")):
        matches = [match for name in names if (match := pattern.fullmatch(name))]
        if matches and (kind == "vllm" or not any(map(_ZERO.fullmatch, names))):
            files = tuple(_file(match.string, match) for match in matches)
            return RankFiles("vllm" if kind == "vllm" else "deepspeed", folder, files, (folder,))
    ranks = [match for name in below if (match := _FOLDER.fullmatch(name))]
    common = _common_file([folder.folder(match.string) for match in ranks])
    if common is None:
        return None
    files = tuple(_file(f"{match.string}/{common}", match) for match in ranks)
    return RankFiles("megatron", folder, files, (folder,))


def _file(name: str, match: re.Match[str]) -> RankFile:
    said = {key: int(value) for key, value in match.groupdict().items() if value is not None}
    prefix = f"sequential.{said['layer']}." if "layer" in said else ""
    return RankFile(
        name,
        said.get("tensor", said.get("tp", 0)),
        said.get("stage", said.get("pp", 0)),
        said.get("expert", 0),
        said.get("part", 0),
        prefix,
    )


def _common_file(folders: Sequence[Folder]) -> str | None:
    """What the file of the model is called in every rank's folder."""
    held = [set((folder.entries() or Entries()).files) for folder in folders]
    common = set[str].intersection(*held) if held else set[str]()
    usual = next((name for name in _IN_FOLDER if name in common), None)
    others = [name for name in sorted(common) if name.endswith((".ckpt", ".pt"))]
    return usual or (others[0] if len(others) == 1 else None)


def _pointed(folder: Folder, names: Sequence[str]) -> Iterator[str]:
    """The names of the folders that a tracker file may mean: the latest checkpoint of several."""
    for name in _POINTERS:
        if name not in names:
            continue
        try:
            with closing(folder.open(name)) as file:
                text = file.read(0, min(file.size, _MAX_POINTER)).decode().strip()
        except (CheckpointError, UnicodeDecodeError):
            continue
        if text.isdecimal():
            yield f"iter_{int(text):07}"
        if re.fullmatch(r"\w[\w.-]*", text):
            yield text
