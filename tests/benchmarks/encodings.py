"""Decoded values a second of each quantised format, beside the library that writes it, on the same machine.

    PYTHONPATH=.:tests/weights/encodings python tests/benchmarks/encodings.py | tee tests/benchmarks/ENCODINGS.md

in an environment that has the libraries which ``tests/weights/encodings/make_data.py`` names. A weight of 4096 x 4096
is made by each; qkvinspect reads and decodes it from the file, tile by tile, on all cores; the library decodes what it
already has in memory, with as many threads. Each value is compared. The best of five runs.
"""

from __future__ import annotations

import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_data import _bnb, _gptq
from safetensors.torch import save_file

from qkvinspect.checkpoint import Checkpoint, Config
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import ValueTile, value_tiles
from qkvinspect.workers import in_order

SIZE = 4096
Format = tuple[str, dict[str, torch.Tensor], dict[str, Any], Callable[[], Any]]
"""A name, what is stored, what the config says, and what the library does."""


def bitsandbytes(original: torch.Tensor) -> Iterator[Format]:
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            codes, state = quantize_4bit(original, quant_type=kind, compress_statistics=nested)
            name = f"bitsandbytes {kind}{', double quantised' if nested else ''}"
            yield name, _bnb("q_proj", codes, state), {}, lambda c=codes, s=state: dequantize_4bit(c, s)
    codes, largest, _ = int8_vectorwise_quant(original.half())
    stored = {"q_proj.weight": codes, "q_proj.SCB": largest}
    yield "bitsandbytes int8", stored, {}, lambda: int8_vectorwise_dequant(codes, largest)


