"""Put nodes behind those that make what they take, as ONNX asks for and not every tool does.

onnxruntime's float16 converter appends the casts of a model's inputs behind all other nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx.graph import Graph, Node


def in_order(graph: Graph) -> Graph:
    """The same graph; nodes that wait for themselves stay behind the others, in the order of the file."""
    makers: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        for name in node.outputs:
            makers.setdefault(name, place)
    if all(makers.get(name, -1) < place for place, node in enumerate(graph.nodes) for name in node.inputs if name):
        return graph
    return replace(graph, nodes=tuple(_sorted(graph.nodes, makers)))


def _sorted(nodes: Sequence[Node], makers: dict[str, int]) -> list[Node]:
    before = [{makers[name] for name in node.inputs if name in makers} for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for place, needed in enumerate(before):
        for maker in needed:
            after[maker].append(place)
    left = [len(needed) for needed in before]
    ready = [place for place, many in enumerate(left) if not many]
    heapify(ready)
    found: list[int] = []
    while ready:
        place = heappop(ready)
        found.append(place)
        for reader in after[place]:
            left[reader] -= 1
            if not left[reader]:
                heappush(ready, reader)
    placed = {*found}
    return [nodes[place] for place in (*found, *(place for place in range(len(nodes)) if place not in placed))]
