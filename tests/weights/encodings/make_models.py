"""Writes ``models/``: attention of a trained checkpoint as each library quantises and stores it, and what it decodes.

``python make_models.py PATH [MAKER ...]`` with the libraries that ``make_data.py`` names; PATH is the state_dict of
SCEPTR (sceptr 1.2.0 from PyPI, MIT licence, ``_model_saves/SCEPTR/state_dict.pt``). Its first layer becomes
``blocks.0.attn`` with one fused ``qkv``, as timm has it; its second becomes ``model.layers.1.self_attn`` with q, k, v
and o apart, as Llama has it. 8 heads of 8 in 64.

``original.safetensors`` holds the numbers, ``NAME.safetensors`` what the library makes of them, with its config in the
metadata. ``NAME.json`` says of each weight the Frobenius norm of the library's own decoded numbers, that of their
distance from the original, and some of the numbers, evenly taken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from make_data import _bnb, _dequantized, _gptq
from safetensors.torch import save_file

MODELS = Path(__file__).parent / "models"
TAKEN = 32
"""Numbers of a weight that are written down."""

Tensors = dict[str, torch.Tensor]
Quantise = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor | None]]
"""Of a module's name and weight: what is stored, and the numbers; None where nobody decodes them here."""


def bitsandbytes() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    import bitsandbytes as bnb
    from bitsandbytes.functional import int8_vectorwise_dequant, quantize_4bit

    for kind in ("nf4", "fp4"):
        for nested in (False, True):

            def four(name: str, weight: torch.Tensor, kind: str = kind, nested: bool = nested) -> Any:
                codes, state = quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=nested)
                return _bnb(name, codes, state), _dequantized(codes, state)

            said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
            yield f"bnb_{kind}{'_nested' if nested else ''}", said, four

    def eight(name: str, weight: torch.Tensor) -> Any:
        linear = bnb.nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias=False, has_fp16_weights=False)
        linear.load_state_dict({"weight": weight.half()})
        state = linear.to("cpu").state_dict()
        return (
            {f"{name}.{key}": value for key, value in state.items()},
            int8_vectorwise_dequant(state["weight"], state["SCB"]),
        )

    yield "bnb_int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, eight


def gptq() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model_dequant import _revert_gptq_v1_qzeros_correction

    for bits, old, act_order in ((4, True, True), (4, False, False), (3, False, True), (8, True, False)):

        def packed(name: str, weight: torch.Tensor, bits: int = bits, old: bool = old, act: bool = act_order) -> Any:
            made = _gptq(TorchLinear, bits, 32, act, weight, False)
            values, state = made.dequantize_weight().T.contiguous(), made.state_dict()
            if old:
                state["qzeros"] = _revert_gptq_v1_qzeros_correction(state["qzeros"], bits)
            return {f"{name}.{key}": value for key, value in state.items()}, values

        form = "gptq" if old else "gptq_v2"
        said = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": 32,
            "desc_act": act_order,
            "checkpoint_format": form,
        }
        yield f"{form}_{bits}bit{'_act_order' if act_order else ''}", said, packed


