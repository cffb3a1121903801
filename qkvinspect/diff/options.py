"""What ``diff`` compares, and what counts as the same."""

from __future__ import annotations

from dataclasses import dataclass

from qkvinspect.arguments import texts


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What to compare, and what counts as the same. A single text stands for a tuple of one.

    >>> import qkvinspect
    >>> wanted = qkvinspect.DiffOptions(layers="*.0.*", tolerance=1e-3)
    >>> files = "sample_checkpoints/trained.safetensors", "sample_checkpoints/miswritten.safetensors"
    >>> qkvinspect.compare(*files, wanted).same
    True

    Attributes:
        maps: values of --map.
        layers: globs; only layers of which A's or B's name matches one are compared. Empty: all.
        others: whether tensors outside attention are compared too.
        align: compare B once its layers and heads were brought into A's order and basis, by changes that leave every
            output what it is; see ``qkvinspect.lineage``.
        rotary: with ``align``: rows that a rotary embedding turns together, where nothing else says it.
        tolerance: the relative L2 difference up to which a changed tensor counts as the same.
    """

    maps: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    others: bool = True
    tolerance: float | None = None
    align: bool = False
    rotary: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", texts(self.maps))
        object.__setattr__(self, "layers", texts(self.layers))
