"""Q, K, V and the output projection of a layer as arrays: nothing is read before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError, clean
from qkvinspect.export.parts import StoredPart, source_of, writable
from qkvinspect.export.pieces import OutputTensor, RowRun, contents, spans
from qkvinspect.export.row_runs import count, merged, weight_of
from qkvinspect.inspection.report import Attention
from qkvinspect.tabular import Tabular

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True, repr=False)
class Rows:
    """Q, K, V or the output projection of a layer or of one head, as nn.Linear would store it.

    It is taken wherever numpy takes an array, and sliced as one.

    Attributes:
        bias: that of the same rows, or None.
        columns: those that count, where a head of the output projection reads only some.
    """

    piece: OutputTensor
    bias: Rows | None = None
    columns: range | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in]; [out] of a bias."""
        return self.piece.shape if self.columns is None else (self.piece.shape[0], len(self.columns))

    @property
    def ndim(self) -> int:
        return len(self.piece.shape)

    @property
    def dtype(self) -> str:
        """The stored dtype, by torch's name."""
        return self.piece.dtype.name

    def __repr__(self) -> str:
        return clean(f"<Rows {self.piece.name}: {list(self.shape)} {self.dtype}>")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """As numpy slices the values, which are read for it."""
        return self.numpy()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The values, for whatever takes an array.

        Raises:
            ValueError: ``copy`` is False: the values are read anew each time.
        """
        if copy is False:
            raise ValueError("the values are read from a file: they cannot be had without a copy")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    def numpy(self) -> NDArray[Any]:
        """The values; those of a dtype that numpy does not have (bfloat16, float8) as float32, which holds them all.

        Raises:
            CheckpointError: the bytes cannot be read.
            LayoutError: the stored bits stand for no numbers by themselves (quantised).
        """
        import numpy as np

        from qkvinspect.weights.reading import numbers, stored_words

        dtype, data = self.piece.dtype, b"".join(contents(spans(self.piece)))
        if dtype.kind == "opaque":
            raise LayoutError(f"{dtype.name} is no number without its scales", tensor=self.piece.name)
        if dtype.mini is None and dtype.name != "complex32":
            return self._chosen(np.frombuffer(bytearray(data), np.dtype(dtype.name)).reshape(self.piece.shape))
        words = np.frombuffer(data, stored_words(dtype, max(dtype.bits, 8)))
        values = numbers(words.reshape(self.piece.shape[0], -1), dtype)
        whole = values[0] if len(values) == 1 else values[0] + 1j * values[1]
        return self._chosen(whole.reshape(*self.piece.shape[:-1], -1))

    def torch(self) -> Tensor:
        """The very bits, as a tensor of the stored dtype.

        Raises:
            CheckpointError: the bytes cannot be read.
            LayoutError: torch has no such dtype.
        """
        from qkvinspect.weights.to_torch import to_torch

        data = bytearray(b"".join(contents(spans(self.piece))))
        return self._chosen(to_torch(data, self.piece.dtype, self.piece.shape, self.piece.name))

    def _chosen(self, whole: Any) -> Any:
        """The columns that count, of an array or a tensor."""
        return whole if self.columns is None else whole[:, self.columns.start : self.columns.stop]


@dataclass(frozen=True, slots=True, repr=False)
class HeadRows:
    """One query head: its rows of Q, those of K and V that it uses, and what reads it.

    Attributes:
        out: the columns of the output projection that read this head; None where none is stored or they cannot
            be told.
    """

    head: int
    q: Rows
    k: Rows
    v: Rows
    out: Rows | None = None

    def __repr__(self) -> str:
        parts = [(name, getattr(self, name)) for name in ("q", "k", "v", "out")]
        shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in parts if part is not None)
        return f"<HeadRows {self.head}: {shapes}>"


@dataclass(frozen=True, repr=False)
class Layer(Tabular):
    """One attention module.

    >>> import numpy, qkvinspect
    >>> layer = qkvinspect.open("sample_checkpoints/sharded").layer("model.layers.0.self_attn")
    >>> layer
    <Layer 'model.layers.0.self_attn': q [16, 16], k [8, 16], v [8, 16]>
    >>> layer.heads[3]
    <HeadRows 3: q [4, 16], k [4, 16], v [4, 16], out [16, 4]>
    >>> numpy.linalg.norm(layer.q).dtype, layer.k[:2].shape
    (dtype('float32'), (2, 16))

    Attributes:
        report: what inspection says of it.
        checkpoint: what it is a layer of.
    """

    report: Attention
    checkpoint: Checkpoint

    def __repr__(self) -> str:
        shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in self.report.parts)
        return clean(f"<Layer {self.layer!r}: {shapes or 'parts unknown'}>")

    @property
    def layer(self) -> str:
        """The module's name in the file."""
        return self.report.layer

    @cached_property
    def _source(self) -> StoredPart:
        return source_of(self.report, DTYPES["float32"])

    @property
    def q(self) -> Rows:
        """The query projection, [out, in]."""
        return self._part("q")

    @property
    def k(self) -> Rows:
        """The key projection, [out, in]."""
        return self._part("k")

    @property
    def v(self) -> Rows:
        """The value projection, [out, in]."""
        return self._part("v")

    @property
    def out(self) -> Rows:
        """The output projection, [out, in]: its columns read the heads of V side by side.

        Raises:
            LayoutError: the layer has none.
        """
        output = self.report.output
        if output is None:
            raise LayoutError(f"layer {self.layer!r} has no output projection")
        weight = writable(output.weight, self.layer, DTYPES["float32"])
        rows, _ = weight.as_shape(output.orientation)
        name, every = self._named("out"), range(rows)
        bias = Rows(_piece(f"{name}.bias", (RowRun(every, output.bias),))) if output.bias is not None else None
        return Rows(_piece(name, (RowRun(every, weight, output.orientation),), matrix=True), bias)

    @cached_property
    def heads(self) -> tuple[HeadRows, ...]:
        """One for each query head; where several share K and V, each has those that it uses.

        Raises:
            LayoutError: the number of heads is unknown.
        """
        if self._source.heads is None:
            raise LayoutError(f"layer {self.report.layer!r} has an unknown number of heads", hint="open it with heads=")
        heads = self._source.heads[0]
        return tuple(self._head(head, heads) for head in range(heads))

    def _head(self, head: int, heads: int) -> HeadRows:
        q, k, v = (self._part(part, (head, heads)) for part in ("q", "k", "v"))
        return HeadRows(head, q, k, v, self._read_by(head, heads))

    def _named(self, part: str) -> str:
        """What it is called; a state_dict of one module alone gives that no name."""
        return f"{self.layer}.{part}".removeprefix(".")

    def _part(self, part: str, head: tuple[int, int] | None = None) -> Rows:
        source = self._source
        if part not in source.weights:
            raise LayoutError(f"layer {source.layer!r} holds no {part.upper()} of its own")
        name, runs = self._named(part), source.biases.get(part)
        bias = Rows(_piece(f"{name}.bias", _share(runs, head))) if runs else None
        return Rows(_piece(name, _share(source.weights[part], head), matrix=True), bias)

    def _read_by(self, head: int, heads: int) -> Rows | None:
        """The columns of the output projection that read a head, without its bias, which is no head's."""
        output = self.report.output
        if output is None or output.weight.why or len(output.heads) != heads:
            return None
        return Rows(self.out.piece, columns=output.heads[head])


def _share(runs: tuple[RowRun, ...], head: tuple[int, int] | None) -> tuple[RowRun, ...]:
    """All rows of a part, or those that one of so many query heads uses."""
    if head is None:
        return merged(runs)
    index, heads = head
    if len(runs) >= heads:  # differential attention has several of its own for each head
        each = len(runs) // heads
        return merged(runs[index * each : (index + 1) * each])
    return (runs[index * len(runs) // heads],)


def _piece(name: str, runs: tuple[RowRun, ...], *, matrix: bool = False) -> OutputTensor:
    weight = weight_of(runs)
    shape = (count(runs), weight.as_shape(runs[0].orientation)[1]) if matrix else (count(runs),)
    return OutputTensor(name, shape, weight.dtype, runs)
