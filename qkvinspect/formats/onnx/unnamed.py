"""Names for the weights of attention for which nothing in a graph says what their module called them.

Quantisers and optimisers drop what torch's exporter wrote of modules, and a part of a weight has no name of its own.
That they are Q, K and V follows from the graph all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qkvinspect.formats.onnx.flow import Met
from qkvinspect.formats.onnx.names import Named, Uses, bias_of
from qkvinspect.formats.onnx.products import PRODUCTS, is_turned

_MOST = 1 << 12
"""Attention modules whose weights are named."""


def attention_names(met: Iterable[Met], uses: Uses, names: Mapping[str, Named]) -> Iterator[Named]:
    """Each such weight by its name in the file, behind the path of its module, or the number of its attention."""
    known = {one.stored for one in names.values()}
    products = {use.stored.name: use for use in uses.all if use.slot == PRODUCTS.get(use.node.op)}
    for number, one in zip(range(_MOST), dict.fromkeys(met), strict=False):
        for view in (one.q, one.k, one.v):
            use = products.get(view.weight)
            if use is None or view.weight in known:
                continue
            known.add(view.weight)
            home = use.node.scope or f"attention.{number}"
            name = f"{home}.{view.weight.replace('.', '_')}"
            yield Named(f"{name}.weight", view.weight, is_turned(use.node))
            bias = bias_of(uses, use)
            if bias is not None and bias.stored.name not in known:
                yield Named(f"{name}.bias", bias.stored.name)
