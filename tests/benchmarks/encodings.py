"""Decoded values a second of each quantised format beside the library that writes it, and the peak of memory by size.

    PYTHONPATH=.:tests/weights/encodings python tests/benchmarks/encodings.py > tests/benchmarks/ENCODINGS.md

in an environment that has the libraries which ``tests/weights/encodings/make_data.py`` and ``make_float8_data.py``
name; on an idle machine it takes about four minutes. Names of functions below choose some formats; ``--quick`` tries
each of them once, without memory, to see that it works. A weight of 2048 x 2048 is made by each (of bitsandbytes, of
4096 x 4096 too); qkvinspect reads and decodes it from the file, tile by tile; the library decodes what it already has
in memory. Each value is compared. Seconds are those of the processor, of all threads, the least of five runs, so that
other work on the machine matters little.

Of 2048 x 2048 bitsandbytes writes its 16 MB of numbers each time into the same memory, which stays in a large cache of
the processor; 64 MB it gets anew from the system each time, as whoever loads a model does. What both take for a layer
from its file is measured by ``encoded_files.py`` and printed below.

Memory is the peak of a process of its own that opens a file and decodes every value, without and with more rows.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoded_files import compare
from make_data import _bnb, _gptq
from safetensors.torch import save_file

from qkvinspect.checkpoint import Checkpoint, Config
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import ValueTile, value_tiles
from qkvinspect.workers import in_order

SIZE = 2048
TIMES = (1, 4, 16)
RUNS = 5
QUICK = "--quick"
Format = tuple[str, dict[str, torch.Tensor], dict[str, Any], Callable[[], Any]]
"""A name, what is stored, what the config says, and what the library does."""


def bitsandbytes(original: torch.Tensor) -> Iterator[Format]:
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit

    for times in (1, 2):
        weight = original.repeat(times, times)
        size = f", {SIZE * times} x {SIZE * times}"
        for kind in ("nf4", "fp4"):
            for nested in (False, True):
                codes, state = quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
                name = f"bitsandbytes {kind}{', double quantised' if nested else ''}{size}"
                yield name, _bnb("q_proj", codes, state), {}, lambda c=codes, s=state: dequantize_4bit(c, s)
        codes, largest, _ = int8_vectorwise_quant(weight.half())
        stored = {"q_proj.weight": codes, "q_proj.SCB": largest}
        yield f"bitsandbytes int8{size}", stored, {}, lambda c=codes, s=largest: int8_vectorwise_dequant(c, s)


def gptq(original: torch.Tensor) -> Iterator[Format]:
    with redirect_stdout(sys.stderr):  # it greets
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


def float4(original: torch.Tensor) -> Iterator[Format]:
    """NVFP4 by whose scale is divided, and MXFP4 as gpt-oss has it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    for name, group, dtype in (("nvfp4", 16, torch.float8_e4m3fn), ("mxfp4", 32, torch.uint8)):
        args: Any = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": group, "scale_dtype": dtype}
        args["strategy"] = "tensor_group" if group == 16 else "group"
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        whole = (448.0 * 6.0 / original.abs().max()).reshape(1) if group == 16 else None
        grouped = original.reshape(SIZE, -1, group)
        scale, _ = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights, global_scale=whole)
        state = {"weight": original, "weight_scale": scale} | ({"weight_global_scale": whole} if group == 16 else {})
        kind = BaseCompressor.get_value_from_registry(f"{name}-pack-quantized")
        packed = kind.compress(state, scheme)
        stored = {f"q_proj.{key}": value for key, value in packed.items()}
        library = lambda k=kind, s=packed, c=scheme: k.decompress(dict(s), c)["weight"]  # noqa: E731
        yield f"compressed-tensors {name.upper()}", stored, {}, library
    made, scale = MXFP4QTensor.quantize(original.bfloat16(), 32)
    blocks, scales = made._quantized_data.reshape(1, SIZE, SIZE // 32, 16), scale.reshape(1, SIZE, SIZE // 32)
    stored = {"down_proj_blocks": blocks, "down_proj_scales": scales}

    def gpt_oss() -> torch.Tensor:
        return convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)[0].T

    yield "gpt-oss MXFP4 (transformers)", stored, {}, gpt_oss


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


