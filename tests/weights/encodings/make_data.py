"""Writes ``data/``: small weights as the libraries themselves quantise and store them, and what they decode them to.

Run with the libraries named in each function, on a CPU: ``python make_data.py [NAME ...]``. Each ``NAME.safetensors``
holds state_dicts under module names that say what is special; its metadata has the library's version and what its
config would say (``quantization_config``). ``NAME.values.safetensors`` holds the decoded values under the names of the
plain weights, in the dtype in which the library computes them.

bitsandbytes 0.50.0, compressed-tensors 0.20.0, GPTQModel 7.7.0 (its sources on PYTHONPATH are enough),
autoawq 0.2.9, nvidia-modelopt 0.47.0, mlx-cpu 0.32.4, transformers 5.0.0, torch 2.13.0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"

Tensors = dict[str, torch.Tensor]
Made = Iterator[tuple[str, dict[str, Any], Tensors, Tensors]]
"""A file's name, what its config says, the tensors stored, the values."""


def weight(seed: int, rows: int, cols: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values, a row of zeros, an outlier, and rows of very different size."""
    found = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 0.05
    found *= torch.logspace(-2, 1, rows)[:, None]
    found[rows // 2] = 0
    found[0, cols // 3] = 3
    return found.to(dtype)


def bitsandbytes_4bit() -> Made:
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState, quantize_4bit

    shapes = {32: (9, 64), 64: (12, 96), 128: (6, 160), 256: (5, 128), 4096: (3, 40)}
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            stored: Tensors = {}
            values: Tensors = {}
            for block, (rows, cols) in shapes.items():
                for dtype in (torch.float32, torch.float16, torch.bfloat16):
                    name = f"block{block}.{str(dtype).removeprefix('torch.')}.q_proj"
                    codes, state = quantize_4bit(
                        weight(block, rows, cols, dtype), blocksize=block, quant_type=kind, compress_statistics=nested
                    )
                    stored |= _bnb(name, codes, state)
                    values[f"{name}.weight"] = _dequantized(codes, state)
            odd, state = quantize_4bit(weight(1, 7, 33), blocksize=64, quant_type=kind, compress_statistics=nested)
            stored |= _bnb("odd.k_proj", odd, state)
            values["odd.k_proj.weight"] = _dequantized(odd, state)
            wide, state = quantize_4bit(
                weight(2, 8, 64, torch.bfloat16),
                quant_type=kind,
                compress_statistics=nested,
                quant_storage=torch.bfloat16,
            )
            stored |= _bnb("stored_as_bfloat16.v_proj", wide, state)
            values["stored_as_bfloat16.v_proj.weight"] = _dequantized(wide, state)
            many, state = quantize_4bit(weight(3, 40, 448), quant_type=kind, compress_statistics=nested, blocksize=32)
            if nested:  # so many blocks that their scales have blocks of their own
                stored |= _bnb("many_blocks.o_proj", many, state)
                values["many_blocks.o_proj.weight"] = _dequantized(many, state).half()
                half, state = quantize_4bit(
                    weight(4, 128, 128, torch.float16), quant_type=kind, compress_statistics=True, blocksize=32
                )  # 64 rows have a block of scales
                stored |= _bnb("halves.o_proj", half, state)
                values["halves.o_proj.weight"] = _dequantized(half, state)
            said = {
                "quant_method": "bitsandbytes",
                "load_in_4bit": True,
                "bnb_4bit_quant_type": kind,
                "bnb_4bit_use_double_quant": nested,
            }
            yield f"bnb_{kind}{'_nested' if nested else ''}", said, stored, values
    stored, values = {}, {}
    for rows, cols in ((16, 64), (8, 128)):  # as the module itself writes it
        linear = bnb.nn.Linear4bit(cols, rows, bias=True, quant_type="nf4", compute_dtype=torch.float32)
        linear.load_state_dict({"weight": weight(rows, rows, cols), "bias": torch.randn(rows)})
        linear = linear.to("cpu")
        name = f"model.layers.{rows}.self_attn.q_proj"
        stored |= {f"{name}.{key}": value for key, value in linear.state_dict().items()}
        state = linear.weight.quant_state
        assert isinstance(state, QuantState)
        values[f"{name}.weight"] = _dequantized(linear.weight.data, state)
    yield "bnb_module", {"quant_method": "bitsandbytes", "load_in_4bit": True}, stored, values


def _dequantized(codes: torch.Tensor, state: Any) -> torch.Tensor:
    """What the library makes of it.

    Its kernel for CPUs (0.50.0) takes the wrong scale where a block goes on in the next row: then its own plain torch
    version, which agrees with CUDA, is asked, and everywhere else both must agree.
    """
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from bitsandbytes.backends.utils import _get_4bit_code
    from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise

    absmax = state.absmax
    if state.nested:
        absmax = (dequantize_blockwise(absmax, state.state2) + state.offset).float()
    code, flat = _get_4bit_code(state.quant_type, "cpu"), codes.view(torch.uint8).reshape(-1)
    found = _dequantize_4bit_compute(flat, absmax, code, state.blocksize, state.shape, state.dtype)
    if state.shape[-1] % state.blocksize == 0:
        assert torch.equal(found, dequantize_4bit(codes, state))
    return found


def _bnb(name: str, codes: torch.Tensor, state: Any) -> Tensors:
    return {f"{name}.weight": codes, **{f"{name}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}}


def bitsandbytes_8bit() -> Made:
    import bitsandbytes as bnb
    from bitsandbytes.functional import int8_vectorwise_dequant

    stored, values = {}, {}
    for rows, cols in ((16, 64), (7, 33), (1, 128), (40, 24)):
        linear = bnb.nn.Linear8bitLt(cols, rows, bias=False, has_fp16_weights=False)
        linear.load_state_dict({"weight": weight(rows, rows, cols, torch.float16)})
        linear = linear.to("cpu")
        name = f"rows{rows}.q_proj"
        stored |= {f"{name}.{key}": value for key, value in linear.state_dict().items()}
        values[f"{name}.weight"] = int8_vectorwise_dequant(stored[f"{name}.weight"], stored[f"{name}.SCB"])
    yield "bnb_int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, stored, values


def gptq() -> Made:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model_dequant import _revert_gptq_v1_qzeros_correction

    for bits in (2, 3, 4, 8):
        for old in (True, False):
            for symmetric in (True, False):
                stored: Tensors = {}
                values: Tensors = {}
                for group, act_order, cols, rows in (
                    (32, False, 64, 32),
                    (32, True, 96, 64),
                    (-1, False, 64, 32),
                    (64, True, 128, 32),
                ):
                    name = f"group{group}{'.act_order' if act_order else ''}.q_proj"
                    original = weight(bits * cols, rows, cols)
                    made = _gptq(TorchLinear, bits, group, act_order, original, symmetric)
                    values[f"{name}.weight"] = made.dequantize_weight().T.contiguous()
                    state = made.state_dict()
                    if old:
                        state["qzeros"] = _revert_gptq_v1_qzeros_correction(state["qzeros"], bits)
                    stored |= {f"{name}.{key}": value for key, value in state.items()}
                said = {
                    "quant_method": "gptq",
                    "bits": bits,
                    "checkpoint_format": "gptq" if old else "gptq_v2",
                    "desc_act": True,
                    "sym": symmetric,
                }
                yield f"gptq_v{1 if old else 2}_{bits}bit{'_sym' if symmetric else ''}", said, stored, values


def _gptq(kind: Any, bits: int, group: int, act_order: bool, original: torch.Tensor, symmetric: bool) -> Any:
    rows, cols = original.shape
    size = cols if group == -1 else group
    order = torch.arange(cols) // size
    if act_order:
        order = order[torch.randperm(cols, generator=torch.Generator().manual_seed(cols))]
    top = 2**bits - 1
    low = torch.stack([original[:, order == i].amin(1) for i in range(cols // size)], 1).clamp(max=0)
    high = torch.stack([original[:, order == i].amax(1) for i in range(cols // size)], 1).clamp(min=1e-4)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scales = (high - low) / top
    zeros = torch.full_like(scales, (top + 1) / 2) if symmetric else torch.round(-low / scales)
    if not symmetric:
        zeros = zeros.clamp(1, top)  # what version 1 can hold
    linear = torch.nn.Linear(cols, rows, bias=False)
    linear.weight.data = original
    made = kind(
        bits=bits, group_size=group, sym=symmetric, desc_act=act_order, in_features=cols, out_features=rows, bias=False
    )
    made.pack_original(linear, scales, zeros, order.to(torch.int32))
    made.qzero_format(format=2)
    made._init_wf_unsqueeze_buffers()
    made.eval()
    return made


def awq() -> Made:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    for group in (32, 64, 128):
        stored, values = {}, {}
        for rows, cols in ((32, 128), (64, 128), (128, 256)) if group == 128 else ((32, 128), (64, 64), (96, 64)):
            name = f"rows{rows}.q_proj"
            original = weight(rows + group, rows, cols, torch.float16)
            grouped = original.float().reshape(rows, -1, group)
            low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=1e-4)
            scales = ((high - low) / 15).half().float()
            zeros = torch.round(-low / scales).clamp(0, 15)
            linear = torch.nn.Linear(cols, rows, bias=False)
            codes = ((grouped / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
            linear.weight.data = ((codes - zeros[..., None]) * scales[..., None]).reshape(rows, cols)
            made = WQLinear_GEMM.from_linear(linear, 4, group, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())
            stored |= {f"{name}.{key}": value for key, value in made.state_dict().items()}
            found = dequantize_gemm(made.qweight, made.qzeros, made.scales, 4, group)
            values[f"{name}.weight"] = found.T.contiguous()
        said = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
        yield f"awq_group{group}", said, stored, values


def compressed_tensors() -> Made:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    def made(
        form: str, dtype: torch.dtype, seed: int, rows: int, cols: int, **args: Any
    ) -> tuple[Tensors, torch.Tensor]:
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        original, arguments = weight(seed, rows, cols, dtype), scheme.weights
        assert arguments is not None
        state: Tensors = {"weight": original}
        size = arguments.group_size or cols
        grouped = original.reshape(rows, -1, size)
        if args["strategy"] == "tensor":
            grouped = original.reshape(1, 1, -1)
        if args["strategy"] == "block":
            high, wide = args["block_structure"]
            grouped = original.reshape(rows // high, high, cols // wide, wide).permute(0, 2, 1, 3).flatten(2)
        whole = None
        if args["strategy"] == "tensor_group":
            whole = (448.0 * 6.0 / original.abs().max().float()).reshape(1)
            state["weight_global_scale"] = whole
        scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), arguments, global_scale=whole)
        if args["strategy"] == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        state |= {"weight_scale": scale, "weight_zero_point": zero}
        kind = BaseCompressor.get_value_from_registry(form)
        packed = kind.compress(state, scheme)
        decoded = kind.decompress({key: value.clone() for key, value in packed.items()}, scheme)["weight"]
        return packed, decoded

    def config(form: str, **args: Any) -> dict[str, Any]:
        strategies = args.pop("strategies", (args.get("strategy"),))
        groups = {
            f"group_{number}": {"targets": ["Linear"], "weights": {**args, "strategy": strategy}, "format": form}
            for number, strategy in enumerate(strategies)
        }
        return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}

    for bits in (2, 3, 4, 5, 6, 7, 8):
        for symmetric in (True, False):
            stored, values = {}, {}
            for strategy, group, rows, cols in (("group", 32, 24, 96), ("channel", None, 9, 70), ("group", 16, 16, 48)):
                for dtype in (torch.float32, torch.bfloat16):
                    name = f"{strategy}{group or ''}.{str(dtype).removeprefix('torch.')}.q_proj"
                    args = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
                    args |= {"group_size": group} if group else {}
                    packed, values[f"{name}.weight"] = made("pack-quantized", dtype, bits, rows, cols, **args)
                    stored |= {f"{name}.{key}": value for key, value in packed.items()}
            said = config(
                "pack-quantized", num_bits=bits, type="int", symmetric=symmetric, strategies=("group", "channel")
            )
            yield f"ct_int{bits}{'' if symmetric else '_zeros'}", said, stored, values
    stored, values = {}, {}
    for strategy, symmetric in (("channel", True), ("channel", False), ("tensor", True), ("tensor", False)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = f"{strategy}{'' if symmetric else '.zeros'}.{str(dtype).removeprefix('torch.')}.q_proj"
            args = {"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": strategy}
            packed, values[f"{name}.weight"] = made("int-quantized", dtype, 5, 12, 40, **args)
            stored |= {f"{name}.{key}": value for key, value in packed.items()}
    said = config("int-quantized", num_bits=8, type="int", strategies=("channel", "tensor"))
    yield "ct_int8_unpacked", said, stored, values
    stored, values = {}, {}
    for strategy, extra, rows, cols in (
        ("tensor", {}, 12, 40),
        ("channel", {}, 12, 40),
        ("block", {"block_structure": [16, 32]}, 32, 64),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{strategy}.{str(dtype).removeprefix('torch.')}.q_proj"
            args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **extra}
            packed, values[f"{name}.weight"] = made("float-quantized", dtype, 6, rows, cols, **args)
            stored |= {f"{name}.{key}": value for key, value in packed.items()}
    yield "ct_float8", config("float-quantized", num_bits=8, type="float", weight_block_size=[16, 32]), stored, values
    for form, group, strategy in (("nvfp4-pack-quantized", 16, "tensor_group"), ("mxfp4-pack-quantized", 32, "group")):
        stored, values = {}, {}
        for rows, cols in ((8, 64), (13, 96), (1, 32), (24, 128)):
            for dtype in (torch.float32, torch.bfloat16):
                name = f"rows{rows}.{str(dtype).removeprefix('torch.')}.q_proj"
                args = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": strategy, "group_size": group}
                if group == 16:
                    args["scale_dtype"] = torch.float8_e4m3fn
                else:
                    args["scale_dtype"] = torch.uint8
                packed, values[f"{name}.weight"] = made(form, dtype, rows, rows, cols, **args)
                stored |= {f"{name}.{key}": value for key, value in packed.items()}
        said = config(form, num_bits=4, type="float", group_size=group)
        yield f"ct_{form.partition('-')[0]}", said, stored, values


def modelopt() -> Made:
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    stored, values = {}, {}
    for rows, cols in ((8, 64), (13, 96), (1, 32), (24, 128)):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"rows{rows}.{str(dtype).removeprefix('torch.')}.q_proj"
            made, scale, whole = NVFP4QTensor.quantize(weight(rows, rows, cols, dtype), 16)
            stored |= {
                f"{name}.weight": made._quantized_data,
                f"{name}.weight_scale": scale,
                f"{name}.weight_scale_2": whole,
            }
            values[f"{name}.weight"] = made.dequantize(
                torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16}
            )
    said = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    yield "modelopt_nvfp4", said, stored, values
    stored, values = {}, {}
    for experts, rows, cols in ((1, 8, 64), (2, 6, 96), (3, 4, 32)):
        original = weight(rows, experts * rows, cols, torch.bfloat16)
        made, scale = MXFP4QTensor.quantize(original, 32)
        blocks = made._quantized_data.reshape(experts, rows, cols // 32, 16)
        scales = scale.reshape(experts, rows, cols // 32)
        name = f"model.layers.{experts}.mlp.experts.down_proj"
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        found = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        values[name] = found.transpose(1, 2).contiguous()
    yield "gpt_oss_mxfp4", {"quant_method": "mxfp4"}, stored, values


def mlx() -> Made:
    import mlx.core as mx
    import numpy as np

    def as_torch(found: Any) -> torch.Tensor:
        kind = {mx.bfloat16: torch.bfloat16, mx.float16: torch.float16, mx.uint32: torch.uint32}.get(found.dtype)
        if kind is None:
            return torch.from_numpy(np.array(found))
        view = found.view(mx.uint16) if kind != torch.uint32 else found
        return torch.from_numpy(np.array(view)).view(kind)

    for bits in (2, 3, 4, 5, 6, 8):
        stored: Tensors = {}
        values: Tensors = {}
        own: dict[str, Any] = {}
        for group in (32, 64, 128):
            for dtype, kind in (("float32", mx.float32), ("float16", mx.float16), ("bfloat16", mx.bfloat16)):
                name = f"group{group}.{dtype}.q_proj"
                rows, cols = {32: (5, 96), 64: (7, 128), 128: (4, 256)}[group]
                original = mx.array(weight(bits + group, rows, cols).numpy()).astype(kind)
                codes, scales, biases = mx.quantize(original, group_size=group, bits=bits)
                found = mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
                stored |= {
                    f"{name}.{leaf}": as_torch(part)
                    for leaf, part in (("weight", codes), ("scales", scales), ("biases", biases))
                }
                values[f"{name}.weight"] = as_torch(found)
                own[name] = {"group_size": group, "bits": bits}
        yield f"mlx_{bits}bit", {"group_size": 64, "bits": bits, **own}, stored, values


def mlx_floats() -> Made:
    """MLX's modes without biases."""
    import mlx.core as mx
    import numpy as np

    for mode in ("mxfp4", "nvfp4", "mxfp8"):
        stored: Tensors = {}
        values: Tensors = {}
        for rows, cols in ((6, 64), (9, 160), (2, 512)):
            name = f"rows{rows}.q_proj"
            codes, scales = mx.quantize(mx.array(weight(rows, rows, cols).numpy()), mode=mode)
            found = mx.dequantize(codes, scales, mode=mode, dtype=mx.float32)
            stored |= {f"{name}.weight": torch.from_numpy(np.array(codes))}
            stored |= {f"{name}.scales": torch.from_numpy(np.array(scales))}
            values[f"{name}.weight"] = torch.from_numpy(np.array(found))
        yield (
            f"mlx_{mode}",
            {"group_size": 16 if mode == "nvfp4" else 32, "bits": int(mode[-1]), "mode": mode},
            stored,
            values,
        )


def quanto_and_torchao() -> Made:
    from optimum.quanto import freeze, qfloat8, qint8, quantize
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_

    for name, kinds in (
        ("quanto_int8", (qint8,)),
        ("quanto_float8", (qfloat8,)),
        ("torchao_int8", (Int8WeightOnlyConfig(), IntxWeightOnlyConfig())),
        ("torchao_float8", (Float8WeightOnlyConfig(),)),
    ):
        stored: Tensors = {}
        values: Tensors = {}
        for kind in kinds:
            for rows, cols in ((16, 64), (6, 128)):
                for dtype in (torch.float32, torch.bfloat16):
                    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(cols, rows, bias=False, dtype=dtype)})
                    model["q_proj"].weight.data = weight(rows, rows, cols, dtype)
                    if name.startswith("quanto"):
                        quantize(model, weights=kind)
                        freeze(model)
                        state = {k: v for k, v in model.state_dict().items() if k.startswith("q_proj.weight")}
                    else:
                        quantize_(model, kind)
                        state, _ = flatten_tensor_state_dict(model.state_dict())
                    place = f"{type(kind).__name__}.rows{rows}.{str(dtype).removeprefix('torch.')}"
                    stored |= {f"{place}.{key}": value for key, value in state.items()}
                    values[f"{place}.q_proj.weight"] = model["q_proj"].weight.dequantize()
        yield name, {"quant_method": name.partition("_")[0]}, stored, values