def awq() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    def packed(name: str, weight: torch.Tensor) -> Any:
        grouped = weight.reshape(len(weight), -1, 32)
        low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=1e-4)
        scales = ((high - low) / 15).half().float()
        zeros = torch.round(-low / scales).clamp(0, 15)
        codes = ((grouped / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = ((codes - zeros[..., None]) * scales[..., None]).reshape(weight.shape)
        made = WQLinear_GEMM.from_linear(linear, 4, 32, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())
        values = dequantize_gemm(made.qweight, made.qzeros, made.scales, 4, 32).T.contiguous()
        return {f"{name}.{key}": value for key, value in made.state_dict().items()}, values

    yield "awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, packed


def compressed_tensors() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    four, eight = {"num_bits": 4, "type": "int"}, {"num_bits": 8, "type": "int"}
    small, tiny = {"num_bits": 8, "type": "float"}, {"num_bits": 4, "type": "float", "symmetric": True}
    for name, form, args in (
        ("ct_int4_group", "pack-quantized", {**four, "strategy": "group", "group_size": 32, "symmetric": True}),
        ("ct_int4_zeros", "pack-quantized", {**four, "strategy": "group", "group_size": 32, "symmetric": False}),
        ("ct_int8_packed", "pack-quantized", {**eight, "strategy": "channel", "symmetric": True}),
        ("ct_int8_channel", "int-quantized", {**eight, "strategy": "channel", "symmetric": True}),
        ("ct_float8_tensor", "float-quantized", {**small, "strategy": "tensor", "symmetric": True}),
        ("ct_float8_row", "float-quantized", {**small, "strategy": "channel", "symmetric": True}),
        ("ct_float8_block", "float-quantized", {**small, "strategy": "block", "block_structure": [32, 32]}),
        ("ct_nvfp4", "nvfp4-pack-quantized", {**tiny, "strategy": "tensor_group", "group_size": 16,
                                              "scale_dtype": torch.float8_e4m3fn}),
        ("ct_mxfp4", "mxfp4-pack-quantized", {**tiny, "strategy": "group", "group_size": 32,
                                              "scale_dtype": torch.uint8}),
    ):  # fmt: skip

        def packed(name: str, weight: torch.Tensor, form: str = form, args: dict[str, Any] = args) -> Any:
            scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
            assert scheme.weights is not None
            state, rows, cols = {"weight": weight}, *weight.shape
            grouped = weight.reshape(rows, -1, args.get("group_size", cols))
            if args["strategy"] == "tensor":
                grouped = weight.reshape(1, 1, -1)
            if args["strategy"] == "block":
                grouped = weight.reshape(rows // 32, 32, cols // 32, 32).permute(0, 2, 1, 3).flatten(2)
            whole = None
            if args["strategy"] == "tensor_group":
                whole = state["weight_global_scale"] = (448.0 * 6.0 / weight.abs().max()).reshape(1)
            scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights, global_scale=whole)
            if args["strategy"] == "tensor":
                scale, zero = scale.reshape(1), zero.reshape(1)
            kind = BaseCompressor.get_value_from_registry(form)
            found = kind.compress({**state, "weight_scale": scale, "weight_zero_point": zero}, scheme)
            values = kind.decompress({key: value.clone() for key, value in found.items()}, scheme)["weight"]
            return {f"{name}.{key}": value for key, value in found.items()}, values

        plain = {key: value for key, value in args.items() if key != "scale_dtype"}
        groups = {"group_0": {"targets": ["Linear"], "weights": plain, "format": form}}
        yield name, {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}, packed


def modelopt() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    def eight(name: str, weight: torch.Tensor) -> Any:
        made, scale = FP8QTensor.quantize(weight, axis=None)
        values = made.dequantize(torch.float32, scale=scale)
        return {f"{name}.weight": made._quantized_data, f"{name}.weight_scale": scale.reshape(())}, values

    def four(name: str, weight: torch.Tensor) -> Any:
        made, scale, whole = NVFP4QTensor.quantize(weight, 16)
        stored = {"weight": made._quantized_data, "weight_scale": scale, "weight_scale_2": whole}
        values = made.dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})
        return {f"{name}.{key}": value for key, value in stored.items()}, values

    yield "modelopt_float8", {"quant_method": "modelopt", "quant_algo": "FP8"}, eight
    yield "modelopt_nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, four


def float8() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    """As transformers stores it, and as ComfyUI and musubi-tuner do (``make_float8_data.py`` says where these are)."""
    from types import SimpleNamespace

    from make_float8_data import _by_its_forward
    from musubi_tuner.modules.fp8_optimization_utils import optimize_state_dict_with_fp8
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    told: Any = SimpleNamespace(quantization_config=SimpleNamespace(weight_block_size=(32, 32)))

    def by_transformers(name: str, weight: torch.Tensor) -> Any:
        key = f"{name}.weight"
        found: Any = Fp8Quantize(told).convert({key: [weight]})
        both: Any = {"weight$": [found[key]], "weight_scale_inv": [found[f"{key}_scale_inv"]]}
        return found, Fp8Dequantize(told).convert(both, full_layer_name=key)[key]

    yield "fp8_transformers", {"quant_method": "fp8", "weight_block_size": [32, 32]}, by_transformers

    def by_musubi(name: str, weight: torch.Tensor) -> Any:
        found = optimize_state_dict_with_fp8({f"{name}.weight": weight}, "cpu", block_size=32)
        return found, _by_its_forward(found[f"{name}.weight"], found[f"{name}.scale_weight"])

    yield "fp8_scale_weight", {}, by_musubi


def mlx() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    import mlx.core as mx
    import numpy as np

    for bits in (2, 3, 4, 5, 6, 8):

        def packed(name: str, weight: torch.Tensor, bits: int = bits) -> Any:
            parts = mx.quantize(mx.array(weight.numpy()), group_size=32, bits=bits)
            values = mx.dequantize(*parts, group_size=32, bits=bits)
            named = zip(("weight", "scales", "biases"), parts, strict=True)
            return {f"{name}.{leaf}": torch.from_numpy(np.array(part)) for leaf, part in named}, torch.from_numpy(
                np.array(values)
            )

        yield f"mlx_{bits}bit", {"group_size": 32, "bits": bits}, packed

    for mode in ("mxfp4", "nvfp4", "mxfp8"):

        def floats(name: str, weight: torch.Tensor, mode: str = mode) -> Any:
            codes, scales = (
                torch.from_numpy(np.array(part)) for part in mx.quantize(mx.array(weight.numpy()), mode=mode)
            )
            found = mx.dequantize(*mx.quantize(mx.array(weight.numpy()), mode=mode), mode=mode, dtype=mx.float32)
            return {f"{name}.weight": codes, f"{name}.scales": scales}, torch.from_numpy(np.array(found))

        yield f"mlx_{mode}", {"mode": mode}, floats


