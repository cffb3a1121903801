"""The types that all other modules share: byte sources, tensors, checkpoints. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from math import prod
from types import TracebackType
from typing import Literal, Protocol, Self

from qkvinspect.computed_rows import Computed
from qkvinspect.dtypes import DType
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.findings import Finding

BLOCK = 8 << 20
"""Bytes read at a time."""

ByteOrder = Literal["little", "big", "unknown"]  # unknown only where blocks' scales do not tell
Orientation = Literal["out_in", "in_out", "in_heads_dim"]
"""A stored weight's axes: ``nn.Linear``'s and 1x1 convolutions', GPT-2 Conv1D's, XLNet's [in, num_heads, head_dim]."""
Role = Literal["model", "ema", "optimizer"]

Loader = Literal["torch", "safetensors", "distributed", "distributed-safetensors", "gguf", "onnx", "memory"]
"""What loads such a file into Python: torch.load, safetensors, or torch.distributed.checkpoint, for folders of its own
files and of safetensors; ``memory``: it was given by a Python program."""


class ByteSource(Protocol):
    """Where bytes come from. Formats are given one and never open a file themselves."""

    @property
    def name(self) -> str:
        """The path, as a person would type it."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; CheckpointError if they are not there."""
        ...

    def relative(self, name: str) -> ByteSource:
        """A file beside this one, or below its folder; CheckpointError if the name leaves it."""
        ...

    def siblings(self) -> tuple[str, ...]:
        """Names of the regular files beside this one, sorted; empty where that cannot be known."""
        ...

    def check(self) -> None:
        """Make sure that it still is what was opened; CheckpointError if it was changed or replaced."""
        ...

    def close(self) -> None: ...


class Extent(NamedTuple):
    """Bytes of a file, from ``start`` to before ``stop``."""

    source: ByteSource
    start: int
    stop: int


class Region:
    """A run of bytes in a source: the storage behind one or more tensors.

    Args:
        start: the offset of the first byte, or a function that finds it when first asked (which may cost a read).

    Attributes:
        checked: whether ``check`` has nothing left to do.
    """

    __slots__ = ("_start", "nbytes", "source")
    checked = True

    def __init__(self, source: ByteSource, start: int | Callable[[], int], nbytes: int) -> None:
        self.source = source
        self.nbytes = nbytes
        self._start = start

    @property
    def start(self) -> int:
        """Offset of the first byte in the source."""
        if not isinstance(self._start, int):
            self._start = self._start()
        return self._start

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Everything that is read when any of the bytes is asked for; known without reading."""
        return (Extent(self.source, self.start, self.start + self.nbytes),)

    def check(self) -> None:
        """Verify the bytes against the checksum that the file has of them, if it has one, before any of them is used.

        Raises:
            CheckpointError: they differ.
        """

    def part(self, offset: int, nbytes: int) -> Region:
        """A part of the region, checked like the whole."""
        return _RegionPart(self, offset, nbytes)

    def place(self, offset: int) -> tuple[ByteSource, int] | None:
        """The file and position of the byte at ``offset``; None where the region is not one run of bytes.

        Raises:
            CheckpointError: they are not those that were written.
        """
        self.check()
        return self.source, self.start + offset

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` within the region; the caller stays inside it."""
        self.check()
        return self.source.read(self.start + offset, length)


class _RegionPart(Region):
    def __init__(self, whole: Region, offset: int, nbytes: int) -> None:
        super().__init__(whole.source, lambda: whole.start + offset, nbytes)
        self._whole = whole
        self._offset = offset

    @property
    def extents(self) -> tuple[Extent, ...]:
        return self._whole.extents

    def place(self, offset: int) -> tuple[ByteSource, int] | None:
        return self._whole.place(self._offset + offset)

    def read(self, offset: int, length: int) -> bytes:
        return self._whole.read(self._offset + offset, length)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as a view of bytes; nothing of it has been read.

    Attributes:
        name: the key in the state_dict, as stored.
        shape: sizes, in elements.
        strides: steps between neighbours along each axis, in elements.
        region: the storage; several tensors may share one.
        offset: elements between the storage's first byte and the tensor's first element.
        byteorder: of multi-byte elements in the file.
        keys: how to reach it in the unpickled object, key by key; empty where it has no such path.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    region: Region
    offset: int = 0
    byteorder: ByteOrder = "little"
    keys: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's own elements, not of its storage."""
        return self.dtype.nbytes(self.numel)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return 0 in self.shape or all(
            size == 1 or stride == expected
            for size, stride, expected in zip(self.shape, self.strides, contiguous_strides(self.shape), strict=True)
        )


