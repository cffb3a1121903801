"""Projections of all layers in one tensor, as flax's nn.scan and torch.func.stack_module_state keep them.

Their axis of layers is easily taken for one of heads, or a matrix a layer for the kernel of a convolution. No layout
describes them yet, so they are said and not cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import prod

from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.kernels import are_blocks, is_convolution
from qkvinspect.inspection.leftovers import Leftover, not_understood
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.projections import LEAVES, ProjectingModule, Projection
from qkvinspect.inspection.words import tokens

_AXES = ("first", "second")


def no_matrices(names: Names, candidate: Candidate) -> Leftover | Finding | None:
    """What is said of tensors with the names of a layout that are neither matrices nor convolutions; None if they are.

    One tensor alone may be stacked in any way; a bias or an output projection as long says that it is by layers.
    """
    shapes = [one.shape for one in candidate.weights]
    turns = {stored.orientation for stored in candidate.layout.weights}
    if all(map(is_convolution, shapes)) or not turns <= {"out_in", "in_out"}:
        return None
    keys = (*(bias.key for bias in candidate.layout.biases), *candidate.layout.out)
    shapes += [found.shape for key in keys if (found := names.find(key, candidate.path)) is not None]
    if len(shapes) > 1 and len({shape[:1] for shape in shapes}) == 1 and all(len(shape) > 1 for shape in shapes):
        return not_understood(candidate, _layers(shapes[0], 0))
    said = ", ".join(f"{one.name} {list(one.shape)}" for one in candidate.weights)
    return Finding(
        FindingCode.UNEXPECTED_SHAPE, f"no matrix and no convolution: {said}; it is left out", candidate.layer
    )


def _layers(shape: Sequence[int], axis: int) -> str:
    count = shape[axis]
    if count == 1:
        return "looks like a convolution whose window comes first"
    stacked = f"{count} layers stacked along the {_AXES[axis]} axis"
    if axis == 0 and are_blocks(shape):
        return f"looks like {count} blocks of a diagonal, as xLSTM has them, or {stacked}"
    return f"looks like {stacked}"


@dataclass(slots=True)
class _Block:
    """What stands beside attention: the sizes of each axis (0 where a tensor has none), and those of norms."""

    sizes: tuple[set[int], set[int]] = field(default_factory=lambda: (set[int](), set[int]()))
    norms: bool = False


class StackedLayers:
    """Which modules hold the projections of several layers."""

    def __init__(self, names: Names, paths: Mapping[str, Path], modules: Iterable[ProjectingModule]) -> None:
        """Keep what is asked about tensors that are neither matrices nor convolutions, which few are."""
        self._names, self._paths, self._modules = names, paths, modules

    @cached_property
    def _blocks(self) -> Mapping[Path, _Block]:
        """What stands beside each module, by what holds it."""
        inside = {module.path for module in self._modules}
        blocks = {path[:-1]: _Block() for path in inside if path}
        for name, path in self._paths.items() if blocks else ():
            if any(path[:size] in inside for size in range(1, len(path))):
                continue
            shape = self._names.shape(name)
            for size in range(len(path)):
                block = blocks.get(path[:size])
                if block is not None:
                    for axis in range(2):
                        block.sizes[axis].add(shape[axis] if len(shape) > 1 else 0)
                    block.norms = block.norms or (len(shape) == 2 and _is_norm(path[size:]))
        return blocks

    def why(self, module: ProjectingModule, projections: Sequence[Projection]) -> str:
        """Why the projections are those of several layers, as a clause; "" where nothing says so."""
        shapes = [one.weight.shape for one in projections]
        if any(is_convolution(one.weight.shape, one.key[-1]) for one in projections):
            return ""
        if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][0] == len(projections[0].parts) > 1:
            return ""  # Gemma's einsum: Q, K and V, heads, inputs, outputs
        shapes += [info.shape for _, info in module.outputs if prod(info.shape[2:]) > 1]
        alike = [len({shape[axis] for shape in shapes}) == 1 for axis in range(2)]
        for axis in range(2):
            if alike[axis] and self._beside(module.path, axis) == shapes[0][axis]:
                return _layers(shapes[0], axis)
        # a layer's own weight is a matrix; per head, as Keras' EinsumDense has it, the inputs come first
        of_layers = alike[0] and all(one.key[-1] in LEAVES for one in projections)
        if of_layers and len(shapes[0]) == 3 and shapes[0][0] > shapes[0][1] and not are_blocks(shapes[0]):
            first, second, _ = shapes[0]
            return f"three axes, which may be [in, heads, head_dim], or stack {first} or {second} layers"
        return _layers(shapes[0], 0) if of_layers else ""

    def _beside(self, path: Path, axis: int) -> int:
        """The size that all tensors beside a module have along an axis, a norm among them; 0 where there is none."""
        block = self._blocks.get(path[:-1]) if path else None
        if block is None or not block.norms or len(block.sizes[axis]) != 1:
            return 0
        return next(iter(block.sizes[axis]))


def _is_norm(path: Path) -> bool:
    """Whether it is the parameter of a norm, which has one axis where layers are not stacked."""
    words = [word for part in path for word in tokens(part)]
    return any("norm" in word or word in ("ln", "gamma", "beta") for word in words)
