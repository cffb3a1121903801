"""The config says another way of quantising than is stored.

A loader goes by the config: ``quantization_config`` of transformers, vLLM and llm-compressor, ``quantization`` of MLX.
What is looked at: the method; for bitsandbytes nf4 or fp4, 4 or 8 bits, and whether the scales are quantised too; for
compressed-tensors type and bits of each group of layers; how many values share a scale, and for GPTQ whether inputs are
in the order of their groups. A method that is not known here says nothing. Bits and groups that do not fill the tensors
are ``no-values``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.parsed import is_mapping, is_size
from qkvinspect.weights.companions import said, schemes_in
from qkvinspect.weights.encodings.awq import Awq
from qkvinspect.weights.encodings.bitsandbytes_4bit import FourBitBlocks
from qkvinspect.weights.encodings.gptq import Gptq
from qkvinspect.weights.encodings.micro_float import MicroFloat
from qkvinspect.weights.encodings.mlx import MlxAffine
from qkvinspect.weights.encodings.packed_integers import PackedIntegers
from qkvinspect.weights.encodings.scaled_float import ScaledFloat
from qkvinspect.weights.encodings.scaled_int import ScaledInteger
from qkvinspect.weights.weight import Encoding

CODE: FindingCode = FindingCode.QUANTISED_OTHERWISE

_METHODS: Mapping[str, tuple[type[Encoding], ...]] = {
    "bitsandbytes": (FourBitBlocks, ScaledInteger),
    "gptq": (Gptq,),
    "awq": (Awq,),
    "auto-round": (Gptq, Awq),
    "compressed-tensors": (PackedIntegers, ScaledInteger, ScaledFloat, MicroFloat),
    "fp8": (ScaledFloat,),
    "fbgemm_fp8": (ScaledFloat,),
    "modelopt": (ScaledFloat, MicroFloat, ScaledInteger),
    "mxfp4": (MicroFloat,),
    "quark": (ScaledFloat, MicroFloat, ScaledInteger),
    "torchao": (ScaledFloat, ScaledInteger),
    "quanto": (ScaledFloat, ScaledInteger),
}
"""The encodings in which each method of a config stores weights."""

_KNOWN = tuple({kind for kinds in _METHODS.values() for kind in kinds} | {MlxAffine})


def find(subject: Subject) -> Iterator[Fault]:
    report = subject.report
    weights = report.weights.encoded.values()
    held = [weight.encoding for weight in weights if isinstance(weight.encoding, _KNOWN)]
    if report.checkpoint.adapter is not None or any(weight.why for weight in weights):
        return  # ``no-values`` reports what cannot be decoded
    kinds = tuple(dict.fromkeys(encoding.label for encoding in held))
    shown = " and ".join(kinds[:2]) + (", ..." if len(kinds) > 2 else "")
    says = next(said(report.checkpoint), None)
    if says is None:
        if held and _of_a_library(subject):
            yield None, f"the config says nothing of quantisation, and the tensors are {shown}"
        return
    method = says.get("quant_method")
    wanted = _METHODS.get(method.lower()) if isinstance(method, str) else None
    if wanted is None:
        return
    if not held:
        yield None, f"the config says that weights are quantised ({method}), and no tensor is"
    elif not any(isinstance(encoding, wanted) for encoding in held):
        yield None, f"the config says {method}, and the tensors are {shown}"
    else:
        yield from ((None, f"the config says {what}, and the tensors are {shown}") for what in _details(says, held))


def _details(says: Mapping[str, object], held: Sequence[Encoding]) -> Iterator[str]:
    """Details of the method in a config that no tensor shows."""
    four = [encoding for encoding in held if isinstance(encoding, FourBitBlocks)]
    kind, nested = says.get("bnb_4bit_quant_type"), says.get("bnb_4bit_use_double_quant")
    if four and isinstance(kind, str) and all(encoding.kind != kind for encoding in four):
        yield f"bnb_4bit_quant_type {kind}"
    if four and isinstance(nested, bool) and all((encoding.nested is not None) != nested for encoding in four):
        yield f"bnb_4bit_use_double_quant {nested}"
    if says.get("load_in_4bit") is True and not four:
        yield "load_in_4bit"
    if says.get("load_in_8bit") is True and len(four) == len(held):
        yield "load_in_8bit"
    wanted = {
        (kind, bits)
        for scheme in schemes_in(says)
        if isinstance(kind := scheme.get("type"), str) and is_size(bits := scheme.get("num_bits"))
    }
    if wanted and wanted.isdisjoint(map(_type_and_bits, held)):
        yield " or ".join(f"{kind} of {bits} bits" for kind, bits in sorted(wanted))
    yield from _groups(says, held)
    if says.get("desc_act") is False and any(isinstance(encoding, Gptq) and _act_order(encoding) for encoding in held):
        yield "desc_act False (loaders that go by it ignore g_idx, which is not in order)"


def _groups(says: Mapping[str, object], held: Sequence[Encoding]) -> Iterator[str]:
    """A size of groups that the scales contradict: of any weight, or of all where layers may have their own."""
    grouped = [encoding for encoding in held if isinstance(encoding, (Gptq, Awq, PackedIntegers))]
    sizes = [found["group_size"] for found in (says, *schemes_in(says)) if "group_size" in found]
    wanted = [size for size in sizes if is_size(size)]
    if not grouped or not sizes or len(wanted) + sizes.count(-1) < len(sizes):
        return
    otherwise = [
        encoding.group not in {min(size, width) for size in (*wanted, *[width] * sizes.count(-1))}
        for encoding in grouped
        for width in encoding.shape[1:]
    ]
    if all(otherwise) or (any(otherwise) and not {"dynamic", "extra_config"} & set(says)):
        yield f"group_size {' or '.join(map(str, dict.fromkeys(sizes)))}"


def _act_order(encoding: Gptq) -> bool:
    """Whether neighbouring inputs do not share groups in turn.

    Raises:
        CheckpointError: an input is of a group that is not there.
    """
    from qkvinspect.weights.grouping import groups_in_order

    groups = encoding.scales.shape[0]
    return groups_in_order(encoding.order, range(encoding.shape[1]), encoding.group, groups)[1] is not None


def _type_and_bits(encoding: Encoding) -> tuple[str, int] | None:
    match encoding:
        case PackedIntegers():
            return "int", encoding.bits
        case ScaledInteger():
            return "int", 8
        case ScaledFloat():
            return "float", 8
        case MicroFloat():
            return "float", 4
        case _:
            return None


def _of_a_library(subject: Subject) -> bool:
    """Whether there is a config of a model, in which a library looks for how it is quantised."""
    return any(
        is_mapping(config.values) and ("architectures" in config.values or "model_type" in config.values)
        for config in subject.report.checkpoint.configs
    )