@lru_cache(1 << 12)
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements, as torch computes them (a size of 0 counts as 1)."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters that came with a checkpoint, as plain Python values.

    Attributes:
        origin: ``config:<file>`` beside the checkpoint, or ``checkpoint:<key>`` inside it.
        inside: whether it lies inside the checkpoint, so that it cannot be the config of another one.
        outermost: whether its values are beside the state_dict itself, not below a key.
        silent_on: weights of whose heads it says nothing, whatever it says of others.
    """

    origin: str
    values: Mapping[str, object]
    inside: bool = False
    outermost: bool = False
    silent_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Container:
    """A state_dict found inside a checkpoint; ``path`` is "" for the root."""

    path: str
    num_tensors: int
    role: Role


class Share(NamedTuple):
    """The share of a tensor that one rank of tensor parallelism holds.

    Attributes:
        axis: of the tensor, along which it is shared out.
        start, stop: of the whole tensor, along that axis.
        local: where that begins in the rank's own tensor.
        copies: how many ranks, from this one on, hold the same.
    """

    rank: int
    axis: int
    start: int
    stop: int
    local: int
    copies: int = 1


@dataclass(slots=True)
class Checkpoint:
    """An opened checkpoint: its tensors by name, and everything that helps to interpret them.

    Attributes:
        tensors: of the chosen state_dict, in the order of the file.
        container: where in the file that state_dict was found; "" for the root.
        containers: all that were found.
        metadata: string pairs that the format itself carries.
        configs: the most trusted first.
        modules: integer attributes (``num_heads`` ...) of the modules in a pickled nn.Module.
        findings: what reading noticed.
        source: the file that was opened; None where there is none.
        loader: what else can load it; None where nothing is known to.
        settled: whether changes of the file no longer matter, because everything has been read.
        sorted_names: whether its writer sorts tensors by name, as text: layer 10 before layer 2.
        shares: by tensor, which rank of tensor parallelism holds what of it, where rank files were joined.
        packed: (glob of a layer, id of its layout), where the writer packs otherwise than the tensor's name suggests.
        adapter: what is added to its weights; closed with this one. computed: attention as the file's graph has it.
    """

    path: str
    format: str
    num_bytes: int
    tensors: Mapping[str, TensorInfo]
    num_files: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    configs: tuple[Config, ...] = ()
    modules: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    container: str = ""
    containers: tuple[Container, ...] = ()
    findings: tuple[Finding, ...] = ()
    resources: ExitStack = field(default_factory=ExitStack, repr=False)
    source: ByteSource | None = field(default=None, repr=False)
    loader: Loader | None = None
    sorted_names: bool = False
    shares: Mapping[str, tuple[Share, ...]] = field(default_factory=dict[str, tuple[Share, ...]], repr=False)
    packed: tuple[tuple[str, str], ...] = ()
    adapter: Checkpoint | None = None
    computed: tuple[Computed, ...] = ()
    settled: bool = False

    def check(self) -> None:
        """Verify that the file was neither changed nor replaced since it was opened.

        Raises:
            CheckpointError: it was, so what has been read may come from two different files.
        """
        if self.source is not None:
            self.source.check()
        if self.adapter is not None:
            self.adapter.check()

    def settle(self) -> None:
        """Check one last time, just before the output gets its name; nothing is read afterwards.

        Raises:
            CheckpointError: it was changed or replaced.
        """
        self.check()
        self.settled = True

    def close(self) -> None:
        """Close every file. Tensors can no longer be read after this."""
        self.resources.close()
        if self.adapter is not None:
            self.adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.settled and (error is None or isinstance(error, CheckpointError)):
                self.check()
        finally:
            self.close()
