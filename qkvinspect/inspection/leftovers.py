"""What names say to be Q, K or V, and what makes up no attention that can be cut."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.names import Path
from qkvinspect.inspection.projections import ProjectingModule, Projection
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class Leftover:
    """Tensors of one module whose names say Q, K or V, and that make up no attention.

    Attributes:
        path: the module's canonical path, and its name as stored.
        why: what is wrong with them, as a clause.
        lone: whether they only lack partners; their shapes were not looked at.
        describable: whether a row of settings can say what they are: not where a tensor holds several layers.
    """

    path: Path
    module: str
    tensors: tuple[Weight, ...]
    why: str
    lone: bool
    describable: bool = True


def leftover(
    module: ProjectingModule, some: Sequence[Projection], why: str, *, lone: bool, describable: bool = True
) -> Leftover:
    """Some projections of a module, their shapes with the reason."""
    shapes = ", ".join(f"{'.'.join(one.key)} {list(one.weight.shape)}" for one in some)
    return Leftover(
        module.path, module.stored, tuple(one.weight for one in some), f"{why}: {shapes}", lone, describable
    )


def not_understood(candidate: Candidate, why: str) -> Leftover:
    """The tensors that have the names of a layout, and shapes that nothing describes."""
    shapes = ", ".join(f"{one.name.removeprefix(f'{candidate.layer}.')} {list(one.shape)}" for one in candidate.weights)
    return Leftover(candidate.path, candidate.layer, candidate.weights, f"{why}: {shapes}", False, False)
