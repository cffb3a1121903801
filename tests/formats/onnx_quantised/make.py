"""Make the files here: a tiny Llama as onnxruntime's quantisers write it, and the numbers that onnxruntime decodes.

In the environment of ``../onnx_models/requirements.txt``: ``python make.py``. The numbers of a weight are what its own
operator gives for the rows of the identity. 40 inputs in blocks of 16 leave the last block half empty.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from safetensors.numpy import save_file
from torch import nn
from transformers import LlamaConfig, LlamaModel

HERE = Path(__file__).parent
WIDE = 40
FORMS: dict[str, dict[str, Any]] = {
    f"nbits{bits}{'' if even else '_zeros'}": {"bits": bits, "is_symmetric": even}
    for bits in (2, 4, 8)
    for even in (True, False)
}
FORMS["qdq_int4"] = {"bits": 4, "is_symmetric": False, "quant_format": QuantFormat.QDQ}


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"hidden_size": WIDE, "intermediate_size": 16, "vocab_size": 32}
        heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
        self.model = LlamaModel(LlamaConfig(**sizes, **heads, attn_implementation="eager"))

    def forward(self, x: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.model(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False)[0]


class Calibration(CalibrationDataReader):
    def __init__(self, name: str = "x", shape: tuple[int, ...] = (1, 6, WIDE)) -> None:
        self.left = [{name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def exported() -> str:
    torch.manual_seed(0)
    module = Llama().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = {name: value.numpy() for name, value in module.state_dict().items() if ".self_attn." in name}
    save_file(state, HERE / "original.safetensors")
    given = (torch.randn(1, 6, WIDE), torch.zeros(1, 1, 6, 6), torch.arange(6)[None])
    torch.onnx.export(module, given, "m.onnx", dynamo=False, opset_version=21, input_names=["x", "mask", "positions"])
    model = onnx.load("m.onnx")
    for name, value in (("mask", given[1]), ("positions", given[2])):
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
        kept = [one for one in model.graph.input if one.name != name]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    onnx.save(model, "m.onnx")
    return "m.onnx"


def quantised(source: str) -> Iterator[str]:
    for name, options in FORMS.items():
        made = MatMulNBitsQuantizer(onnx.load(source), block_size=16, **options)
        made.process()
        made.model.save_model_to_file(str(HERE / f"{name}.onnx"))
        yield name
    only: Any = {"op_types_to_quantize": ["MatMul"]}
    for name, kind, rows in (("dynamic_int8", QuantType.QInt8, True), ("dynamic_uint8", QuantType.QUInt8, False)):
        quantize_dynamic(source, HERE / f"{name}.onnx", weight_type=kind, per_channel=rows, **only)
        yield name
    for name, form, rows in (("static_operators", QuantFormat.QOperator, False), ("static_qdq", QuantFormat.QDQ, True)):
        quantize_static(source, HERE / f"{name}.onnx", Calibration(), quant_format=form, per_channel=rows, **only)
        yield name


def whole() -> None:
    """Every operator of a module that cuts its own rows, with its biases."""
    source = HERE.parent / "onnx_graphs" / "HeadThenPart-softmax-torchscript.onnx"
    (given,) = onnx.load(source).graph.input
    shape = tuple(size.dim_value for size in given.type.tensor_type.shape.dim)
    for form in (QuantFormat.QOperator, QuantFormat.QDQ):
        out = HERE / "whole" / f"{form.name}.onnx"
        out.parent.mkdir(exist_ok=True)
        quantize_static(source, out, Calibration(given.name, shape), quant_format=form)


def decoded(model: Any) -> Iterator[tuple[str, Any]]:
    """The name of each projection of attention, and its matrix [out, in] as onnxruntime decodes it."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        found = re.match(r"/model/layers\.0/(self_attn/[qkvo]_proj)/MatMul", node.name)
        if found is None or not node.op_type.endswith(("MatMul", "NBits", "MatMulInteger")):
            continue
        yield f"model.layers.0.{found[1].replace('/', '.')}.weight", _numbers(node, held, makers, model)


def _numbers(node: Any, held: Any, makers: Any, model: Any) -> Any:
    if node.op_type == "MatMulNBits":
        new = helper.make_node("MatMulNBits", ["x", *node.input[1:]], ["y"], domain="com.microsoft")
        new.attribute.extend(node.attribute)
        return _run([new], [held[name] for name in node.input[1:] if name], model, np.eye(WIDE, dtype=np.float32)).T
    if node.op_type == "MatMulInteger":
        new = helper.make_node("MatMulInteger", ["x", node.input[1], "", node.input[3]], ["y"])
        stored = [held[node.input[1]], held[node.input[3]]]
        scale = numpy_helper.to_array(held[node.input[1].replace("_quantized", "_scale")])
        return (_run([new], stored, model, np.eye(WIDE, dtype=np.uint8)).astype(np.float32) * scale).T
    given = node.input[3:6] if node.op_type == "QLinearMatMul" else makers[node.input[1]].input
    new = helper.make_node("DequantizeLinear", list(given), ["y"], axis=1)
    if node.op_type == "MatMul":
        del new.attribute[:]
        new.attribute.extend(makers[node.input[1]].attribute)
    return _run([new], [held[name] for name in given], model, None).T


def _run(nodes: Any, stored: Any, model: Any, x: Any) -> Any:
    kind = TensorProto.UINT8 if x is not None and x.dtype == np.uint8 else TensorProto.FLOAT
    out = TensorProto.INT32 if kind == TensorProto.UINT8 else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", kind, None)] if x is not None else []
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", out, None)], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    alone = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(alone.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x} if x is not None else {})[0]


def main() -> None:
    folder = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for name in quantised(exported()):
            model = onnx.load(HERE / f"{name}.onnx")
            del model.graph.value_info[:]
            onnx.save(model, HERE / f"{name}.onnx")
            values = {key: np.ascontiguousarray(value) for key, value in decoded(model)}
            assert len(values) == 4, (name, list(values))
            save_file(values, HERE / f"{name}.values.safetensors")
        os.chdir(folder)
    whole()


if __name__ == "__main__":
    main()
