"""What Python callers do with a checkpoint, whether it is a file, a URL, a state_dict or a model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, TypeAlias

from qkvinspect import analysis, inspection
from qkvinspect.analysis import Analysis
from qkvinspect.api import memory
from qkvinspect.api.findings import Findings
from qkvinspect.api.layers import Layer
from qkvinspect.arguments import Texts, texts
from qkvinspect.checkpoint import Checkpoint
from qkvinspect.diff import DiffOptions
from qkvinspect.diff import compare as compare_reports
from qkvinspect.diff.difference import Difference
from qkvinspect.errors import UsageError, clean
from qkvinspect.fast_dataclass import replace
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options
from qkvinspect.inspection.layers_by_name import LayersByName
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import LAYOUTS, Layout
from qkvinspect.progress import Progress
from qkvinspect.tabular import Tabular

if TYPE_CHECKING:
    from torch.nn import Module

    Source: TypeAlias = str | PathLike[str] | Mapping[str, object] | Module | Checkpoint
    """A path or URL, tensors by name, a model, or what was opened already."""


class OpenCheckpoint(Checkpoint, Tabular):
    """A checkpoint whose attention can be asked for; a context manager, like any open file.

    >>> import qkvinspect
    >>> with qkvinspect.open("sample_checkpoints/transformer.pt", heads=2) as checkpoint:
    ...     checkpoint.attentions
    ...     checkpoint.layer("encoder.layers.0.self_attn").heads[1].k
    <3 layers: encoder.layers.0.self_attn, decoder.layers.0.self_attn, decoder.layers.0.multihead_attn>
    <Rows encoder.layers.0.self_attn.k: [8, 16] float32>

    Attributes:
        options: the heads and the layout that it was opened with; what is derived from it remembers them.
    """

    options: Options = Options(norms=False)

    def __repr__(self) -> str:
        found = f", {len(self.attentions)} attention modules" if "attentions" in self.__dict__ else ""
        return clean(f"<OpenCheckpoint {self.path!r}: {self.format}, {len(self.tensors)} tensors{found}>")

    @cached_property
    def attentions(self) -> Mapping[str, Layer]:
        """Every attention module by its name in the file.

        Raises:
            LayoutError: an option contradicts the file.
        """
        report = inspection.inspect(self, self.options)
        layers = {attention.layer: Layer(attention, self) for attention in report.attentions}
        return LayersByName(layers, report.undecoded)

    def layer(self, name: str) -> Layer:
        """One attention module.

        Raises:
            KeyError: none is called so; it says which names are near.
        """
        return self.attentions[name]


def open(
    source: Source,
    *,
    container: str | None = None,
    config: str | PathLike[str] | Mapping[str, object] | None = None,
    heads: Texts | None = None,
    layout: str | None = None,
    limits: Mapping[str, int] | None = None,
    download: bool = False,
    base: str | PathLike[str] | None = None,
) -> OpenCheckpoint:
    """Open a file, a shard index, a directory or a URL of one; or tensors by name, or an ``nn.Module``.

    No tensor is read before it is asked for. Close the result when done, or leave that to ``with``.

    >>> import qkvinspect
    >>> with qkvinspect.open("sample_checkpoints/transformer.pt", heads="*=2") as checkpoint:
    ...     len(checkpoint.attentions), checkpoint.layer("decoder.layers.0.self_attn").q.shape
    (3, (16, 16))

    Args:
        container: which state_dict, where a file holds several (``state_dict_ema`` ...).
        config: hyper-parameters to trust before any found beside or inside the checkpoint: a file, or the values.
        heads: as --heads takes them: ``8``, ``"32/8"``, ``("12", "decoder.*=8")``, the last that fits counting.
        layout: the layout of every layer, where names do not tell it.
        limits: what to allow a file instead of what is usual for its size.
        download: fetch remote files whole, to a temporary file, rather than the ranges that are read.
        base: the model that ``source``, a LoRA adapter, is added to.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
        UsageError: the URL needs a package that is missing, or an argument has no meaning for what is opened.
    """
    if isinstance(source, (str, PathLike)):
        if isinstance(config, Mapping):
            raise UsageError("config= of a file is a file, too", hint="give its path")
        found = open_checkpoint(
            fspath(source),
            container=container,
            config=fspath(config) if config is not None else None,
            limits=limits,
            download=download,
            base=fspath(base) if base is not None else None,
        )
    else:
        if container or limits or download or base or isinstance(config, (str, PathLike)):
            raise UsageError("container, limits, download, base and a config's path are for files")
        found = _in_memory(source, config)
    opened = OpenCheckpoint(**{field.name: getattr(found, field.name) for field in fields(found)})
    given = source.options if isinstance(source, OpenCheckpoint) else Options(norms=False)
    opened.options = _also(given, heads, layout)
    return opened


def inspect(
    source: Source,
    options: Options = Options(),  # noqa: B008  (immutable)
    progress: Progress | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
    *,
    heads: Texts | None = None,
    layout: str | None = None,
) -> Report:
    """Find every attention module of a checkpoint and say which rows are Q, K and V of which head.

    The heads and the layout that the checkpoint was opened with hold here, too, unless the options say otherwise.
    What is given as a path is opened, and stays open as long as the report is kept.

    >>> import qkvinspect
    >>> report = qkvinspect.inspect("sample_checkpoints/transformer.pt", heads=2)
    >>> report
    <Report of 'sample_checkpoints/transformer.pt': 3 attention modules, 0 findings>
    >>> report.layer("encoder.layers.0.self_attn").part("k").rows
    (range(16, 32),)

    Args:
        progress: told how far the reading of the weights is.
        layouts: those to look for; all that are known, if none are given.
        heads, layout: as ``open`` takes them.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: an option contradicts the file.
        UsageError: an option has no meaning, or names no layer.
    """
    checkpoint = _opened(source)
    if isinstance(checkpoint, OpenCheckpoint):
        given = checkpoint.options
        options = replace(options, heads=(*given.heads, *options.heads), layouts=(*given.layouts, *options.layouts))
    return inspection.inspect(checkpoint, _also(options, heads, layout), progress, layouts)


def analyze(
    source: Source | Report,
    attentions: Sequence[Attention] | None = None,
    progress: Progress | None = None,
    *,
    heads: Texts | None = None,
    layout: str | None = None,
) -> Analysis:
    """Spectra, circuits and bounds on logits of every head, layer by layer.

    >>> import qkvinspect
    >>> figures = qkvinspect.analyze("sample_checkpoints/trained.safetensors", heads=4)
    >>> figures
    <Analysis of 'sample_checkpoints/trained.safetensors': 2 layers, 8 heads>
    >>> [round(head.logit_bound, 3) for head in figures[0].heads]
    [39.458, 14.726, 31.213, 35.149]

    Args:
        source: a report whose checkpoint is still open, or whatever ``inspect`` takes.
        attentions: some of the report's; None for all.
        heads, layout: as ``open`` takes them.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    report = _report(source, Options(norms=False), heads, layout)
    return Analysis(report, tuple(analysis.analyze(report, attentions, progress)))


