"""What the census knows not to be answered, or not wholly, and why that is left so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.census.judging import Verdict


class Left(NamedTuple):
    """Modules of which something else than ``right`` is said.

    Attributes:
        where: a glob for library, model and module.
        said: what is said of them.
        why: why the tensors and the config leave it so.
    """

    where: str
    said: str
    why: str


LEFT: tuple[Left, ...] = (
    Left(
        "timm/bat_resnext* *",
        "missed",
        "bilinear attention: its convolutions look along one axis, and what they make is no Q, K and V of tokens",
    ),
    Left(
        "timm/efficientvit_* *.context_module.main",
        "missed",
        "heads of the surroundings (aggreg) are made of the module's own Q, K and V, which are found",
    ),
    Left(
        "transformers/*.indexer",
        "missed",
        "a lightning indexer chooses what is attended to; it has queries and a key, and no values",
    ),
)


def left(verdict: Verdict) -> Left | None:
    """Why it is left so, or None."""
    return next((one for one in LEFT if one.said == verdict.said and fnmatchcase(verdict.where, one.where)), None)