def others(original: torch.Tensor) -> Iterator[Format]:
    """Tensor subclasses."""
    from optimum.quanto import freeze, qfloat8, qint8, quantize
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    def model() -> torch.nn.Module:
        made = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(SIZE, SIZE, bias=False)})
        made["q_proj"].weight.data = original.clone()
        return made

    for name, kind in (("int8", qint8), ("float8", qfloat8)):
        made = model()
        quantize(made, weights=kind)
        freeze(made)
        stored = {key: value for key, value in made.state_dict().items() if key.startswith("q_proj.weight")}
        yield f"quanto {name}", stored, {}, lambda made=made: made["q_proj"].weight.dequantize()
    for name, kind in (("int8", Int8WeightOnlyConfig()), ("float8", Float8WeightOnlyConfig())):
        made = model()
        quantize_(made, kind)
        stored, _ = flatten_tensor_state_dict(made.state_dict())
        yield f"torchao {name}", stored, {}, lambda made=made: made["q_proj"].weight.dequantize()


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
    from gguf import GGML_QUANT_SIZES, quants

    for dtype in sorted(quants._type_traits, key=lambda one: one.name):
        if dtype.name == "BF16":
            continue
        block, size = GGML_QUANT_SIZES[dtype]
        try:
            blocks = quants.quantize(original.numpy(), dtype)
        except NotImplementedError:
            blocks = np.random.default_rng(0).integers(0, 60, (SIZE, SIZE // block * size), dtype=np.uint8)

        def library(blocks: Any = blocks, dtype: Any = dtype) -> torch.Tensor:
            return torch.from_numpy(quants.dequantize(blocks, dtype))

        yield f"gguf {dtype.name}", {"blocks": torch.from_numpy(blocks)}, {"gguf": dtype.name}, library


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


MAKERS = (bitsandbytes, gptq, awq, compressed_tensors, modelopt, float4, float8, mlx, others, gguf_blocks, adapters)


def _where_installed(maker: Callable[[torch.Tensor], Iterator[Format]], original: torch.Tensor) -> Iterator[Format]:
    """What it makes; a line on stderr where a library is missing."""
    try:
        yield from maker(original)
    except ImportError as error:
        print(f"{maker.__name__}: {error}", file=sys.stderr)


def best(work: Callable[[], Any]) -> float:
    """Seconds of the processor, the least of some runs."""
    found: list[float] = []
    for _ in range(RUNS):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def _read(tile: ValueTile) -> np.ndarray[Any, Any]:
    (values,) = tile.read()
    return values


def taller(stored: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """The same weight so many times below itself."""
    found: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        leaf = name.rpartition(".")[2]
        if leaf in ("qweight", "qzeros", "scales") and any(key.endswith("qweight") for key in stored):
            found[name] = torch.cat([value] * times, 1)
        elif leaf.startswith("bitsandbytes__"):
            said = json.loads(bytes(value.tolist()))
            said["shape"][0] *= times
            found[name] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        elif leaf == "weight_shape":
            found[name] = value * torch.tensor([times, 1])
        elif leaf in ("g_idx", "quant_map", "nested_quant_map") or "lora_A" in name or value.numel() == 1:
            found[name] = value
        elif leaf.startswith("down_proj"):
            found[name] = torch.cat([value] * times, 1)
        else:
            found[name] = torch.cat([value] * times)
    return found


_PEAK = """
import json, sys
from qkvinspect.checkpoint import Config
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import value_tiles
sys.path.insert(0, {here!r})
from dataclasses import replace
with open_checkpoint({path!r}) as plain:
    said = json.loads({said!r})
    config = Config("config:config.json", said if "peft_type" in said else {{"quantization_config": said}})
    checkpoint = replace(plain, configs=(config,))
    if "peft_type" in said:
        lora = {{name: info for name, info in plain.tensors.items() if ".lora_" in name}}
        base = {{name: info for name, info in plain.tensors.items() if name not in lora}}
        checkpoint = replace(plain, tensors=base, adapter=replace(plain, tensors=lora, configs=(config,)))
    weight = next(iter(weights_of(checkpoint).encoded.values()))
    for tile in value_tiles(weight.as_matrix("out_in")):
        tile.read()
lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(lines["VmHWM"].split()[0]) >> 10)  # ru_maxrss would be that of the parent
"""


def peak(path: Path, said: dict[str, Any]) -> int:
    """MB that a process takes at most which decodes every value of a file."""
    code = _PEAK.format(here=str(Path.cwd()), path=str(path), said=json.dumps(said))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main(given: Sequence[str]) -> None:
    global RUNS, TIMES
    names = [name for name in given if name != QUICK]
    if QUICK in given:
        RUNS, TIMES = 1, ()
    original = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.02
    print("Written by `tests/benchmarks/encodings.py`, which says what is measured.\n")
    machine = f"{torch.get_num_threads()} cores, Python {platform.python_version()}, numpy {np.__version__}"
    print(
        f"{machine}, {SIZE} x {SIZE} where nothing else is said. Million values a second of the processor; "
        "MB of memory with 1, 4 and 16 times"
    )
    print("as many rows.\n")
    print("| format | qkvinspect | the library | times | largest difference | peak of memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for maker in MAKERS:
            if names and maker.__name__ not in names:
                continue
            for name, stored, said, library in _where_installed(maker, original):
                path = placed(Path(folder), stored, said)
                with open_checkpoint(str(path)) as plain:
                    weight = next(iter(weights_of(with_config(plain, said)).encoded.values()))
                    matrix = weight.as_matrix("out_in")

                    def ours(matrix: Any = matrix) -> None:
                        for _ in in_order(_read, value_tiles(matrix)):
                            pass

                    with np.errstate(all="ignore"):
                        mine, theirs = best(ours), best(library)
                        expected, worst = library().detach().float().reshape(matrix.rows, -1).numpy(), 0.0
                        for tile in value_tiles(matrix):
                            gap = np.abs(_read(tile) - expected[tile.rows, tile.cols])
                            worst = max(worst, float(np.nanmax(gap, initial=0.0, where=np.isfinite(gap))))
                speed, other = (weight.numel / seconds / 1e6 for seconds in (mine, theirs))
                sizes: list[int] = []
                for times in TIMES:
                    sizes.append(peak(placed(Path(folder), taller(stored, times), said), said))
                memory = " ".join(map(str, sizes))
                print(
                    f"| {name} | {speed:.0f} | {other:.0f} | {speed / other:.2f} | {worst:.2g} | {memory} |", flush=True
                )
        if not names or "encoded_files" in names:
            compare(Path(folder), RUNS)


if __name__ == "__main__":
    main(sys.argv[1:])
