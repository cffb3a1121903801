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

_APART = (StoredWeight("attn_q.weight", Q), StoredWeight("attn_k.weight", K), StoredWeight("attn_v.weight", V))
_CROSS = (
    StoredWeight("cross_attn_q.weight", Q),
    StoredWeight("cross_attn_k.weight", K),
    StoredWeight("cross_attn_v.weight", V),
)
_PACKED = (StoredWeight("attn_qkv.weight", QKV),)
"""llama.cpp always takes it for Q, then K, then V."""

LAYOUTS = (
    Layout(
        id="gguf",
        libraries="llama.cpp, of an architecture without a row of its own",
        weights=_APART,
        layer="blk.#",
        out=("attn_output|attn_out|attn_o.weight",),
        head_tensors=_NORM,
        v_free=True,
        source="llama.cpp gguf-py/gguf/constants.py, TENSOR_NAMES",
        proof="source",
        note="whether the rows of a head of Q and K were permuted depends on the architecture",
    ),
    Layout(
        id="gguf-permuted",
        libraries=(
            "llama.cpp from Llama, Mistral, Mixtral, Arcee, SmolLM3, Granite, MiniCPM, DeepSeek 1, OLMo 1, Arctic, Deci"
        ),
        weights=_APART,
        layer="blk.#",
        out=("attn_output.weight",),
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
        needs_config=True,
        paired=("q", "k"),
        rotary="neighbours",
        head_tensors=_NORM,
        v_free=True,
        source="llama.cpp conversion/llama.py, LlamaModel.permute",
        proof="source",
        note=_PERMUTED,
    ),
    Layout(
        id="gguf-unpacked-permuted",
        libraries="llama.cpp from InternLM2, Bailing MoE, Baichuan, XVERSE",
        weights=_APART,
        layer="blk.#",
        out=("attn_output.weight",),
        model_types=("internlm2", "bailingmoe", "baichuan", "xverse"),
        needs_config=True,
        paired=("q", "k"),
        rotary="neighbours",
        head_tensors=_NORM,
        v_free=True,
        source="llama.cpp conversion/internlm.py, bailingmoe.py, baichuan.py, xverse.py",
        proof="source",
        note=f"cut out of one packed tensor, then permuted: {_PERMUTED}",
    ),
    Layout(
        id="gguf-renamed",
        libraries=(
            "llama.cpp from Qwen2, Qwen3, Gemma, OLMo 2, Phi-MoE, StableLM, EXAONE, StarCoder2, Nemotron, Llama 4, "
            "Apertus"
        ),
        weights=_APART,
        layer="blk.#",
        out=("attn_output.weight",),
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
        needs_config=True,
        head_tensors=_NORM,
        v_free=True,
        source="llama.cpp conversion/base.py, TextModel.modify_tensors",
        proof="source",
        note="as transformers stores them, under other names",
    ),
    Layout(
        id="gguf-cross",
        libraries="llama.cpp: attention to an encoder (T5)",
        weights=_CROSS,
        layer="blk.#",
        out=("cross_attn_o.weight",),
        label="cross",
        head_tensors=_NORM,
        v_free=True,
        source="llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.DEC_CROSS_ATTN_Q",
        proof="source",
        note="as transformers stores them, under other names",
    ),
    Layout(
        id="gguf-qkv",
        libraries=(
            "llama.cpp, of an architecture that packs Q, K and V (Phi-2, Phi-3, MPT, DBRX, ChatGLM, GLM-4, BERT kinds)"
        ),
        weights=_PACKED,
        layer="blk.#",
        out=("attn_output|attn_out.weight",),
        unless=("ssm_conv1d.weight",),
        kv_heads="free",
        head_tensors=_NORM,
        source="llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.ATTN_QKV",
        proof="source",
        note="as transformers stores them, under another name",
    ),
    Layout(
        id="gguf-qkv-from-heads",
        libraries="llama.cpp from GPT-NeoX and BLOOM",
        weights=_PACKED,
        layer="blk.#",
        out=("attn_output|attn_out.weight",),
        unless=("ssm_conv1d.weight",),
        model_types=("gptneox", "bloom"),
        needs_config=True,
        kv_heads="free",
        head_tensors=_NORM,
        source="llama.cpp conversion/gptneox.py, bloom.py",
        proof="source",
        note="transformers has Q, K and V of each head together; the converter sorted them into Q, K, V",
    ),
    Layout(
        id="gguf-qkv-from-groups",
        libraries="llama.cpp from Falcon",
        weights=_PACKED,
        layer="blk.#",
        out=("attn_output|attn_out.weight",),
        unless=("ssm_conv1d.weight",),
        model_types=("falcon",),
        needs_config=True,
        kv_heads="free",
        head_tensors=_NORM,
        source="llama.cpp conversion/falcon.py",
        proof="source",
        note="transformers has each kv head behind the heads that use it; the converter sorted them into Q, K, V",
    ),
    Layout(
        id="gguf-qkv-transposed",
        libraries="llama.cpp from GPT-2 and Jais",
        weights=_PACKED,
        layer="blk.#",
        out=("attn_output|attn_out.weight",),
        unless=("ssm_conv1d.weight",),
        model_types=("gpt2", "jais"),
        needs_config=True,
        kv_heads="free",
        head_tensors=_NORM,
        source="llama.cpp conversion/gpt2.py, jais.py",
        proof="source",
        note="transformers has [in, out]; the converter transposed it",
    ),
)
