"""Join a model's tensors from the shares of its tensor-parallel ranks; only copies are read, to compare them.

A joined tensor is what one rank alone would hold: where each rank has a block of Q, of K and of V, all blocks of Q
come first, in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qkvinspect.checkpoint import ByteSource, Config, Share, TensorInfo
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import chunks
from qkvinspect.formats.assembled import Box
from qkvinspect.formats.config_keys import kv_heads
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.ranks.copies import are_equal, is_varied
from qkvinspect.formats.ranks.file_names import Kind
from qkvinspect.formats.ranks.shares import PARTNERS, Cut, cut_of, named
from qkvinspect.parsed import is_mapping

_TEXT = ("text_config", "llm_config", "language_config")
_SHOWN = 3


@dataclass(frozen=True)
class _Blocks:
    """A share as the blocks that it holds one after the other, along the axis that is cut.

    Attributes:
        copies: how many ranks in a row hold the same of each block.
    """

    sizes: tuple[int, ...]
    copies: tuple[int, ...]


@dataclass
class Joining:
    """Joins the tensors of ranks of one stage.

    Attributes:
        ranks: the tensors of each rank.
        tensors: the joined ones; shares: what each rank holds of each.
        copied: the weights whose kv heads were held by several ranks, by how many.
        unlike: those of them whose ranks do not hold the same.
    """

    source: ByteSource
    kind: Kind
    ranks: Sequence[Mapping[str, TensorInfo]]
    configs: Sequence[Config]
    limits: Limits
    tensors: dict[str, TensorInfo] = field(default_factory=dict[str, TensorInfo])
    shares: dict[str, tuple[Share, ...]] = field(default_factory=dict[str, tuple[Share, ...]])
    copied: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    unlike: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])
    differing: list[str] = field(default_factory=list[str])

    def join(self) -> None:
        """Join all tensors.

        Raises:
            CheckpointError: bytes that have to be compared cannot be read.
        """
        names = list(dict.fromkeys(name for rank in self.ranks for name in rank))
        for name in sorted(names, key=lambda name: named(name).leaf != "weight"):  # which say how its bias is cut
            infos = [rank[name] for rank in self.ranks if name in rank]
            if len(infos) < len(self.ranks):
                self._only_on_some(name, infos)
                continue
            cut = cut_of(name, self.kind, self._version)
            if cut == "rows or whole":
                cut = "whole" if self._is_whole(name, infos) else "rows"
            if cut == "whole" or len(infos) == 1:
                self._keep_one(name, infos)
            elif cut == "unknown":
                self._if_equal(name, infos)
            else:
                self._put_together(name, infos, cut)
        self.tensors = {name: self.tensors[name] for name in names if name in self.tensors}

    def findings(self) -> Iterator[Finding]:
        """The findings about joining."""
        if self.left:
            text = "how the ranks share it is unknown" if len(self.left) == 1 else "how they share them is unknown"
            yield Finding(FindingCode.RANKS_NOT_JOINED, f"{_listed(self.left)}: {text}, left out")
        if self.differing:
            text = "should be the same on every rank and differs: that of rank 0 was taken"
            yield Finding(FindingCode.RANKS_DIFFER, f"{_listed(self.differing)} {text}")
        for copies, names in self.copied.items():
            same = [name for name in names if name not in self.unlike]
            odd = [name for name in names if name in self.unlike]
            held = f"each kv head is held by {copies} ranks"
            if odd:
                text = f"{_listed(odd)}: {held}, which should hold the same and differ: that of the first was taken"
                yield Finding(FindingCode.RANKS_DIFFER, text)
            if same:
                text = f"{_listed(same)}: {held}, which hold the same: one copy was kept"
                yield Finding(FindingCode.KV_HEADS_COPIED, text)

    @property
    def _version(self) -> object:
        key = "checkpoint_version"
        return next((config.values[key] for config in self.configs if key in config.values), None)

    def _only_on_some(self, name: str, infos: Sequence[TensorInfo]) -> None:
        """A bias that only rank 0 adds, a buffer: kept where it is not cut."""
        cut = cut_of(name, self.kind, self._version)
        if cut in ("whole", "unknown") and are_equal(infos):
            self.tensors[name] = infos[0]
        else:
            self.left.append(name)

    def _keep_one(self, name: str, infos: Sequence[TensorInfo]) -> None:
        self.tensors[name] = infos[0]
        if not name.endswith("_extra_state") and not are_equal(infos):
            self.differing.append(name)

    def _is_whole(self, name: str, infos: Sequence[TensorInfo]) -> bool:
        """Whether each rank has all of what compresses the inputs of latent attention, as Transformer Engine's layer
        does, and not a share of it as Megatron's own (megatron/core/transformer/multi_latent_attention.py).
        """
        module = named(name).module
        reads = self.ranks[0].get(f"{module.replace('_down_', '_up_')}.weight")
        return reads is None or len(infos[0].shape) < 2 or infos[0].shape[0] >= reads.shape[-1]

    def _if_equal(self, name: str, infos: Sequence[TensorInfo]) -> None:
        if are_equal(infos):
            self.tensors[name] = infos[0]
        else:
            self.left.append(name)

    def _put_together(self, name: str, infos: Sequence[TensorInfo], cut: Cut) -> None:
        axis = self._axis(name, infos, cut)
        if axis is None:  # one scale for all of it, or one for each of the rows that every rank has
            self._if_equal(name, infos)
            return
        blocks = self._blocks(name, infos, cut, axis)
        if blocks is None:
            self.left.append(name)
            return
        try:
            self.tensors[name], self.shares[name] = self._joined(name, infos, axis, blocks)
        except CheckpointError:
            self.left.append(name)
            self.shares.pop(name, None)
            return
        copies = max(blocks.copies)
        if copies > 1 and named(name).leaf == "weight":
            self.copied.setdefault(copies, []).append(name)

    def _axis(self, name: str, infos: Sequence[TensorInfo], cut: Cut) -> int | None:
        """The axis along which the shares lie; None where there is none."""
        dims = len(infos[0].shape)
        leaf = named(name).leaf
        if leaf.startswith("weight_scale"):
            wanted = dims - 1 if cut == "columns" else 0
            return wanted if dims and infos[0].shape[wanted] > 1 and (cut != "columns" or dims > 1) else None
        if leaf == "bias" or dims < 2:
            return 0 if dims == 1 else None
        if self._is_embedding_by_columns(name, infos):
            return dims - 1
        return dims - 1 if cut == "columns" else dims - 2

    def _is_embedding_by_columns(self, name: str, infos: Sequence[TensorInfo]) -> bool:
        """Llama's first releases cut the embedding, not the vocabulary."""
        if not named(name).module.endswith("tok_embeddings"):
            return False
        norm = next((info for key, info in self.ranks[0].items() if "norm" in key and len(info.shape) == 1), None)
        return norm is not None and infos[0].shape[-1] * len(infos) == norm.shape[0]

    def _blocks(self, name: str, infos: Sequence[TensorInfo], cut: Cut, axis: int) -> _Blocks | None:
        """The blocks of a share; None where nothing tells them."""
        size, is_weight = infos[0].shape[axis], named(name).leaf == "weight"
        if cut == "copies of k, v":
            copies = self._copies(name, infos, [0], [size], axis) if is_weight else self._copies_of_weight(name)
            return _Blocks((size,), (copies,))
        if cut not in PARTNERS:
            return _Blocks((size,), (1,))
        whole = self._rows_of(name)
        inner = self._read_by_partner(name, cut)
        if whole is None or any(info.shape[axis] != size for info in infos):
            return None
        if cut == "two blocks":
            if named(name).module.rpartition(".")[2] not in ("gate_up_proj", "w13") and inner != whole // 2:
                return _Blocks((size,), (1,)) if inner == whole else None
            return None if size % 2 else _Blocks((size // 2, size // 2), (1, 1))
        if inner is None or inner >= whole or (whole - inner) % 2:
            return None
        rows = (inner, (whole - inner) // 2, (whole - inner) // 2)
        if any(part * size % whole for part in rows):
            return None
        sizes = tuple(part * size // whole for part in rows)
        starts = (sizes[0], sizes[0] + sizes[1])
        copies = self._copies(name, infos, starts, sizes[1:], axis) if is_weight else self._copies_of_weight(name)
        return _Blocks(sizes, (1, copies, copies))

    def _rows_of(self, name: str) -> int | None:
        """How many rows the weight has that a bias or a scale belongs to."""
        module, first = named(name).module, self.ranks[0]
        found = first.get(f"{module}.weight") or first.get(f"{module}_weight")
        return found.shape[-2] if found is not None and len(found.shape) > 1 else None

    def _read_by_partner(self, name: str, cut: Cut) -> int | None:
        """How many columns of a share the layer has that reads what this one computes."""
        parent = named(name).module.rpartition(".")[0]
        for partner in PARTNERS[cut]:
            for key in (f"{parent}.{partner}.weight", f"{parent}.{partner}_weight"):
                info = self.ranks[0].get(key)
                if info is not None and len(info.shape) > 1:
                    return info.shape[-1]
        return None

    def _copies_of_weight(self, name: str) -> int:
        """How many ranks hold the same kv head, as the weight beside a bias or a scale says."""
        module = named(name).module
        for copies, names in self.copied.items():
            if any(named(weight).module == module for weight in names):
                return copies
        return 1

    def _copies(
        self, name: str, infos: Sequence[TensorInfo], starts: Sequence[int], sizes: Sequence[int], axis: int
    ) -> int:
        """How many ranks in a row hold the same rows of K and V: as a config says, else as the bytes do."""
        parts = [[_part(info, axis, start, size) for info in infos] for start, size in zip(starts, sizes, strict=True)]
        count, said = len(infos), self._kv_heads()
        if said is not None:
            copies = count // said if count % said == 0 else 1
            if not all(map(are_equal, _runs(parts, max(copies, 1)))):
                self.unlike.append(name)
            return max(copies, 1)
        for copies in (n for n in range(count, 1, -1) if count % n == 0):
            if all(is_varied(run[0]) and are_equal(run) for run in _runs(parts, copies)):
                return copies
        return 1

    def _kv_heads(self) -> int | None:
        """The number of kv heads that the ranks' config gives."""
        for config in self.configs:
            places: list[object] = [dict(config.values), *(config.values.get(key) for key in _TEXT)]
            for place in places:
                said = kv_heads(place) if is_mapping(place) else None
                if said is not None:
                    return said
        return None

    def _joined(
        self, name: str, infos: Sequence[TensorInfo], axis: int, blocks: _Blocks
    ) -> tuple[TensorInfo, tuple[Share, ...]]:
        """The whole tensor, and where each rank's share lies in it.

        Raises:
            CheckpointError: the shares do not fit together.
        """
        boxes: list[Box] = []
        shares: list[Share] = []
        at = local = 0
        for index, copies in enumerate(blocks.copies):
            for rank in range(0, len(infos), copies):
                info = infos[rank]
                alone = len(blocks.sizes) == 1
                size = info.shape[axis] if alone else blocks.sizes[index]
                part = _part(info, axis, local, size)
                corner = tuple(at if place == axis else 0 for place in range(len(info.shape)))
                boxes.append(Box(corner, part.shape, info.region, lambda part=part: part))
                shares.append(Share(rank, axis, at, at + size, local, copies))
                at += size
            local += blocks.sizes[index]
        first = infos[0]
        shape = tuple(at if place == axis else size for place, size in enumerate(first.shape))
        if any(info.dtype != first.dtype or len(info.shape) != len(first.shape) for info in infos):
            raise CheckpointError(
                "ranks hold it in several dtypes", file=self.source.name, tensor=name, code=Code.RANKS
            )
        if first.dtype.bits % 8:
            raise CheckpointError("a byte holds several numbers", file=self.source.name, tensor=name, code=Code.RANKS)
        joined = chunks.assembled(self.source, name, name, first.dtype, shape, boxes, self.limits)
        return joined, tuple(shares)


def _runs(parts: Sequence[Sequence[TensorInfo]], copies: int) -> list[Sequence[TensorInfo]]:
    """The shares that would be copies of each other."""
    return [part[first : first + copies] for part in parts for first in range(0, len(part), copies)]


def _part(info: TensorInfo, axis: int, start: int, size: int) -> TensorInfo:
    """Some of a tensor along one axis."""
    shape = tuple(size if place == axis else whole for place, whole in enumerate(info.shape))
    return replace(info, shape=shape, offset=info.offset + start * info.strides[axis])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