def gptq(original: torch.Tensor) -> Iterator[Format]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    for bits in (3, 4, 8):
        for act_order in (False, True):
            made = _gptq(TorchLinear, bits, 128, act_order, original, True)
            said = {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq_v2"}
            stored = {f"q_proj.{key}": value.contiguous() for key, value in made.state_dict().items()}
            name = f"GPTQ {bits} bit{', act-order' if act_order else ''}"
            yield name, stored, said, lambda made=made: made.dequantize_weight().T


def awq(original: torch.Tensor) -> Iterator[Format]:
    from awq.utils.packing_utils import dequantize_gemm

    def packed(rows: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31 - 1, (rows, SIZE // 8), dtype=torch.int32)

    stored = {
        "q_proj.qweight": packed(SIZE),
        "q_proj.qzeros": packed(SIZE // 128),
        "q_proj.scales": original[: SIZE // 128].half(),
    }
    qweight, qzeros, scales = stored.values()
    said = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    yield "AWQ 4 bit", stored, said, lambda: dequantize_gemm(qweight, qzeros, scales, 4, 128).T


def compressed_tensors(original: torch.Tensor) -> Iterator[Format]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    for bits in (3, 4, 8):
        scheme = QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=128),
        )
        kind = BaseCompressor.get_value_from_registry("pack-quantized")
        scale = original.reshape(SIZE, -1, 128).abs().amax(2) / 2 ** (bits - 1)
        state = kind.compress({"weight": original, "weight_scale": scale}, scheme)
        stored = {f"q_proj.{key}": value for key, value in state.items()}
        yield (
            f"compressed-tensors int{bits}",
            stored,
            {},
            lambda k=kind, s=state, c=scheme: k.decompress(s, c)["weight"],
        )


def modelopt(original: torch.Tensor) -> Iterator[Format]:
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    made, scale, whole = NVFP4QTensor.quantize(original, 16)
    stored = {"q_proj.weight": made._quantized_data, "q_proj.weight_scale": scale, "q_proj.weight_scale_2": whole}
    yield (
        "ModelOpt NVFP4",
        stored,
        {},
        lambda: made.dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16}),
    )


def mlx(original: torch.Tensor) -> Iterator[Format]:
    import mlx.core as mx

    for bits in (2, 3, 4, 6, 8):
        parts = mx.quantize(mx.array(original.numpy()), group_size=64, bits=bits)
        stored = {
            f"q_proj.{leaf}": torch.from_numpy(np.array(part))
            for leaf, part in zip(("weight", "scales", "biases"), parts, strict=True)
        }

        def library(parts: Any = parts, bits: int = bits) -> Any:
            found = mx.dequantize(*parts, group_size=64, bits=bits)
            mx.eval(found)
            return torch.from_numpy(np.array(found, copy=False))

        yield f"MLX affine {bits} bit", stored, {"bits": bits, "group_size": 64}, library


def float8(original: torch.Tensor) -> Iterator[Format]:
    """As the libraries that load it have it: torch's own product."""
    for name, form in (("one scale", (1, 1)), ("a scale a row", (SIZE, 1)), ("128 x 128", (SIZE // 128, SIZE // 128))):
        down, across = SIZE // form[0], SIZE // form[1]
        scale = original.reshape(form[0], down, form[1], across).abs().amax((1, 3)) / 448
        wide = scale.repeat_interleave(down, 0).repeat_interleave(across, 1)
        codes = (original / wide).to(torch.float8_e4m3fn)
        leaf = "weight_scale_inv" if form[1] > 1 else "weight_scale"
        stored = {"q_proj.weight": codes, f"q_proj.{leaf}": scale if scale.numel() > 1 else scale.reshape(())}

        def library(codes: torch.Tensor = codes, scale: torch.Tensor = scale, form: Any = form) -> torch.Tensor:
            high, far = SIZE // form[0], SIZE // form[1]
            blocks = codes.float().reshape(form[0], high, form[1], far) * scale.reshape(form[0], 1, form[1], 1)
            return blocks.reshape(SIZE, SIZE)

        yield f"float8, {name} (torch)", stored, {}, library


def adapters(original: torch.Tensor) -> Iterator[Format]:
    """The sum with a product of low rank, as PEFT merges it: torch's own."""
    for rank in (8, 64):
        down, up = torch.randn(rank, SIZE), torch.randn(SIZE, rank)
        stored = {"q_proj.weight": original, "q_proj.lora_A.default.weight": down, "q_proj.lora_B.default.weight": up}
        said = {"lora_alpha": 16, "r": rank, "peft_type": "LORA"}
        yield (
            f"LoRA of rank {rank}, added (torch)",
            stored,
            said,
            lambda a=down, b=up, r=rank: original + b @ a * (16 / r),
        )


def gguf_blocks(original: torch.Tensor) -> Iterator[Format]:
    """The types that the package can quantise to, and random codes of those that it cannot."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    for kind in ("Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"):
        dtype = GGMLQuantizationType[kind]
        block, size = GGML_QUANT_SIZES[dtype]
        if kind.endswith("_K"):
            blocks = np.random.default_rng(0).integers(0, 60, (SIZE, SIZE // block * size), dtype=np.uint8)
        else:
            blocks = quants.quantize(original.numpy(), dtype)

        def library(blocks: Any = blocks, dtype: Any = dtype) -> torch.Tensor:
            return torch.from_numpy(quants.dequantize(blocks, dtype))

        yield f"gguf {kind}", {kind: torch.from_numpy(blocks)}, {"gguf": kind}, library


def placed(folder: Path, stored: dict[str, torch.Tensor], said: dict[str, Any]) -> Path:
    """The file that holds it."""
    if "gguf" not in said:
        save_file({key: value.contiguous() for key, value in stored.items()}, folder / "made.safetensors")
        return folder / "made.safetensors"
    import gguf

    path = folder / "made.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    (blocks,) = stored.values()
    writer.add_tensor("blk.0.attn_q.weight", blocks.numpy(), raw_dtype=gguf.GGMLQuantizationType[said["gguf"]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_config(checkpoint: Checkpoint, said: dict[str, Any]) -> Checkpoint:
    """With what a config says; of an adapter, the base with the adapter added."""
    if "peft_type" not in said:
        return replace(checkpoint, configs=(Config("config:config.json", {"quantization_config": said}),))
    lora = {name: info for name, info in checkpoint.tensors.items() if ".lora_" in name}
    adapter = replace(checkpoint, tensors=lora, configs=(Config("config:adapter_config.json", said),))
    base = {name: info for name, info in checkpoint.tensors.items() if name not in lora}
    return replace(checkpoint, tensors=base, adapter=adapter)


MAKERS = (bitsandbytes, gptq, awq, compressed_tensors, modelopt, float8, mlx, gguf_blocks, adapters)


def best(work: Callable[[], Any]) -> float:
    found: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def _read(tile: ValueTile) -> np.ndarray[Any, Any]:
    (values,) = tile.read()
    return values


def main(names: Sequence[str]) -> None:
    original = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.02
    machine = f"{torch.get_num_threads()} cores, Python {platform.python_version()}, numpy {np.__version__}"
    print(f"{machine}, {SIZE} x {SIZE}.\n")
    print("| format | qkvinspect: million values a second | the library | times | largest difference |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for maker in MAKERS:
            if names and maker.__name__ not in names:
                continue
            for name, stored, said, library in maker(original):
                with open_checkpoint(str(placed(Path(folder), stored, said))) as plain:
                    weight = next(iter(weights_of(with_config(plain, said)).encoded.values()))
                    matrix = weight.as_matrix("out_in")

                    def ours(matrix: Any = matrix) -> None:
                        for _ in in_order(_read, value_tiles(matrix)):
                            pass

                    mine, theirs = best(ours), best(library)
                    expected, worst = library().float().numpy(), 0.0
                    for tile in value_tiles(matrix):
                        worst = max(worst, float(np.abs(_read(tile) - expected[tile.rows, tile.cols]).max()))
                speed, other = (weight.numel / seconds / 1e6 for seconds in (mine, theirs))
                print(f"| {name} | {speed:.0f} | {other:.0f} | {speed / other:.2f} | {worst:.2g} |", flush=True)
    print(f"\nPeak memory of all, with the libraries: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB.")


if __name__ == "__main__":
    main(sys.argv[1:])