MAKERS = (
    quanto_and_torchao,
    bitsandbytes_4bit,
    bitsandbytes_8bit,
    gptq,
    awq,
    compressed_tensors,
    modelopt,
    mlx,
    mlx_floats,
)


PACKAGES = (
    "torch",
    "bitsandbytes",
    "compressed-tensors",
    "autoawq",
    "nvidia-modelopt",
    "mlx-cpu",
    "transformers",
    "comfy-kitchen",
)
"""Whose versions are written down where they are installed."""


def write(makers: Iterable[Callable[[], Made]], names: list[str]) -> None:
    """Both files of each name; of some makers only, where these are named."""
    DATA.mkdir(exist_ok=True)
    installed = {found.name: found.version for found in distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    for maker in makers:
        if names and maker.__name__ not in names:
            continue
        for name, said, stored, values in maker():
            metadata = {"quantization_config": json.dumps(said), "versions": json.dumps(versions)}
            save_file({k: v.contiguous() for k, v in stored.items()}, DATA / f"{name}.safetensors", metadata)
            save_file({k: v.detach().contiguous() for k, v in values.items()}, DATA / f"{name}.values.safetensors")
            print(name, len(values), sum(v.numel() * v.element_size() for v in (*stored.values(), *values.values())))


if __name__ == "__main__":
    write(MAKERS, sys.argv[1:])
