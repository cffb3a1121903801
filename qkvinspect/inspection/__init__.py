"""From a checkpoint to a report: find the modules, infer the heads, measure the rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from qkvinspect.arguments import Texts, texts
from qkvinspect.checkpoint import Checkpoint
from qkvinspect.errors import LayoutError, UsageError, did_you_mean
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.garbage import none_collected
from qkvinspect.inspection import adapters_and_wrappers, match
from qkvinspect.inspection.accounting import account
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.computed import Computed
from qkvinspect.inspection.facts.flags import parse_flag, unused
from qkvinspect.inspection.facts.heads import Sources
from qkvinspect.inspection.facts.models_apart import each_of_its_own
from qkvinspect.inspection.head_lists import with_lists
from qkvinspect.inspection.in_order import by_numbers
from qkvinspect.inspection.match import Asked
from qkvinspect.inspection.misfit import WHERE_NAMES_ARE, cannot, why_shapes
from qkvinspect.inspection.module import Module
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_emptiness, about_inputs, about_numbers, about_values
from qkvinspect.inspection.ranks import with_ranks
from qkvinspect.inspection.repeated import RepeatedAttention, like, of_each
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.inspection.saved_modules import about_copies, as_used, trained_copies
from qkvinspect.inspection.telling import Telling
from qkvinspect.layouts import LAYOUTS, Layout, require_known
from qkvinspect.layouts.partial import bare, partial
from qkvinspect.progress import Progress
from qkvinspect.weights.adapters import is_update
from qkvinspect.weights.encodings import Weights, weights_of


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at and what to take as given.

    >>> import qkvinspect
    >>> options = qkvinspect.Options(heads=("2", "decoder.*=4"), layers="*.self_attn", norms=False)
    >>> report = qkvinspect.inspect("sample_checkpoints/transformer.pt", options)
    >>> [(one.layer, one.heads.num_heads) for one in report.attentions]
    [('encoder.layers.0.self_attn', 2), ('decoder.layers.0.self_attn', 4)]

    Attributes:
        heads: values of --heads; the last one that matches a layer counts.
        layouts: values of --layout, as (layer glob, layout id); each must fit somewhere.
        settled: the same from the settings, which are for many checkpoints, so that they need not fit.
        told: layouts that the settings describe; told_now: those of the command line, which must fit somewhere.
        layers: globs; only layers that match one are reported. None or empty: all.
        norms: whether to read the weights and measure them.
        evidence: whether heads and packing are inferred from the weights: never; where nothing else tells them (with a
        quick check where something does); thoroughly for every stack of layers; or so, and for each layer alone.
    """

    heads: tuple[str, ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    layers: tuple[str, ...] = ()
    norms: bool = True
    evidence: Literal["none", "wanted", "thorough", "each"] = "none"
    settled: tuple[tuple[str, str], ...] = ()
    told: tuple[Layout, ...] = ()
    told_now: tuple[Layout, ...] = ()

    def __init__(
        self,
        heads: Texts = (),
        layouts: str | Iterable[tuple[str, str]] = (),
        layers: Texts = (),
        norms: bool = True,
        evidence: Literal["none", "wanted", "thorough", "each"] = "none",
        settled: tuple[tuple[str, str], ...] = (),
        told: tuple[Layout, ...] = (),
        told_now: tuple[Layout, ...] = (),
    ) -> None:
        """A single text is allowed: ``heads="8"``, ``layers="encoder.*"``, and ``layouts="gpt2"`` for all layers."""
        object.__setattr__(self, "heads", texts(heads))
        object.__setattr__(self, "layouts", (("*", layouts),) if isinstance(layouts, str) else tuple(layouts))
        object.__setattr__(self, "layers", texts(layers))
        object.__setattr__(self, "norms", norms)
        object.__setattr__(self, "evidence", evidence)
        object.__setattr__(self, "settled", settled)
        object.__setattr__(self, "told", told)
        object.__setattr__(self, "told_now", told_now)


def for_all(heads: Texts | None, layout: str | None) -> Options:
    """The same number of heads and the same layout for every layer, as far as they are given; no norms."""
    return Options(() if heads is None else heads, layout or (), norms=False)


def _rows(layouts: Sequence[Layout], every: Weights, checkpoint: Checkpoint) -> tuple[Sequence[Layout], list[Layout]]:
    """The layouts that are looked for, and those of which an adapter may hold some projections only."""
    if not any(map(is_update, every.encoded.values())):
        return layouts, []
    from qkvinspect.weights.adapters.scales import base_names

    base = base_names(checkpoint)
    return (*layouts, *bare(layouts, base)), list(partial(layouts, base))


def inspect(
    checkpoint: Checkpoint,
    options: Options = Options(),  # noqa: B008  (immutable)
    progress: Progress | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Report:
    """Find every attention module of a checkpoint and say which rows are Q, K and V of which head.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: an option contradicts the file.
        UsageError: an option has no meaning, or names no layer.
    """
    with none_collected():
        report = _inspect(checkpoint, options, layouts)
    inputs = [*of_each(report.attentions, about_inputs)]
    report = replace(report, findings=(*report.findings, *inputs)) if inputs else report
    if not options.norms:
        return report
    from qkvinspect.inspection.measure import measured

    waiting = deque(report.attentions)
    report = replace(report, attentions=())
    attentions = tuple(measured(waiting, progress))
    findings = [*of_each(attentions, about_numbers)]
    return replace(report, attentions=attentions, findings=(*report.findings, *findings))


def _inspect(checkpoint: Checkpoint, options: Options, layouts: Sequence[Layout]) -> Report:
    """As ``inspect``, without norms."""
    flags = [parse_flag(text) for text in options.heads]
    every = weights_of(checkpoint)
    copies = trained_copies(every)
    stored = as_used(every.without(adapters_and_wrappers.without_values(every)), copies)
    names = with_lists(Names(stored))
    stored = names.weights
    layouts, some = _rows(layouts, every, checkpoint)
    asked = Asked((*checkpoint.packed, *options.settled, *options.layouts), (*options.told, *options.told_now))
    require_known([id for _, id in asked.forced], (*LAYOUTS, *layouts, *asked.told))
    matches, stale, left, repeats = match.find_attentions(names, layouts, checkpoint.configs, asked, some)
    _require_used(options, names, matches, layouts)
    computed = Computed.of(checkpoint, names)
    matches, left = computed.completed(matches, left)
    if checkpoint.sorted_names:
        by_numbers(matches)

    sources = Sources(names, flags, checkpoint.configs, checkpoint.modules)
    facts = each_of_its_own(sources.facts, matches, checkpoint.configs)

    by_position = bool(checkpoint.modules or checkpoint.computed) or any(flag.glob != "*" for flag in flags)
    telling = Telling(names, facts, computed, each=by_position)

    def wanted(found: match.Match) -> bool:
        return not options.layers or any(fnmatchcase(found.layer, glob) for glob in options.layers)

    if options.evidence == "none":
        modules = telling.each(filter(wanted, matches) if options.layers else matches)
    else:
        from qkvinspect.inspection import weighing

        thorough = options.evidence in ("thorough", "each")
        every = [telling.module(found) for found in matches]
        modules = weighing.ask(every, wanted, names, facts, thorough=thorough, each=options.evidence == "each")
    findings = [
        *checkpoint.findings,
        *about_emptiness(checkpoint.tensors),
        *stale,
        *_not_used(options, names, matches),
        *unused(flags, (found.layer for found in matches)),
        *adapters_and_wrappers.findings(checkpoint, stored, repeats.firsts),
    ]
    attentions, left_out = _told_of(modules, findings, checkpoint)
    findings += adapters_and_wrappers.about_sums(checkpoint, attentions, stored)
    findings += about_copies(attentions, copies)
    odd = (finding.layer for finding in findings if finding.code is FindingCode.UNEXPECTED_SHAPE and finding.layer)
    accounted = (
        None
        if options.layers
        else account(names, checkpoint.tensors, repeats, matches, attentions, left, odd, left_out)
    )
    if accounted is not None:
        findings += adapters_and_wrappers.undecoded(stored, findings)
        findings += accounted.findings()
    if options.layers and not attentions:
        raise _no_such_layer(checkpoint, options.layers, [found.layer for found in matches])
    return Report(checkpoint, tuple(attentions), tuple(findings), bool(options.layers), stored, accounted)


def _told_of(
    modules: Iterable[Module | RepeatedAttention],
    findings: list[Finding],
    checkpoint: Checkpoint,
) -> tuple[list[Attention], list[tuple[Candidate, str]]]:
    """The modules that are shown, and those that are left out with the reason; adds what is said of each."""
    attentions: list[Attention] = []
    left_out: list[tuple[Candidate, str]] = []
    first, lost = None, False  # the module that those repeat which come next, and whether it has no values
    for module in modules:
        if isinstance(module, RepeatedAttention):
            attention = module
        else:
            attention = module.attention
            findings += module.findings
            if attention is None:
                shapes = (finding for finding in module.findings if finding.code is FindingCode.UNEXPECTED_SHAPE)
                left_out += ((module.match.candidates[0], finding.message) for finding in shapes)
                continue
        if like(attention) is not first:
            first = like(attention)
            lost = any(weight.why for weight in first.weights)
        if lost:
            findings += about_values(attention.layer, attention.weights)
        attentions.append(with_ranks(attention, checkpoint.shares) if checkpoint.shares else attention)
    return attentions, left_out


def _no_such_layer(checkpoint: Checkpoint, asked: Sequence[str], known: Sequence[str]) -> UsageError:
    from difflib import get_close_matches

    near = [name for glob in asked for name in get_close_matches(glob, known, n=2)]
    return UsageError(
        f"no attention module is called {' or '.join(asked)}",
        file=checkpoint.path,
        found=f"{', '.join(known[:6])}{', ...' if len(known) > 6 else ''}" if known else "none at all",
        hint=did_you_mean(near) or "give a name or a glob such as 'encoder.*'",
    )


def _require_used(options: Options, names: Names, matches: Sequence[match.Match], layouts: Sequence[Layout]) -> None:
    """Refuse a layout that was asked for in this run and fits nowhere."""
    for layout in options.told_now:
        mine = [found for found in matches if found.candidates[0].layout is layout]
        used = [found.layer for found in mine]
        if not used:
            raise cannot(names, layout, layout.glob if isinstance(layout.glob, str) else "*")
        if layout.out and not any(names.find(layout.out[0], found.path) for found in mine):
            text = f"the layout {layout.id!r} fits {used[0]}, and no out is called {layout.out[0]} there"
            raise LayoutError(text, hint=WHERE_NAMES_ARE)
        if options.layers and not any(fnmatchcase(layer, glob) for layer in used for glob in options.layers):
            text = f"the layout {layout.id!r} fits {used[0]}, and no layer that is asked for"
            raise LayoutError(text, expected=" or ".join(options.layers))
    rows = {layout.id: layout for layout in (*LAYOUTS, *layouts, *options.told, *options.told_now)}
    for glob, id in options.layouts:
        if not any(fnmatchcase(found.layer, glob) for found in matches):
            if id in rows:
                raise cannot(names, rows[id], glob)
            raise LayoutError(f"no layer that {glob!r} names was found by its names, for {id!r} to be its layout")


def _not_used(options: Options, names: Names, matches: Sequence[match.Match]) -> Iterable[Finding]:
    """The rows of the settings whose tensors are there and have shapes that they cannot have."""
    used = [found.candidates[0].layout for found in matches] if options.told else []
    for layout in options.told:
        if layout not in used and (text := why_shapes(names, layout)):
            yield Finding(FindingCode.UNEXPECTED_SHAPE, f"the layout {layout.id!r} is not used: {text}")
