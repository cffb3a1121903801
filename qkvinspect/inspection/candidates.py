"""The layouts that a module may have."""

from __future__ import annotations

from enum import Enum

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.names import Path
from qkvinspect.layouts import Layout
from qkvinspect.layouts.packing import HEADED
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that fits the names around one weight."""

    layout: Layout
    path: Path
    layer: str
    weights: tuple[Weight, ...]
    settled: bool = False

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of each weight; LayoutError if one has no such form."""
        return [
            weight.as_shape(stored.orientation)
            for weight, stored in zip(self.weights, self.layout.weights, strict=True)
        ]

    @property
    def first_size(self) -> int:
        """The size of the first weight's first axis; 0 where that weight cannot be decoded and its shape is lost."""
        return self.weights[0].shape[0] if self.weights[0].shape else 0

    def require_square(self) -> None:
        """nn.MultiheadAttention projects to embed_dim and nothing else.

        Raises:
            LayoutError: the layout is ``square`` and the shapes are not.
        """
        if not self.layout.square:
            return
        shapes = self.shapes
        for stored, info, (rows, _) in zip(self.layout.weights, self.weights, shapes, strict=True):
            expected = shapes[0][1] * len(stored.packing.order)
            if rows != expected and HEADED.issuperset(stored.packing.order):
                raise LayoutError(
                    f"{info.name} has the name of {self.layout.id} but not its shape",
                    found=f"{rows} rows where {expected} were expected",
                )

    @property
    def specificity(self) -> int:
        """How many of the module's tensors the layout explains: the more, the better."""
        layout = self.layout
        sizes = (layout.ratio, layout.out_ratio, layout.fed_by, layout.q_rows, layout.ndim)
        shape = sum(known is not None for known in sizes) + layout.square
        return len(layout.layer.split(".")) * bool(layout.layer) + len(layout.weights) + len(layout.siblings) + shape

    @property
    def rank(self) -> tuple[bool, int]:
        """The order of candidates for one tensor: the user's own layout, then the one that explains most tensors."""
        return self.layout.found_by == "settings" or self.layout.glob != "*", self.specificity


class DecidedBy(Enum):
    """What tells which layout a module has, as in the JSON contract; a config goes by its own name there."""

    FLAG = "flag"
    SETTINGS = "settings"
    CONFIG = "config"
    SIBLINGS = "siblings"
    GRAPH = "graph"
    NAMES = "names"
    WEIGHTS = "weights"
    NOTHING = "ambiguous"


@dataclass(frozen=True, slots=True)
class Match:
    """One attention module: its layout, or the candidates if nothing decides between them.

    Attributes:
        config: the config and its section that decided; "" where none did.
    """

    candidates: tuple[Candidate, ...]
    decided_by: DecidedBy
    config: str = ""

    @property
    def layer(self) -> str:
        """The module's name as stored."""
        return self.candidates[0].layer

    @property
    def path(self) -> Path:
        return self.candidates[0].path

    @property
    def begins(self) -> str:
        """The name of its first weight, by whose place in the file modules are ordered."""
        return self.candidates[0].weights[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Those of all weights that it may have."""
        return tuple(dict.fromkeys(weight.name for one in self.candidates for weight in one.weights))

    @property
    def chosen(self) -> Candidate | None:
        return None if self.decided_by is DecidedBy.NOTHING else self.candidates[0]

    @property
    def layout_from(self) -> str:
        """What decided, as in the JSON contract."""
        return self.config or self.decided_by.value
