"""GGUF, as llama.cpp's converters write it: a row for each thing that they do to the rows of Q, K and V.

Rows that store the same tensors differ in how they came about, which only ``general.architecture`` tells. The rows
of a head stay together in all of them, so that which rows are which head never depends on it.
"""

from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import QKV, K, Q, V

_NORM = (HeadTensor("attn_q_norm.weight", 0, "head_dim"), HeadTensor("attn_k_norm.weight", 0, "head_dim"))
_PERMUTED = (
    "in each head of Q and K, the rows of the first and the second half lie in turn, "
    "where transformers has one half behind the other"
)


def _separate(
    id: str,
    libraries: str,
    source: str,
    note: str,
    model_types: tuple[str, ...] = (),
    prefix: str = "attn_",
    out: tuple[str, ...] = ("attn_output.weight",),
    label: str = "",
    paired: tuple[str, ...] = (),
) -> Layout:
    """A row for three tensors; rows for some architectures only are taken where the metadata names one."""
    names = tuple((f"{prefix}{part}", packing) for part, packing in (("q", Q), ("k", K), ("v", V)))
    return Layout(
        id=id,
        libraries=libraries,
        weights=tuple(StoredWeight(f"{name}.weight", packing) for name, packing in names),
        biases=tuple(StoredWeight(f"{name}.bias", packing) for name, packing in names),
        layer="blk.#",
        out=out,
        label=label,
        paired=paired,
        source=source,
        proof="source",
        model_types=model_types,
        needs_config=bool(model_types),
        head_tensors=_NORM,
        v_free=True,
        note=note,
    )


def _fused(id: str, libraries: str, source: str, note: str, model_types: tuple[str, ...] = ()) -> Layout:
    """A row for one tensor, which llama.cpp always takes for Q, then K, then V."""
    return Layout(
        id=id,
        libraries=libraries,
        weights=(StoredWeight("attn_qkv.weight", QKV),),
        biases=(StoredWeight("attn_qkv.bias", QKV),),
        layer="blk.#",
        out=("attn_output|attn_out.weight",),
        unless=("ssm_conv1d.weight",),
        source=source,
        proof="source",
        model_types=model_types,
        needs_config=bool(model_types),
        head_tensors=_NORM,
        note=note,
    )


LAYOUTS = (
    _separate(
        "gguf",
        "llama.cpp, of an architecture without a row of its own",
        "llama.cpp gguf-py/gguf/constants.py, TENSOR_NAMES",
        "whether the rows of a head of Q and K were permuted depends on the architecture",
        out=("attn_output|attn_out|attn_o.weight",),
    ),
    _separate(
        "gguf-permuted",
        "llama.cpp from Llama, Mistral, Mixtral, Arcee, SmolLM3, Granite, MiniCPM, DeepSeek 1, OLMo 1, Arctic, Deci",
        "llama.cpp conversion/llama.py, LlamaModel.permute",
        _PERMUTED,
        paired=("q", "k"),
        model_types=(
            "llama",
            "llama-embed",
            "mistral3",
            "arcee",
            "smollm3",
            "granite",
            "granitemoe",
            "minicpm",
            "deepseek",
            "olmo",
            "arctic",
            "chameleon",
            "deci",
            "llada",
            "nanbeige",
        ),
    ),
    _separate(
        "gguf-unpacked-permuted",
        "llama.cpp from InternLM2, Bailing MoE, Baichuan, XVERSE",
        "llama.cpp conversion/internlm.py, bailingmoe.py, baichuan.py, xverse.py",
        f"cut out of one packed tensor, then permuted: {_PERMUTED}",
        paired=("q", "k"),
        model_types=("internlm2", "bailingmoe", "baichuan", "xverse"),
    ),
    _separate(
        "gguf-renamed",
        "llama.cpp from Qwen2, Qwen3, Gemma, OLMo 2, Phi-MoE, StableLM, EXAONE, StarCoder2, Nemotron, Llama 4, Apertus",
        "llama.cpp conversion/base.py, TextModel.modify_tensors",
        "as transformers stores them, under other names",
        model_types=(
            "qwen2",
            "qwen2moe",
            "qwen2vl",
            "qwen3",
            "qwen3moe",
            "gemma",
            "gemma2",
            "gemma3",
            "olmo2",
            "olmoe",
            "phimoe",
            "stablelm",
            "exaone",
            "starcoder2",
            "nemotron",
            "llama4",
            "apertus",
        ),
    ),
    _separate(
        "gguf-cross",
        "llama.cpp: attention to an encoder (T5)",
        "llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.DEC_CROSS_ATTN_Q",
        "as transformers stores them, under other names",
        prefix="cross_attn_",
        out=("cross_attn_o.weight",),
        label="cross",
    ),
    _fused(
        "gguf-qkv",
        "llama.cpp, of an architecture that packs Q, K and V (Phi-2, Phi-3, MPT, DBRX, ChatGLM, GLM-4, BERT kinds)",
        "llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.ATTN_QKV",
        "as transformers stores them, under another name",
    ),
    _fused(
        "gguf-qkv-from-heads",
        "llama.cpp from GPT-NeoX and BLOOM",
        "llama.cpp conversion/gptneox.py, bloom.py",
        "transformers has Q, K and V of each head together; the converter sorted them into Q, K, V",
        model_types=("gptneox", "bloom"),
    ),
    _fused(
        "gguf-qkv-from-groups",
        "llama.cpp from Falcon",
        "llama.cpp conversion/falcon.py",
        "transformers has each kv head behind the heads that use it; the converter sorted them into Q, K, V",
        model_types=("falcon",),
    ),
    _fused(
        "gguf-qkv-transposed",
        "llama.cpp from GPT-2 and Jais",
        "llama.cpp conversion/gpt2.py, jais.py",
        "transformers has [in, out]; the converter transposed it",
        model_types=("gpt2", "jais"),
    ),
)
