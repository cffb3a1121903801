"""Q, K and V of an opened checkpoint as arrays: nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkvinspect import inspection
from qkvinspect.checkpoint import Checkpoint
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError, clean
from qkvinspect.export.parts import StoredPart, source_of
from qkvinspect.export.pieces import OutputTensor, RowRun, contents, spans
from qkvinspect.export.row_runs import count, merged, weight_of
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, for_all
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import LAYOUTS, Layout
from qkvinspect.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True, repr=False)
class Rows:
    """Q, K or V of a layer or of one head, [out, in] as nn.Linear would store it.

    Attributes:
        bias: the bias of the same rows, or None.
    """

    piece: OutputTensor
    bias: Rows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in]; [out] of a bias."""
        return self.piece.shape

    @property
    def dtype(self) -> str:
        """The stored dtype, by torch's name."""
        return self.piece.dtype.name

    def __repr__(self) -> str:
        return clean(f"<Rows {self.piece.name}: {list(self.shape)} {self.dtype}>")

    def __getitem__(self, key: Any) -> Any:
        """Slice the values as numpy does; this reads them."""
        return self.numpy()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The values, for functions that take an array."""
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    def numpy(self) -> NDArray[Any]:
        """The values; those of a dtype that numpy does not have (bfloat16, float8) as float32, which holds them all.

        Raises:
            CheckpointError: the bytes cannot be read.
            LayoutError: the weight is quantised in a way that is not decoded.
        """
        import numpy as np

        from qkvinspect.weights.reading import numbers, stored_words

        dtype, data = self.piece.dtype, b"".join(contents(spans(self.piece)))
        if dtype.kind == "opaque":
            raise LayoutError(f"{dtype.name} is no number without its scales", tensor=self.piece.name)
        if dtype.mini is None and dtype.name != "complex32":
            return np.frombuffer(bytearray(data), np.dtype(dtype.name)).reshape(self.shape)
        words = np.frombuffer(data, stored_words(dtype, max(dtype.bits, 8)))
        values = numbers(words.reshape(self.shape[0], -1), dtype)
        whole = values[0] if len(values) == 1 else values[0] + 1j * values[1]
        return whole.reshape(*self.shape[:-1], -1)

    def torch(self) -> Tensor:
        """The stored bits, unchanged, as a torch tensor of the stored dtype.

        Raises:
            CheckpointError: the bytes cannot be read.
            LayoutError: torch has no such dtype.
        """
        from qkvinspect.weights.to_torch import to_torch

        data = bytearray(b"".join(contents(spans(self.piece))))
        return to_torch(data, self.piece.dtype, self.shape, self.piece.name)


@dataclass(frozen=True, slots=True)
class Parts:
    """Q, K and V of a layer, or of one of its heads."""

    q: Rows
    k: Rows
    v: Rows


@dataclass(frozen=True, repr=False)
class Layer:
    """One attention module.

    Attributes:
        report: what inspection says of it.
    """

    report: Attention

    def __repr__(self) -> str:
        shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in self.report.parts)
        return clean(f"<Layer {self.layer!r}: {shapes}>")

    @property
    def layer(self) -> str:
        """The module's name in the file."""
        return self.report.layer

    @cached_property
    def _source(self) -> StoredPart:
        return source_of(self.report, DTYPES["float32"])

    @property
    def q(self) -> Rows:
        return self._part("q")

    @property
    def k(self) -> Rows:
        return self._part("k")

    @property
    def v(self) -> Rows:
        return self._part("v")

    @cached_property
    def heads(self) -> tuple[Parts, ...]:
        """The query heads, each with the K and V that it uses; several may share the same ones.

        Raises:
            LayoutError: the number of heads is unknown.
        """
        if self._source.heads is None:
            raise LayoutError(f"layer {self.report.layer!r} has an unknown number of heads", hint="open it with heads=")
        heads = self._source.heads[0]
        return tuple(Parts(*(self._part(part, (head, heads)) for part in ("q", "k", "v"))) for head in range(heads))

    def _part(self, part: str, head: tuple[int, int] | None = None) -> Rows:
        source = self._source
        if part not in source.weights:
            raise LayoutError(f"layer {source.layer!r} holds no {part.upper()} of its own")
        name, runs = f"{source.layer}.{part}", source.biases.get(part)
        bias = Rows(_piece(f"{name}.bias", _share(runs, head))) if runs else None
        return Rows(_piece(name, _share(source.weights[part], head), matrix=True), bias)


