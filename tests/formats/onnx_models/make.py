"""Make the ONNX files here, and beside each the weights that it was made of.

In an environment of its own (requirements.txt): ``python make.py``. Every weight is random, zeros and ones too, which
exporters would store once or leave out; but for ``bert-new``, which is as transformers begins it. What torch writes of
its own source code beside every node is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GemmaConfig,
    GemmaModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "diff" / "onnx_shared"
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
EXPORTERS = {"torchscript": {"dynamo": False, "opset_version": 17}, "dynamo": {"dynamo": True, "external_data": False}}


class First(nn.Module):
    """A model of transformers that gives a tensor."""

    def __init__(self, model: nn.Module, *inputs: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.options = options

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.inputs, given, strict=True)), **self.options)[0]


def models() -> Iterator[tuple[str, nn.Module, tuple[torch.Tensor, ...]]]:
    x, ids, mask = torch.randn(2, 5, 16), torch.randint(0, 32, (1, 6)), torch.ones(1, 6, dtype=torch.int64)
    layer: dict[str, Any] = {"d_model": 16, "nhead": 4, "dim_feedforward": 16, "batch_first": True}
    yield "encoder", nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), 2), (x,)
    yield "encoder-no-bias", nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer, bias=False), 2), (x,)
    yield "decoder", nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), 2), (x, torch.randn(2, 7, 16))
    bert = BertConfig(vocab_size=32, max_position_embeddings=16, **SIZES)
    yield "bert", First(BertModel(bert, add_pooling_layer=False), "input_ids"), (ids,)
    bert = BertConfig(vocab_size=32, max_position_embeddings=16, attn_implementation="eager", **SIZES)
    yield "bert-eager", First(BertModel(bert, add_pooling_layer=False), "input_ids", "attention_mask"), (ids, mask)
    llama = LlamaConfig(vocab_size=32, num_key_value_heads=2, attn_implementation="eager", **SIZES)
    given = (ids, torch.zeros(1, 1, 6, 6), torch.arange(6)[None])
    yield "llama", First(LlamaModel(llama), "input_ids", "attention_mask", "position_ids", use_cache=False), given
    vit = ViTConfig(image_size=8, patch_size=4, **SIZES)
    yield "vit", First(ViTModel(vit, add_pooling_layer=False), "pixel_values"), (torch.randn(1, 3, 8, 8),)
    gpt2 = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=4)
    yield "gpt2", First(GPT2Model(gpt2), "input_ids", use_cache=False), (ids,)


def without_source(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [one for one in node.metadata_props if "stack_trace" not in one.key and "fx_node" not in one.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, path)


def optimised(name: str, to: str, multihead: bool) -> None:
    options = FusionOptions("bert")
    options.use_multi_head_attention = multihead
    made = optimizer.optimize_model(
        str(HERE / f"{name}.onnx"), "bert", 4, 16, optimization_options=options, opt_level=0
    )
    made.save_model_to_file(str(HERE / f"{to}.onnx"))


def as_begun() -> None:
    """A model whose norms are all ones and whose biases are all zeros: the optimiser stores equal ones once."""
    (model, given) = next((model, given) for name, model, given in models() if name == "bert-eager")
    save_file(model.state_dict(), SHARED / "bert-new.safetensors")
    path = HERE / "bert-new.onnx"
    torch.onnx.export(model.eval(), given, path, **EXPORTERS["torchscript"])
    without_source(path)
    optimised("bert-new", "bert-new-attention", False)
    path.unlink()
    path.with_stem("bert-new-attention").replace(SHARED / "bert-new-attention.onnx")


def folded() -> None:
    """Norms that multiply by 1 + w, which exporters compute: the weights themselves are not in the file."""
    sizes = SIZES | {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    gemma = GemmaConfig(num_key_value_heads=1, head_dim=4, attn_implementation="eager", **sizes)
    model = First(GemmaModel(gemma), "input_ids", "attention_mask", "position_ids", use_cache=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_file(model.state_dict(), SHARED / "gemma.safetensors")
    given = (torch.randint(0, 8, (1, 6)), torch.zeros(1, 1, 6, 6), torch.arange(6)[None])
    for exporter, options in EXPORTERS.items():
        path = SHARED / f"gemma-{exporter}.onnx"
        torch.onnx.export(model.eval(), given, path, **options)
        without_source(path)


def main() -> None:
    torch.manual_seed(0)
    as_begun()
    folded()
    for name, model, given in models():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        save_file(model.state_dict(), HERE / f"{name}.safetensors")
        for exporter, options in EXPORTERS.items():
            path = HERE / f"{name}-{exporter}.onnx"
            try:
                torch.onnx.export(model.eval(), given, path, **options)
            except (TypeError, torch.onnx.errors.UnsupportedOperatorError) as error:
                print(f"{path.name}: {str(error).splitlines()[0][:100]}")
                continue
            without_source(path)
    optimised("bert-eager-torchscript", "bert-eager-attention", False)
    optimised("bert-eager-torchscript", "bert-eager-multihead", True)


if __name__ == "__main__":
    main()
