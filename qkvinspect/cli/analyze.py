"""qkvinspect analyze"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from qkvinspect.cli import options, outputs, printing
from qkvinspect.cli.declared import option

if TYPE_CHECKING:
    from qkvinspect.analysis import LayerFigures


def analyze(
    path: options.Checkpoints,
    layer: options.Layers = None,
    heads: options.Heads = None,
    sort: Annotated[
        str | None,
        option("--sort", metavar="COLUMN", help="Rank the heads of all layers by this figure, greatest first."),
    ] = None,
    top: Annotated[
        int | None, option("--top", metavar="N", min=1, help="Only the first N heads of the ranking.")
    ] = None,
    heat: options.Heat = None,
    plot: options.Plot = None,
    values: Annotated[
        bool, option("--values", help="Mean, spread, quantiles, zeros and a histogram instead of the circuits.")
    ] = False,
    per_head: Annotated[bool, option("--per-head", help="With --values: one row a head, too.")] = False,
    wide: Annotated[bool, option("--wide", help="All columns, in lines as long as they need.")] = False,
    format: options.AskFormat = options.TABLE,
    output: options.Output = None,
    force: options.Force = False,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
) -> None:
    """Analyze each head: spectra, circuits, bounds on logits, twins.

    For each head the spectral norm, stable and effective rank of Q, K and V, of the QK circuit W_Q^T W_K and of the
    OV circuit W_O W_V; how symmetric QK is; how large its logits can become, whatever the data; and the head of the
    layer that is most like it. For rotary models QK is that of two tokens at the same place. Biases are left out.

    COLUMN is q_, k_, v_, qk_ or ov_ with norm, spectral_norm, stable_rank or effective_rank; symmetric;
    logit_bound; similar_qk or similar_ov.

    Examples:

    \b
      qkvinspect analyze model.pt
      qkvinspect analyze model.safetensors --layer '*.11.*' --format csv
      qkvinspect analyze model.pt --sort logit_bound --top 10
      qkvinspect analyze model.pt --heat ov_spectral_norm --plot ov.svg
      qkvinspect analyze model.pt --values --per-head

    Exit status:

    \b
      0  analyzed, also when there is no attention in it
      2  the input or the command line cannot be used
    """
    from qkvinspect.analysis import COLUMNS, Analysis, column, value_statistics
    from qkvinspect.analysis import analyze as figures
    from qkvinspect.analysis.grid import NORMS, grid, norms
    from qkvinspect.cli.progress import Bar
    from qkvinspect.errors import UsageError
    from qkvinspect.render.results.analyze import document

    if values and (sort or top or heat):
        raise UsageError("--values shows no figures to rank or to draw", hint="leave out --values, or the others")
    if top and not sort:
        raise UsageError("--top needs a ranking", hint="--sort COLUMN")
    printing.require_drawable(heat, plot, format, force=force)
    outputs.require_output(output, (path, config, base), force=force)
    ranked, drawn = (column(key) if key else None for key in (sort, heat))
    measured = heat in NORMS
    with options.load(path, container, config, limit, download, base) as checkpoint:
        ask = "wanted" if evidence else "none"
        found = options.report(checkpoint, layers=layer, heads=heads, layouts=layout, norms=measured, evidence=ask)
        if drawn is not None and measured:
            printing.draw(norms(found, drawn.key, by_query=True), checkpoint, plot, output, force=force)
            return
        with Bar("analyzing") as bar:
            if values:
                analysis = Analysis(found, values=tuple(value_statistics(found, bar.advance)))
            else:
                heads_alone = format == "csv" or (ranked is not None and format != "json")
                needed = [drawn] if drawn is not None else COLUMNS if heads_alone else None
                layers = tuple(figures(found, progress=bar.advance, columns=needed))
                analysis = Analysis(found, layers, sort=ranked, top=top)
                if heads_alone or drawn is not None:
                    _say_what_has_no_figures(layers)
    if drawn is not None:
        printing.draw(grid(drawn, analysis.layers), checkpoint, plot, output, force=force)
    else:
        lines = printing.lines() if output is None else None
        shown = document(analysis, per_head=per_head, lines=lines, wide=wide)
        printing.put(shown, format, output, force=force, wide=wide)


def _say_what_has_no_figures(layers: Iterable[LayerFigures]) -> None:
    """Where only heads are shown, such a layer, or a figure of it, would be missing without a word."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        if layer.why:
            reasons.setdefault((layer.missing, layer.why), []).append(layer.layer)
    for (missing, why), names in reasons.items():
        some = f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        printing.note(f"warning: {missing} of {some}: {why}", grave=True)


_NAMED = 3
"""Layers without figures that are named for each reason."""
