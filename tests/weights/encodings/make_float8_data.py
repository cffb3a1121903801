"""Writes the float8 files of ``data/`` that ``make_data.py`` has not, and what torchao, quanto and HQQ pickle.

Run on a CPU with the libraries of ``make_data.py`` and, on PYTHONPATH, triton 3.9.0, ``kernel.py`` of DeepSeek-V3
(inference/, commit 9b4e978) and musubi-tuner 0.3.4 (src/, commit 30c658c): ``TRITON_INTERPRET=1 python
make_float8_data.py [NAME ...]``. Triton's interpreter runs DeepSeek's kernel without a GPU. ``comfy`` wants
comfy-kitchen 0.2.40.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from make_data import DATA, Made, Tensors, weight, write
from safetensors.torch import save_file

DTYPES = (torch.float32, torch.bfloat16)


def transformers_fp8() -> Made:
    """``weight_scale_inv``, by blocks and one for all, as transformers quantises when a model is loaded."""
    from types import SimpleNamespace

    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    for name, block in (("fp8_transformers_block", (16, 32)), ("fp8_transformers_tensor", None)):
        told: Any = SimpleNamespace(quantization_config=SimpleNamespace(weight_block_size=block))
        stored: Tensors = {}
        values: Tensors = {}
        for rows, cols in ((32, 64), (48, 96), (16, 32)):
            for dtype in DTYPES:
                key = f"rows{rows}.{str(dtype).removeprefix('torch.')}.q_proj.weight"
                found = Fp8Quantize(told).convert({key: [weight(rows, rows, cols, dtype)]})
                scale = found[f"{key}_scale_inv"]
                stored |= {key: found[key], f"{key}_scale_inv": scale if block else scale.reshape(())}
                both: Any = {"weight$": [found[key]], "weight_scale_inv": [scale]}
                values |= Fp8Dequantize(told).convert(both, full_layer_name=key)
        yield name, {"quant_method": "fp8", "weight_block_size": list(block) if block else None}, stored, values


def deepseek() -> Made:
    """Blocks of 128 x 128 that the matrix does not fill, read by DeepSeek's own kernel."""
    from kernel import weight_dequant

    stored: Tensors = {}
    values: Tensors = {}
    for rows, cols in ((130, 144), (24, 576), (257, 16)):
        name = f"rows{rows}.q_proj.weight"
        original = weight(rows, rows, cols)
        high, wide = -(-rows // 128), -(-cols // 128)
        padded = torch.zeros(high * 128, wide * 128)
        padded[:rows, :cols] = original
        scale = padded.reshape(high, 128, wide, 128).abs().amax((1, 3)) / 448
        each = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
        stored |= {name: (original / each).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
        values[name] = weight_dequant(stored[name], scale)  # in float32, the default of torch
    yield "fp8_deepseek", {"quant_method": "fp8", "weight_block_size": [128, 128]}, stored, values


def musubi() -> Made:
    """``scale_weight``, as ComfyUI names it: for all, for a row, and for each 64 values of a row."""
    from musubi_tuner.modules.fp8_optimization_utils import optimize_state_dict_with_fp8

    for mode in ("tensor", "channel", "block"):
        stored: Tensors = {}
        values: Tensors = {}
        for digits in (3, 2):
            for rows, cols in ((12, 64), (5, 128)):
                for dtype in DTYPES:
                    name = f"e{7 - digits}m{digits}.rows{rows}.{str(dtype).removeprefix('torch.')}.q_proj"
                    state = optimize_state_dict_with_fp8(
                        {f"{name}.weight": weight(rows, rows, cols, dtype)}, "cpu", exp_bits=7 - digits,
                        mantissa_bits=digits, quantization_mode=mode,
                    )  # fmt: skip
                    stored |= state
                    values[f"{name}.weight"] = _by_its_forward(state[f"{name}.weight"], state[f"{name}.scale_weight"])
        yield f"fp8_musubi_{mode}", {}, stored, values


def _by_its_forward(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What the library's own layer makes of the rows of the identity."""
    from types import SimpleNamespace

    from musubi_tuner.modules.fp8_optimization_utils import fp8_linear_forward_patch

    linear: Any = SimpleNamespace(weight=codes, scale_weight=scale, bias=None)
    return fp8_linear_forward_patch(linear, torch.eye(codes.shape[1], dtype=scale.dtype)).T


def modelopt_fp8() -> Made:
    """``weight_scale`` beside ``input_scale``, which is of what comes in."""
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor

    stored: Tensors = {}
    values: Tensors = {}
    for rows, cols in ((12, 64), (5, 128), (1, 32)):
        for dtype in DTYPES:
            name = f"rows{rows}.{str(dtype).removeprefix('torch.')}.q_proj"
            made, scale = FP8QTensor.quantize(weight(rows, rows, cols, dtype), axis=None)
            stored |= {f"{name}.weight": made._quantized_data, f"{name}.weight_scale": scale.reshape(()).float()}
            stored[f"{name}.input_scale"] = torch.tensor(0.02)
            values[f"{name}.weight"] = made.dequantize(torch.float32, scale=scale.float())
    yield "fp8_modelopt", {"quant_method": "modelopt", "quant_algo": "FP8"}, stored, values


def comfy() -> Made:
    """NVFP4 and MXFP8 as comfy-kitchen lays them out, told by a tensor or, of old, by the metadata."""
    from comfy_kitchen.tensor import QuantizedTensor

    for form, layout in (("nvfp4", "TensorCoreNVFP4Layout"), ("mxfp8", "TensorCoreMXFP8Layout")):
        stored: Tensors = {}
        values: Tensors = {}
        for rows, cols in ((160, 96), (32, 160), (128, 64)):
            name = f"rows{rows}.q_proj"
            made = QuantizedTensor.from_float(weight(rows, rows, cols), layout)
            stored |= made.state_dict(f"{name}.weight")
            said = json.dumps({"format": form, "full_precision_matrix_mult": False}).encode()
            stored[f"{name}.comfy_quant"] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
            values[f"{name}.weight"] = made.dequantize()
        yield f"comfy_{form}", {}, stored, values


def pickled() -> None:
    """What ``torch.save`` writes of the libraries' own tensors: layers of attention, one kind of tensor a file."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from optimum.quanto import freeze, qfloat8, qint4, qint8, quantize
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_

    def layer() -> torch.nn.Module:
        made = torch.nn.Module()
        made.self_attn = torch.nn.Module()
        for number, part in enumerate("qkvo"):
            linear = torch.nn.Linear(32, 32, bias=False)
            linear.weight.data = weight(number, 32, 32)
            made.self_attn.add_module(f"{part}_proj", linear)
        return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([made])})

    def keep(name: str, model: torch.nn.Module) -> None:
        torch.save(model.state_dict(), DATA / f"{name}.pt")
        values = {key: value for key, value in model.named_parameters() if key.endswith("_proj.weight")}
        numbers = {key: value.dequantize().detach().contiguous() for key, value in values.items()}
        save_file(numbers, DATA / f"{name}.pickled_values.safetensors")

    for name, kind in (
        ("torchao_float8", Float8WeightOnlyConfig()),
        ("torchao_int8", Int8WeightOnlyConfig()),
        ("torchao_intx", IntxWeightOnlyConfig()),
    ):
        model = layer()
        quantize_(model, kind)
        keep(name, model)
    for name, kind in (("quanto_int8", qint8), ("quanto_float8", qfloat8), ("quanto_int4", qint4)):
        model = layer()
        quantize(model, weights=kind)
        freeze(model)
        keep(name, model)
    model = layer()
    for part in "qkvo":
        old = getattr(model["layers"][0].self_attn, f"{part}_proj")
        said = BaseQuantizeConfig(nbits=4, group_size=32)
        new = HQQLinear(old, said, compute_dtype=torch.float32, device="cpu")
        setattr(model["layers"][0].self_attn, f"{part}_proj", new)
    torch.save(model.state_dict(), DATA / "hqq_4bit.pt")


MAKERS = (transformers_fp8, deepseek, musubi, modelopt_fp8, comfy)

if __name__ == "__main__":
    write(MAKERS, sys.argv[1:])
    if not sys.argv[1:] or "pickled" in sys.argv[1:]:
        pickled()
