"""PyTorch code that slices a stored projection, derived from the packing formula."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.formats.torch_subclasses import Attribute
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import Geometry, Packing, slots_of
from qkvinspect.layouts.put_back import counted, reordered, shared_apart
from qkvinspect.sources import is_remote
from qkvinspect.weights.encodings.ggml_scales import HALVES
from qkvinspect.weights.weight import Weight

_ORIENT = {"out_in": "", "in_out": ".T", "in_heads_dim": ".flatten(1).T"}

_MODULES = ("gguf", "numpy as np", "onnx", "safetensors.torch", "torch.distributed.checkpoint", "torch")
"""What code may need, as it is imported."""


def python(attention: Attention, checkpoint: Checkpoint) -> list[str]:
    """Lines that leave q, k, v (and biases q_bias, k_bias, v_bias) as nn.Linear would store them.

    Where the number of heads is known, also q_heads, k_heads, v_heads: [heads, head_dim, in_features].
    """
    layout, geometry = attention.layout, attention.geometry
    if layout is None or geometry is None or checkpoint.loader is None:
        return []
    held = {weight.name: weight for part in attention.parts for weight in (part.weight, part.bias) if weight}
    if any(weight.why for weight in held.values()):
        return []
    infos = {info.name: info for weight in held.values() for info in weight.stored}
    lines = [*_fetch(checkpoint), *_load(list(infos.values()), checkpoint)]
    for stored, weight in stored_weights(attention, layout):
        names = [part.name for part in attention.parts if part.weight.name == weight.name]
        total, _ = weight.as_shape(stored.orientation)
        decoding, expression = _weight(weight, checkpoint)
        lines += [
            *decoding,
            *_split(stored.packing, geometry, total, names, "", expression + _ORIENT[stored.orientation]),
        ]
    for info in {part.bias.name: part.bias for part in attention.parts if part.bias}.values():
        names = [part.name for part in attention.parts if part.bias and part.bias.name == info.name]
        packing = next(stored.packing for stored in layout.biases if set(names) <= stored.packing.parts)
        flat = ".flatten()" if len(info.shape) > 1 else ""
        decoding, expression = _weight(info, checkpoint)
        lines += [*decoding, *_split(packing, geometry, info.numel, names, "_bias", expression + flat)]
    if attention.heads is not None:
        for part in attention.parts:
            sizes = f"({attention.heads.heads(part.name)}, {attention.heads.width(part.name)})"
            lines.append(f"{part.name}_heads = {part.name}.unflatten(0, {sizes})")
        lines[-1] += "  # [heads, head_dim, in_features]"
        biased = {part.name for part in attention.parts if part.bias is not None}
        biased &= set(reordered(layout, attention.heads, biases=True))
        for part in filter(attention.part, reordered(layout, attention.heads)):
            lines += _put_back(layout, attention.heads, part, ["", "_bias"] if part in biased else [""])
    return [*_imports("\n".join(lines)), *lines]


def stored_weights(attention: Attention, layout: Layout) -> Iterator[tuple[StoredWeight, Weight]]:
    """What the layout says of each weight; an adapter may add to some of them only."""
    if len(attention.weights) == len(layout.weights):
        yield from zip(layout.weights, attention.weights, strict=True)
        return
    for weight in attention.weights:
        held = {part.name for part in attention.parts if part.weight.name == weight.name}
        yield from ((stored, weight) for stored in layout.weights if held & stored.packing.parts)


def _imports(code: str) -> Iterator[str]:
    """What the code needs, so that it can be pasted as it stands."""
    for module in _MODULES:
        name = module.rpartition(" ")[2]
        bound = name == "torch" and "torch.distributed." in code
        if not bound and re.search(rf"(?<![\w.]){re.escape(name)}\.", code):
            yield f"import {module}"


def _put_back(layout: Layout, geometry: Geometry, part: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Undo what a converter did to the rows of each head; ``q_original`` and ``q_bias_original`` are as before."""
    heads, width = geometry.heads(part), geometry.width(part)
    if part in layout.paired:
        many = counted(layout, geometry, part)
        sizes, axes, last = (many, heads * width // many // 2, 2), (1, 2), 2
    elif part in layout.by_fours:
        sizes, axes, last = (heads, 2, width // 4, 2), (1, 2), 3
    else:
        many = shared_apart(layout, geometry)
        sizes, axes, last = (many, heads // many, width), (0, 1), 2
    for name in (f"{part}{suffix}" for suffix in suffixes):
        lines = f"{name}_original = {name}.unflatten(0, {sizes}).transpose{axes}.flatten(0, {last})"
        yield f"{lines}  # in transformers' order of rows"


def _fetch(checkpoint: Checkpoint) -> Iterator[str]:
    """Torch and safetensors read files of this machine only."""
    if is_remote(checkpoint.path):
        yield f"# Of the folder of {checkpoint.path}, downloaded to here:"


def _here(path: str, checkpoint: Checkpoint) -> str:
    """The path of a file that is loaded."""
    if not is_remote(path):
        return path
    folder = f"{checkpoint.path.rpartition('/')[0]}/"
    return path.removeprefix(folder) if path.startswith(folder) else PurePath(path).name


def _load(infos: Sequence[TensorInfo], checkpoint: Checkpoint) -> list[str]:
    if checkpoint.loader == "memory":
        return ["state = model.state_dict()"] if checkpoint.modules else ["# state is the state_dict"]
    if checkpoint.loader in ("distributed", "distributed-safetensors"):
        return list(_load_distributed(infos, checkpoint))
    files = list(dict.fromkeys(_here(info.region.source.name, checkpoint) for info in infos))
    if checkpoint.loader == "gguf":
        return list(_load_gguf(files, checkpoint))
    if checkpoint.loader == "onnx":
        return list(_load_onnx(checkpoint))
    if checkpoint.modules:
        load = "torch.load({!r}, weights_only=False).state_dict()  # runs the file's code: only if you trust it"
    elif checkpoint.loader == "torch":
        load = "torch.load({!r}, weights_only=True, map_location='cpu')"
    else:
        load = "safetensors.torch.load_file({!r})"
    if any(isinstance(key, Attribute) for info in infos for key in info.keys):
        return [
            "import torchao.quantization  # makes its tensors known to torch.load",
            f"state = {load.format(files[0])}",
        ]
    if len(files) == 1:
        return [f"state = {load.format(files[0])}"]
    return ["state = {}"] + [f"state |= {load.format(file)}" for file in files]


def _load_gguf(files: Sequence[str], checkpoint: Checkpoint) -> Iterator[str]:
    """The gguf package gives numbers of every type as numpy has them; it decodes this machine's order of bytes only."""
    swapped = {info.dtype.name for info in checkpoint.tensors.values() if info.byteorder == "big"}
    halves = {name: HALVES[name] for name in sorted(swapped & HALVES.keys())}
    data = "data" if swapped else "tensor.data"
    yield "state = {}"
    for file in files:
        yield f"for tensor in gguf.GGUFReader({file!r}).tensors:"
        if swapped:
            yield "    data = np.array(tensor.data, tensor.data.dtype.newbyteorder('='))  # the file is big-endian"
        if "bfloat16" in swapped:
            yield "    if tensor.tensor_type.name == 'BF16':"
            yield "        data = data.view('u2').byteswap().view('u1')"
        if halves:
            yield f"    for at in {halves}.get(tensor.tensor_type.name, ()):"
            yield "        blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1])"
            yield "        blocks[:, [at, at + 1]] = blocks[:, [at + 1, at]]"
        yield f"    values = gguf.quants.dequantize({data}, tensor.tensor_type)"
        yield "    state[tensor.name] = torch.tensor(values)"


_OF_NUMPY = frozenset(
    {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"}
    | {"float16", "float32", "float64", "complex64", "complex128"}
)
"""Types that torch takes from an array; those of ml_dtypes it does not."""


def _load_onnx(checkpoint: Checkpoint) -> Iterator[str]:
    """The onnx package loads the model whole, with the files that it names."""
    yield f"model = onnx.load({_here(checkpoint.path, checkpoint)!r})"
    yield "arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}"
    array = "array"
    if any(info.dtype.name not in _OF_NUMPY for info in checkpoint.tensors.values()):
        array = "array if array.dtype.isbuiltin == 1 else array.astype('float32')"
    yield f"state = {{name: torch.tensor({array}) for name, array in arrays.items()}}"


def _load_distributed(infos: Sequence[TensorInfo], checkpoint: Checkpoint) -> Iterator[str]:
    """torch.distributed.checkpoint fills the tensors of a dict in place."""
    yield "state = {"
    for info in infos:
        yield f"    {info.keys[0]!r}: torch.empty({info.shape}, dtype=torch.{info.dtype.name}),"
    yield "}"
    folder = str(PurePath(_here(checkpoint.path, checkpoint)).parent)
    if checkpoint.loader == "distributed":
        yield "# Unpickles .metadata, which runs its code: only if you trust it."
        yield f"torch.distributed.checkpoint.load(state, checkpoint_id={folder!r}, no_dist=True)"
    else:
        yield f"reader = torch.distributed.checkpoint.HuggingFaceStorageReader({folder!r})"
        yield "torch.distributed.checkpoint.load(state, storage_reader=reader, no_dist=True)"


def _weight(weight: Weight, checkpoint: Checkpoint) -> tuple[Sequence[str], str]:
    """Lines that make a weight's numbers, and what they are called; the stored tensor where these are the numbers."""
    if weight.encoding is None:
        return (), _reach(weight.require_info(), checkpoint)
    lines = weight.encoding.python()
    for info in weight.stored:
        lines = [line.replace(f"state_dict[{info.name!r}]", _reach(info, checkpoint)) for line in lines]
    plain = re.fullmatch(r"weight = (.+)", lines[0]) if len(lines) == 1 else None
    return ((), plain[1]) if plain and plain[1] == _reach(weight.stored[0], checkpoint) else (lines, "weight")


def _reach(info: TensorInfo, checkpoint: Checkpoint) -> str:
    keys = info.keys or (info.name,)
    stored = "state" + "".join(f".{key}" if isinstance(key, Attribute) else f"[{key!r}]" for key in keys)
    if checkpoint.loader != "onnx":
        return stored
    if info.nbytes < info.region.nbytes:  # of a vector that holds the biases of several
        return f"{stored}[{info.offset}:{info.offset + info.numel}]"
    return stored if info.contiguous else f"{stored}.T"


def _split(
    packing: Packing,
    geometry: Geometry,
    total: int,
    names: Sequence[str],
    suffix: str,
    expression: str,
) -> list[str]:
    """Assign the parts of one stored tensor; ``names`` are the parts that it gives."""
    if len(packing.order) == 1 and not packing.heads_innermost:
        return [f"{' = '.join(name + suffix for name in names)} = {expression}"]
    groups, slots = slots_of(packing, geometry, total)
    targets = [f"{part}{suffix}" for part, _, _ in slots]
    sizes = [heads * width for _, heads, width in slots]
    if packing.slot_innermost and packing.groups == "rows":
        inner = f"{expression}.unflatten(0, ({groups}, {slots[0][1]}, {len(slots)}))"
        return [f"{', '.join(targets)} = (part.transpose(0, 1).flatten(0, 1) for part in {inner}.unbind(2))"]
    if packing.slot_innermost:
        inner = f"{expression}.unflatten(0, ({groups}, {geometry.head_dim}, {len(slots)}))"
        return [f"{', '.join(targets)} = (part.flatten(0, 1) for part in {inner}.unbind(2))"]
    if packing.groups == "rows":
        cut = f"{expression}.unflatten(0, ({groups}, {sum(sizes)})).split({sizes}, dim=1)"
        return [f"{', '.join(targets)} = (part.transpose(0, 1).flatten(0, 1) for part in {cut})"]
    if packing.heads_innermost:
        cut = f"{expression}.split({sizes})"
        counts = [heads for _, heads, _ in slots]
        if len(slots) == 1:
            turned = f"{expression}.unflatten(0, (-1, {counts[0]})).transpose(0, 1).flatten(0, 1)"
            return [f"{' = '.join(name + suffix for name in names)} = {turned}"]
        turned = "part.unflatten(0, (-1, heads)).transpose(0, 1).flatten(0, 1)"
        only = "," if len(targets) == 1 else ""
        return [f"{', '.join(targets)}{only} = ({turned} for part, heads in zip({cut}, {counts}))"]
    if groups == 1:
        cut = f".chunk({len(sizes)})" if len(set(sizes)) == 1 else f".split({sizes})"
        return [f"{', '.join(targets)} = {expression}{cut}"]
    cut = f"{expression}.unflatten(0, ({groups}, {sum(sizes)})).split({sizes}, dim=1)"
    return [f"{', '.join(targets)} = (part.flatten(0, 1) for part in {cut})"]
