"""GGUF, as llama.cpp's converters write it: a row for each thing that they do to the rows of Q, K and V.

Rows that store the same tensors differ in how they came about, which only ``general.architecture`` tells. The rows
of a head stay together in all of them, so that which rows are which head never depends on it.
"""

from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.logits import NO_SOFTMAX
from qkvinspect.layouts.packing import QKV, K, Packing, Q, V

_NORM = (HeadTensor("attn_q_norm.weight", 0, "head_dim"), HeadTensor("attn_k_norm.weight", 0, "head_dim"))
_PERMUTED = (
    "in each head of Q and K, the rows of the first and the second half lie in turn, "
    "where transformers has one half behind the other"
)


_GATED = ("qwen3next", "qwen35", "qwen35moe")


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
    norms: tuple[HeadTensor, ...] = (),
    q: Packing = Q,
) -> Layout:
    """A row for three tensors; rows for some architectures only are taken where the metadata names one.

    Args:
        norms: those that are as wide as a head; in other architectures they are as wide as all heads together.
    """
    names = tuple((f"{prefix}{part}", packing) for part, packing in (("q", q), ("k", K), ("v", V)))
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
        head_tensors=norms,
        v_free=True,
        note=note,
    )


def _fused(
    id: str,
    libraries: str,
    source: str,
    note: str,
    model_types: tuple[str, ...] = (),
    norms: tuple[HeadTensor, ...] = (),
) -> Layout:
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
        head_tensors=norms,
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
        "llama.cpp from Qwen2, Gemma, OLMo 2, OLMoE, Phi-MoE, StableLM, EXAONE, StarCoder2, Nemotron, Llama 4",
        "llama.cpp conversion/base.py, TextModel.modify_tensors",
        "as transformers stores them, under other names",
        model_types=(
            "qwen2",
            "qwen2moe",
            "qwen2vl",
            "gemma",
            "gemma2",
            "olmo2",
            "olmoe",
            "phimoe",
            "stablelm",
            "exaone",
            "starcoder2",
            "nemotron",
            "llama4",
            "phi2",
        ),
    ),
    _separate(
        "gguf-renamed-norms",
        "llama.cpp from Qwen3, Gemma 3, Apertus: with norms of each head",
        "llama.cpp conversion/qwen.py, gemma.py, apertus of llama.py",
        "as transformers stores them, under other names",
        norms=_NORM,
        model_types=("qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "gemma3", "apertus"),
    ),
    _separate(
        "gguf-gated",
        "llama.cpp from Qwen3-Next and Qwen3.5: full attention with an output gate",
        "llama.cpp conversion/qwen.py, Qwen3NextModel.modify_tensors",
        "as transformers stores them, under other names; behind the rows of every head of Q stand those of its gate",
        norms=_NORM,
        q=Packing(("q", "gate"), groups="heads"),
        model_types=_GATED,
    ),
    Layout(
        id="gguf-gdn",
        libraries="llama.cpp from Qwen3-Next and Qwen3.5: gated delta net",
        weights=(StoredWeight("attn_qkv.weight", QKV),),
        layer="blk.#",
        siblings=("ssm_conv1d.weight",),
        out=("ssm_out.weight",),
        v_free=True,
        kv_heads="equal",
        head_tensors=(HeadTensor("ssm_norm.weight", 0, "head_dim"),),
        model_types=_GATED,
        needs_config=True,
        head_keys=tuple(f"{architecture}.ssm.group_count" for architecture in _GATED),
        source="llama.cpp conversion/qwen.py, Qwen3NextModel.modify_tensors",
        logits=NO_SOFTMAX,
        proof="source",
        note=(
            "the converter sorted Q, K, V and gate of each key head into Q, K, V and a tensor for the gate; "
            "of Qwen3.5, value heads of one key head do not stand together"
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
        "gguf-qkv-norms",
        "llama.cpp from Bailing MoE 2",
        "llama.cpp conversion/bailingmoe.py, BailingMoeV2Model.modify_tensors",
        "as transformers stores them, under another name",
        model_types=("bailingmoe2",),
        norms=_NORM,
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
