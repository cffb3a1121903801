"""The modules that the paths in the names of nodes are of.

Torch's older exporter counts the calls: the second one of ``layer.attn`` is ``/layer/attn_1/MatMul``, as is a module
called ``attn_1``, or the next ``attn`` of a list of dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qkvinspect.formats.onnx.graph import Node
from qkvinspect.formats.onnx.labels import is_generated
from qkvinspect.formats.onnx.paths import module_in, parted
from qkvinspect.formats.onnx.products import PRODUCTS

if TYPE_CHECKING:
    from qkvinspect.formats.onnx.names import Use


class Calls:
    """Which module a node was traced in: what it and those beside it use has the name that its module gives it."""

    def __init__(self, every: Iterable[Use]) -> None:
        found: dict[str, set[str]] = {}
        products: dict[str, set[str]] = {}
        for use in every:
            scope = use.node.scope
            if not scope or use.node.told:
                continue
            if use.slot == PRODUCTS.get(use.node.op):
                products.setdefault(scope, set()).add(use.stored.name)
            # a name that was made up may stand for what another module has too: only one that is given tells
            label = use.label if not is_generated(use.node.input(use.slot)) else ""
            if module := module_in(label, scope):
                found.setdefault(scope, set()).add(module)
        self._modules = {scope: modules.pop() for scope, modules in found.items() if len(modules) == 1}
        again = {_beside(scope) for scope, module in self._modules.items() if module == _uncounted(scope)}
        for scope, stored in products.items():
            module = _uncounted(scope)
            if module and scope not in found and _beside(scope) in again and stored <= products.get(module, set()):
                self._modules[scope] = module

    def module(self, node: Node) -> str:
        """Its path, as far as that is known."""
        scope = node.scope or ""
        return scope if node.told else self._modules.get(scope, scope)


def _uncounted(scope: str) -> str | None:
    """The path without the number of the call, where it may have one."""
    path, number = parted(scope)
    return ".".join(path) if number else None


def _beside(scope: str) -> tuple[tuple[str, ...], int]:
    """What modules that are called again have in common where one that holds them is."""
    path, number = parted(scope)
    return path[:-1], number
