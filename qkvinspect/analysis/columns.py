"""The figures that a head has, each with its name, unit and scale, for every table, map and plot of them.

A new figure is a field of ``HeadFigures`` and a line in COLUMNS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from qkvinspect.analysis.figures import HeadFigures, Similar, Spectrum
from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a head.

    Attributes:
        key: its name on the command line, in CSV and in plots' files.
        title: what a reader sees.
        unit: of its values; "" where the title says all.
        scale: of its colours: from the least to the greatest value there is, from 0 to 1, or from -1 to 1.
        of: its value; None where it cannot be said.
        needs: the field of ``HeadFigures`` that it is taken from; "" for any of them.
    """

    key: str
    title: str
    unit: str
    scale: Literal["values", "share", "cosine"]
    of: Callable[[HeadFigures], float | None]
    needs: str = ""


def _spectrum(name: str, field: str) -> Callable[[HeadFigures], float | None]:
    def of(head: HeadFigures) -> float | None:
        spectrum: Spectrum | None = getattr(head, name)
        return None if spectrum is None else getattr(spectrum, field)

    return of


def _cosine(name: str) -> Callable[[HeadFigures], float | None]:
    def of(head: HeadFigures) -> float | None:
        similar: Similar | None = getattr(head, name)
        return None if similar is None else similar.cosine

    return of


_SPECTRA = (
    ("norm", "norm", "Frobenius norm"),
    ("largest", "spectral_norm", "spectral norm"),
    ("stable_rank", "stable_rank", "stable rank"),
    ("effective_rank", "effective_rank", "effective rank"),
)

COLUMNS: tuple[Column, ...] = (
    *(
        Column(
            f"{name}_{key}",
            f"{name.upper()} {title}",
            "" if "rank" in key else title,
            "values",
            _spectrum(name, field),
            name,
        )
        for name in ("q", "k", "v", "qk", "ov")
        for field, key, title in _SPECTRA
    ),
    Column("symmetric", "symmetric share of QK", "share", "share", lambda head: head.symmetric, "symmetric"),
    Column("logit_bound", "bound on the logits", "logit", "values", lambda head: head.logit_bound, "logit_bound"),
    Column(
        "similar_qk",
        "cosine to the most similar QK circuit",
        "cosine",
        "cosine",
        _cosine("similar_qk"),
        "similar_qk",
    ),
    Column(
        "similar_ov",
        "cosine to the most similar OV circuit",
        "cosine",
        "cosine",
        _cosine("similar_ov"),
        "similar_ov",
    ),
)

BY_KEY: Mapping[str, Column] = {column.key: column for column in COLUMNS}


def column(key: str) -> Column:
    """A column by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if key not in BY_KEY:
        raise UsageError(f"there is no column {key!r}", hint=f"one of {', '.join(BY_KEY)}")
    return BY_KEY[key]
