"""What names say to be Q, K or V, and what makes up no attention that can be cut."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.names import Path
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.weights.weight import Weight

OF_LAYERS = "a row describes the tensors of one layer: save those of each layer under names of their own"
OF_FACTORS = (
    "a row describes whole projections, and these are factors of them: multiply both and save the products as "
    "[out, in], or give the second factors alone, which make the rows of the heads"
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """Tensors of one module whose names say Q, K or V, and that make up no attention.

    Attributes:
        path: the module's canonical path, and its name as stored.
        why: what is wrong with them, as a clause.
        lone: whether they only lack partners; their shapes were not looked at.
        no_row: why no row of settings can say what they are, and what to do instead; "" where one may.
    """

    path: Path
    module: str
    tensors: tuple[Weight, ...]
    why: str
    lone: bool
    no_row: str = ""


def leftover(
    module: ProjectingModule, some: Sequence[Projection], why: str, *, lone: bool, no_row: str = ""
) -> Leftover:
    """Some projections of a module, their shapes with the reason."""
    shapes = ", ".join(f"{'.'.join(one.key)} {list(one.weight.shape)}" for one in some)
    tensors = (*(one.weight for one in some), *(one.factor for one in some if one.factor is not None))
    return Leftover(module.path, module.stored, tensors, f"{why}: {shapes}", lone, no_row)


def not_understood(candidate: Candidate, why: str, no_row: str = OF_LAYERS) -> Leftover:
    """The tensors that have the names of a layout, and shapes that nothing describes."""
    shapes = ", ".join(f"{one.name.removeprefix(f'{candidate.layer}.')} {list(one.shape)}" for one in candidate.weights)
    return Leftover(candidate.path, candidate.layer, candidate.weights, f"{why}: {shapes}", False, no_row)