class LayersByName(dict[str, Layer]):
    """The layers of a checkpoint by name; an unknown name raises a KeyError that suggests similar ones."""

    def __repr__(self) -> str:
        return clean(f"<{len(self)} layers: {', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''}>")

    def __missing__(self, name: str) -> Layer:
        from difflib import get_close_matches

        near = get_close_matches(name, list(self)) or list(self)[:3]
        raise KeyError(f"no layer {name!r}; there is {', '.join(near) or 'none'}")


class OpenCheckpoint(Checkpoint):
    """A checkpoint whose attention can be asked for; a context manager, like any open file.

    Attributes:
        options: the heads and the layout that it was opened with.
    """

    options: Options = Options(norms=False)

    def __repr__(self) -> str:
        return clean(f"<OpenCheckpoint {self.path}: {self.format}, {len(self.tensors)} tensors>")

    @cached_property
    def attentions(self) -> Mapping[str, Layer]:
        """Every attention module by its name in the file.

        >>> import qkvinspect
        >>> with qkvinspect.open("sample_checkpoints/sharded") as checkpoint:
        ...     attention = checkpoint.attentions["model.layers.0.self_attn"]
        ...     attention.q.shape, attention.heads[3].k.shape, attention.heads[3].k.numpy().dtype
        ((16, 16), (4, 16), dtype('float32'))

        Raises:
            LayoutError: an option contradicts the file.
        """
        found = inspection.inspect(self, self.options).attentions
        return LayersByName({attention.layer: Layer(attention) for attention in found})


def open(
    path: str | Path,
    *,
    container: str | None = None,
    config: str | Path | None = None,
    heads: str | int | None = None,
    layout: str | None = None,
    limits: Mapping[str, int] | None = None,
    download: bool = False,
    base: str | Path | None = None,
) -> OpenCheckpoint:
    """Open a file, a shard index, a directory, or a URL of one. No tensor is read; close the result when done.

    Args:
        container: which state_dict, where a file holds several (``state_dict_ema`` ...).
        config: hyper-parameters to trust before any found beside or inside the checkpoint.
        heads: the number of heads of every layer, ``8`` or ``32/8``, where nothing in the file tells it.
        layout: the layout of every layer, where names do not tell it.
        limits: what to allow a file instead of what is usual for its size.
        download: fetch remote files whole, to a temporary file, rather than the ranges that are read.
        base: the model that ``path``, a LoRA adapter, is added to.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
        UsageError: the URL needs a package that is missing.
    """
    found = open_checkpoint(path, container=container, config=config, limits=limits, download=download, base=base)
    opened = OpenCheckpoint(**{field.name: getattr(found, field.name) for field in fields(found)})
    opened.options = for_all(heads, layout)
    return opened


def inspect(
    checkpoint: Checkpoint,
    options: Options = Options(),  # noqa: B008  (immutable)
    progress: Progress | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Report:
    """Find every attention module of a checkpoint and say which rows are Q, K and V of which head.

    The heads and the layout that the checkpoint was opened with hold here, too, unless the options say otherwise.

    Args:
        progress: told how far the reading of the weights is.
        layouts: those to look for; all that are known, if none are given.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: an option contradicts the file.
        UsageError: an option has no meaning, or names no layer.
    """
    if isinstance(checkpoint, OpenCheckpoint):
        given = checkpoint.options
        options = replace(options, heads=(*given.heads, *options.heads), layouts=(*given.layouts, *options.layouts))
    return inspection.inspect(checkpoint, options, progress, layouts)


def _share(runs: tuple[RowRun, ...], head: tuple[int, int] | None) -> tuple[RowRun, ...]:
    """All rows of a part, or those that one query head uses."""
    if head is None:
        return merged(runs)
    index, heads = head
    if len(runs) >= heads:  # differential attention has several heads of Q for each head of the module
        each = len(runs) // heads
        return merged(runs[index * each : (index + 1) * each])
    return (runs[index * len(runs) // heads],)


def _piece(name: str, runs: tuple[RowRun, ...], *, matrix: bool = False) -> OutputTensor:
    weight = weight_of(runs)
    shape = (count(runs), weight.as_shape(runs[0].orientation)[1]) if matrix else (count(runs),)
    return OutputTensor(name, shape, weight.dtype, runs)
