"""Prints the tables of sample_checkpoints/HEADS.md: what `analyze` finds in trained checkpoints by others.

python -m tests.real.heads
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qkvinspect.analysis import HeadFigures, LayerFigures, analyze, column
from qkvinspect.analysis.grid import grid
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.render.heatmap import render
from qkvinspect.render.view import ViewOptions
from tests.evidence import cases

COLUMNS = ("bound on logits", "QK rank", "of", "symmetric", "OV norm", "most alike: QK", "OV")

DRAWN = {"sceptr/SCEPTR": "logit_bound", "sapiens/checkpoint_vl": "qk_effective_rank"}


def figures(checkpoint: cases.Trained) -> tuple[LayerFigures, ...]:
    """Of every layer, with the head count that its authors give."""
    with open_checkpoint(checkpoint.path) as opened:
        return tuple(analyze(inspect(opened, Options(heads=(str(checkpoint.heads),), norms=False))))


def span(layer: LayerFigures, of: Callable[[HeadFigures], float | None], digits: int) -> str:
    """Least and greatest."""
    known = [value for head in layer.heads if (value := of(head)) is not None]
    if not known:
        return "-"
    low, high = (f"{value:.{digits}f}" for value in (min(known), max(known)))
    return low if low == high else f"{low} to {high}"


def alike(layer: LayerFigures, name: str) -> str:
    """The most similar pair."""
    found = [(abs(one.cosine), head.head, one) for head in layer.heads if (one := getattr(head, name))]
    if not found:
        return "-"
    _, head, other = max(found, key=lambda each: each[0])
    return f"{head} and {other.head} ({other.cosine:.2f})"


def rows(layers: tuple[LayerFigures, ...], head_dim: int) -> Iterator[str]:
    for layer in layers:
        cells = (
            span(layer, column("logit_bound").of, 1),
            span(layer, column("qk_effective_rank").of, 1),
            str(head_dim),
            span(layer, column("symmetric").of, 2),
            span(layer, column("ov_spectral_norm").of, 2),
            alike(layer, "similar_qk"),
            alike(layer, "similar_ov"),
        )
        yield f"| `{'.'.join(layer.layer.split('.')[-5:])}` | {' | '.join(cells)} |"


def main() -> None:
    for checkpoint in cases.others():
        layers = figures(checkpoint)
        print(f"\n### {checkpoint.label}, {checkpoint.heads} heads\n")
        print(f"| layer | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}")
        with open_checkpoint(checkpoint.path) as opened:
            report = inspect(opened, Options(heads=(str(checkpoint.heads),), norms=False))
        sizes = next(attention.heads for attention in report.attentions)
        print(*rows(layers, sizes.width("q") if sizes else 0), sep="\n")
        if checkpoint.label in DRAWN:
            print(f"\n```console\n{render(grid(column(DRAWN[checkpoint.label]), layers), ViewOptions())}```")


if __name__ == "__main__":
    main()