def compare(
    a: Source | Report,
    b: Source | Report,
    options: DiffOptions = DiffOptions(),  # noqa: B008  (immutable)
    progress: Progress | None = None,
    *,
    heads: Texts | None = None,
    layout: str | None = None,
) -> Difference:
    """Compare two checkpoints layer by layer, however each of them is packed.

    >>> import qkvinspect
    >>> files = "sample_checkpoints/trained.safetensors", "sample_checkpoints/miswritten.safetensors"
    >>> found = qkvinspect.compare(*files, heads=4)
    >>> found.same, found.layers[1].relations[0].message
    (False, 'K of B is V of A')

    Args:
        a, b: reports whose checkpoints are still open, or whatever ``inspect`` takes.
        heads, layout: of both, as ``open`` takes them.

    Raises:
        CheckpointError: the bytes cannot be read.
        UsageError: an option has no meaning, or names nothing.
    """
    wanted = Options(norms=False, evidence="wanted")
    before, after = (_report(side, wanted, heads, layout) for side in (a, b))
    return compare_reports(before, after, options, progress)


def check(
    source: Source | Report,
    *,
    heads: Texts | None = None,
    layout: str | None = None,
    select: Texts = ("*",),
    ignore: Texts = (),
) -> Findings:
    """Check a checkpoint, as ``qkvinspect check`` does without settings: for tests and notebooks.

    >>> import qkvinspect
    >>> for finding in qkvinspect.check("sample_checkpoints/miswritten.safetensors", heads=4):
    ...     print(finding.severity, finding.code.value)
    error equal-parts

    Args:
        heads, layout: as ``open`` takes them.
        select, ignore: codes, or globs of codes; one, or several.

    Returns:
        a list of the findings, the most severe first; their severity is "info", "warning" or "error".

    Raises:
        CheckpointError: the file cannot be read, or not without doubt.
        UsageError: a code is not known.
    """
    from qkvinspect.checks import parse_policy, run

    wanted = parse_policy({"select": list(texts(select)), "ignore": list(texts(ignore))})
    if isinstance(source, (str, PathLike)):
        with open(source) as checkpoint:
            return check(checkpoint, heads=heads, layout=layout, select=select, ignore=ignore)
    report = _report(source, Options(evidence="each"), heads, layout)
    return Findings(report.checkpoint.path, len(report.attentions), run(report, wanted))


def _report(source: Source | Report, options: Options, heads: Texts | None, layout: str | None) -> Report:
    if isinstance(source, Report):
        if heads is not None or layout is not None:
            raise UsageError("a report has its heads and layouts already", hint="give heads= to inspect")
        return source
    return inspect(source, options, heads=heads, layout=layout)


def _opened(source: Source) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else open(source)


def _in_memory(source: Mapping[str, object] | Module | Checkpoint, config: Mapping[str, object] | None) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return memory.of_state_dict(source, config)
    if memory.is_module(source):
        return memory.of_module(source, config)
    raise UsageError(
        f"a {type(source).__name__} is nothing that can be opened",
        expected="a path, a URL, a state_dict or an nn.Module",
    )


def _also(options: Options, heads: Texts | None, layout: str | None) -> Options:
    """Options, and what was given beside them, which counts before them."""
    given = () if heads is None else texts(heads)
    every = () if layout is None else (("*", layout),)
    return replace(options, heads=(*options.heads, *given), layouts=(*options.layouts, *every))
