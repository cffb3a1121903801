"""Export models whose layers have equal weights, which torch's older exporter stores once, and write what they hold.

In the environment of ../onnx_models/requirements.txt: ``python make.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
DIM, HEADS, KEYS, VALUES = 8, 2, 6, 10


class Decoder(nn.Module):
    """Its layers begin as copies of one."""

    def __init__(self) -> None:
        super().__init__()
        self.dec = nn.TransformerDecoder(nn.TransformerDecoderLayer(DIM, HEADS, DIM, batch_first=True), 2)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.dec(x, memory, tgt_is_causal=False)


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(DIM, HEADS, DIM, batch_first=True, bias=bias)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.layer(self.layer(x, memory), memory)


class Begun(nn.Module):
    """Of a model as it is begun all biases are zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.tr = nn.Transformer(DIM, HEADS, 1, 1, DIM, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.tr(x, y, tgt_is_causal=False, src_is_causal=False, memory_is_causal=False)


class Apart(nn.Module):
    """Copies whose keys and values are of other widths, so that Q, K and V are matrices of their own."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.MultiheadAttention(DIM, HEADS, kdim=KEYS, vdim=VALUES, batch_first=True)
        self.layers = nn.ModuleList([first, copy.deepcopy(first)])

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, keys, values, need_weights=False)[0]
        return x


class Listed(nn.Module):
    """Copies in a list of dictionaries, which the names of nodes leave out."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.ModuleDict({"cross": nn.MultiheadAttention(DIM, HEADS, batch_first=True)})
        self.layers = nn.ModuleList([first, copy.deepcopy(first)])

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer["cross"](x, memory, memory, need_weights=False)[0]
        return x


def models() -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    x, memory = torch.randn(2, 5, DIM), torch.randn(2, 3, DIM)
    yield "decoder", Decoder(), (x, memory)
    yield "twice", with_random_vectors(Twice(True)), (x, memory)
    yield "twice-no-bias", with_random_vectors(Twice(False)), (x, memory)
    yield "begun", Begun(), (x, memory)
    yield "apart", Apart(), (x, torch.randn(2, 3, KEYS), torch.randn(2, 3, VALUES))
    yield "listed", Listed(), (x, memory)


def with_random_vectors(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    return model


def main() -> None:
    torch.manual_seed(0)
    for name, model, given in models():
        path = HERE / f"{name}.onnx"
        torch.onnx.export(model.eval(), given, path, dynamo=False, opset_version=17)
        save_file({key: value.clone() for key, value in model.state_dict().items()}, path.with_suffix(".safetensors"))
        exported = onnx.load(path)
        for node in exported.graph.node:
            node.doc_string = ""
        del exported.graph.value_info[:]
        onnx.save(exported, path)


if __name__ == "__main__":
    main()