def comfy() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from comfy_kitchen.tensor import QuantizedTensor

    for form, layout in (("nvfp4", "TensorCoreNVFP4Layout"), ("mxfp8", "TensorCoreMXFP8Layout")):

        def packed(name: str, weight: torch.Tensor, form: str = form, layout: str = layout) -> Any:
            made = QuantizedTensor.from_float(weight, layout)
            said = torch.frombuffer(bytearray(json.dumps({"format": form}).encode()), dtype=torch.uint8)
            return {**made.state_dict(f"{name}.weight"), f"{name}.comfy_quant": said}, made.dequantize()

        yield f"comfy_{form}", {}, packed


def tensor_subclasses() -> Iterator[tuple[str, dict[str, Any], Quantise]]:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from optimum.quanto import freeze, qfloat8, qint4, qint8, quantize
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    def module(weight: torch.Tensor) -> torch.nn.Module:
        made = torch.nn.ModuleDict({"one": torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)})
        made["one"].weight.data = weight
        return made

    for name, kind in (("quanto_int8", qint8), ("quanto_float8", qfloat8), ("quanto_int4", qint4)):

        def by_quanto(name: str, weight: torch.Tensor, kind: Any = kind) -> Any:
            model = module(weight)
            quantize(model, weights=kind)
            freeze(model)
            state = {k: v for k, v in model.state_dict().items() if k.startswith("one.weight")}
            values = model["one"].weight.dequantize() if kind is not qint4 else None
            return {key.replace("one", name): value for key, value in state.items()}, values

        yield name, {"quant_method": "quanto"}, by_quanto
    for name, kind in (("torchao_int8", Int8WeightOnlyConfig()), ("torchao_float8", Float8WeightOnlyConfig())):

        def by_torchao(name: str, weight: torch.Tensor, kind: Any = kind) -> Any:
            model = module(weight)
            quantize_(model, kind)
            state, _ = flatten_tensor_state_dict(model.state_dict())
            return {key.replace("one", name): value for key, value in state.items()}, model["one"].weight.dequantize()

        yield name, {"quant_method": "torchao"}, by_torchao

    def by_hqq(name: str, weight: torch.Tensor) -> Any:
        said = BaseQuantizeConfig(nbits=4, group_size=32)
        made = HQQLinear(module(weight)["one"], said, compute_dtype=torch.float32, device="cpu")
        return {f"{name}.{key}": value for key, value in made.state_dict().items() if value.numel()}, None

    yield "hqq_4bit", {"quant_method": "hqq"}, by_hqq


MAKERS = (bitsandbytes, gptq, awq, compressed_tensors, modelopt, float8, mlx, comfy, tensor_subclasses)


def modules(path: str) -> Tensors:
    """The weights of two layers, one fused and one apart."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    found: Tensors = {}
    layers = sorted(key.removesuffix(".in_proj_weight") for key in state if key.endswith("self_attn.in_proj_weight"))
    first, second = layers[:2]
    found["blocks.0.attn.qkv"] = state[f"{first}.in_proj_weight"]
    found["blocks.0.attn.proj"] = state[f"{first}.out_proj.weight"]
    for part, weight in zip("qkv", state[f"{second}.in_proj_weight"].chunk(3), strict=True):
        found[f"model.layers.1.self_attn.{part}_proj"] = weight
    found["model.layers.1.self_attn.o_proj"] = state[f"{second}.out_proj.weight"]
    return {name: weight.float().clone() for name, weight in found.items()}


def figures(values: torch.Tensor, original: torch.Tensor) -> dict[str, Any]:
    found = values.detach().double().flatten()
    return {
        "norm": float(found.norm()),
        "distance": float((found - original.double().flatten()).norm()),
        "taken": found[:: len(found) // TAKEN][:TAKEN].tolist(),
    }


def main(path: str, names: list[str]) -> None:
    MODELS.mkdir(exist_ok=True)
    original = modules(path)
    save_file({f"{name}.weight": weight for name, weight in original.items()}, MODELS / "original.safetensors")
    for maker in MAKERS:
        if names and maker.__name__ not in names:
            continue
        for name, said, quantise in maker():
            stored: Tensors = {}
            told: dict[str, Any] = {}
            for module, weight in original.items():
                tensors, values = quantise(module, weight.clone())
                stored |= {key: value.detach().contiguous().clone() for key, value in tensors.items()}
                if values is not None:
                    told[f"{module}.weight"] = figures(values, weight)
            save_file(stored, MODELS / f"{name}.safetensors", {"quantization_config": json.dumps(said)})
            (MODELS / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
            print(name, len(stored))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
