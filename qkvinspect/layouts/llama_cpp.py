"""GGUF, as llama.cpp's converters write it: a row for each thing that they do to the rows of Q, K and V.

Rows that store the same tensors differ in how they came about, which only ``general.architecture`` tells. The rows
of a head stay together in all of them, so that which rows are which head never depends on it.
"""

from qkvinspect.fast_dataclass import replace
from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.logits import NO_SOFTMAX
from qkvinspect.layouts.packing import KV_PER_HEAD, QKV, K, Packing, Q, V

_NORM = (HeadTensor("attn_q_norm.weight", 0, "head_dim"), HeadTensor("attn_k_norm.weight", 0, "head_dim"))
PERMUTED = (
    "in each head of Q and K, the rows of the first and the second half lie in turn, "
    "where transformers has one half behind the other"
)

_BIASES_STAY = "in biases they are left as transformers has them"

_APART = (StoredWeight("attn_q.weight", Q), StoredWeight("attn_k.weight", K), StoredWeight("attn_v.weight", V))
_CROSS = (
    StoredWeight("cross_attn_q.weight", Q),
    StoredWeight("cross_attn_k.weight", K),
    StoredWeight("cross_attn_v.weight", V),
)
_PACKED = (StoredWeight("attn_qkv.weight", QKV),)
"""llama.cpp always reads it as Q, then K, then V."""

_GATED = ("qwen3next", "qwen35", "qwen35moe")

ANY = Layout(
    id="gguf",
    libraries="llama.cpp, of an architecture without a row of its own",
    weights=_APART,
    layer="blk.#",
    out=("attn_output|attn_out|attn_o.weight",),
    v_free=True,
    rewritten_by="llama.cpp",
    source="llama.cpp gguf-py/gguf/constants.py, TENSOR_NAMES",
    proof="source",
    note="whether the rows of a head of Q and K were permuted depends on the architecture",
)
_OF_AN_ARCHITECTURE = replace(ANY, out=("attn_output.weight",), needs_config=True)
_HALVES_IN_TURN = replace(_OF_AN_ARCHITECTURE, paired=("q", "k"), rotary="neighbours")
_RENAMED = replace(_OF_AN_ARCHITECTURE, note="as transformers stores them, under other names")

ANY_PACKED = Layout(
    id="gguf-qkv",
    libraries="llama.cpp, of an architecture without a row of its own that packs Q, K and V",
    weights=_PACKED,
    layer="blk.#",
    out=("attn_output|attn_out.weight",),
    unless=("ssm_conv1d.weight",),
    kv_heads="free",
    head_tensors=(),
    rewritten_by="llama.cpp",
    source="llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.ATTN_QKV",
    proof="source",
    note="whether the converter put rows in another order depends on the architecture",
)
_PACKED_OF_AN_ARCHITECTURE = replace(
    ANY_PACKED, needs_config=True, note="as transformers stores them, under another name"
)

_DELTA = Layout(
    id="gguf-gdn",
    libraries="llama.cpp from Qwen3-Next: gated delta net",
    weights=_PACKED,
    layer="blk.#",
    siblings=("ssm_conv1d.weight",),
    out=("ssm_out.weight",),
    v_free=True,
    kv_heads="equal",
    head_tensors=(HeadTensor("ssm_norm.weight", 0, "head_dim"),),
    model_types=("qwen3next",),
    needs_config=True,
    head_keys=tuple(f"{architecture}.ssm.group_count" for architecture in _GATED),
    rewritten_by="llama.cpp",
    source="llama.cpp conversion/qwen.py, Qwen3NextModel.modify_tensors",
    logits=NO_SOFTMAX,
    proof="source",
    note="the converter sorted Q, K, V and gate of each key head into Q, K, V and a tensor for the gate",
)

LAYOUTS = (
    ANY,
    replace(
        _HALVES_IN_TURN,
        id="gguf-permuted",
        libraries="llama.cpp from Llama, Mistral, Mixtral, Arcee, SmolLM3, Granite, DeepSeek 1, Deci, LLaDA, Chameleon",
        model_types=(
            *("llama", "llama-embed", "mistral3", "arcee", "smollm3", "granite", "granitemoe", "granitehybrid"),
            *("deepseek", "chameleon", "deci", "llada", "nanbeige", "eagle3"),
        ),
        source="llama.cpp conversion/llama.py, LlamaModel.permute",
        note=PERMUTED,
    ),
    replace(
        _HALVES_IN_TURN,
        id="gguf-permuted-weights",
        libraries="llama.cpp from MiniCPM, OLMo 1, Arctic",
        model_types=("minicpm", "olmo", "arctic"),
        biases_stay=True,
        source="llama.cpp conversion/minicpm.py, olmo.py, arctic.py, modify_tensors",
        note=f"{PERMUTED}; {_BIASES_STAY}",
    ),
    replace(
        _HALVES_IN_TURN,
        id="gguf-permuted-by-share",
        libraries="llama.cpp from XVERSE",
        model_types=("xverse",),
        biases_stay=True,
        k_by_share=True,
        source="llama.cpp conversion/xverse.py, _reverse_hf_permute",
        note=f"{PERMUTED}; {_BIASES_STAY}; K of fewer heads was permuted as if it had as many as share one",
    ),
    replace(
        _HALVES_IN_TURN,
        id="gguf-unpacked-permuted",
        libraries="llama.cpp from InternLM2, Bailing MoE, Baichuan",
        model_types=("internlm2", "bailingmoe", "baichuan"),
        biases_stay=True,
        source="llama.cpp conversion/internlm.py, bailingmoe.py, baichuan.py",
        note=f"cut out of one packed tensor, then permuted: {PERMUTED}; a bias of the packed one is not permuted",
    ),
    replace(
        _RENAMED,
        id="gguf-renamed",
        libraries=(
            "llama.cpp from Qwen2, Gemma, OLMo 2, OLMoE, Phi-MoE, StableLM, EXAONE, StarCoder2, Nemotron, Llama 4, "
            "BERT, T5"
        ),
        out=("attn_output|attn_o.weight",),
        model_types=(
            *("qwen2", "qwen2moe", "qwen2vl", "gemma", "gemma2", "olmo2", "olmoe", "phimoe", "stablelm", "exaone"),
            *("starcoder2", "nemotron", "llama4", "phi2", "*bert*", "t5", "t5encoder"),
        ),
        source="llama.cpp conversion/base.py, TextModel.modify_tensors",
    ),
    replace(
        _RENAMED,
        id="gguf-renamed-norms",
        libraries="llama.cpp from Qwen3, Gemma 3, Apertus: with norms of each head",
        model_types=("qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "gemma3", "apertus"),
        head_tensors=_NORM,
        source="llama.cpp conversion/qwen.py, gemma.py, apertus of llama.py",
    ),
    Layout(
        id="gguf-gated",
        libraries="llama.cpp from Qwen3-Next and Qwen3.5: full attention with an output gate",
        weights=(StoredWeight("attn_q.weight", Packing(("q", "gate"), groups="heads")), *_APART[1:]),
        layer="blk.#",
        out=("attn_output.weight",),
        model_types=_GATED,
        needs_config=True,
        head_tensors=_NORM,
        v_free=True,
        rewritten_by="llama.cpp",
        source="llama.cpp conversion/qwen.py, Qwen3NextModel.modify_tensors",
        proof="source",
        note="under other names, as transformers stores them: behind the rows of each head of Q are those of its gate",
    ),
    _DELTA,
    *(
        replace(
            _DELTA,
            id=f"gguf-gdn-{count}",
            libraries=f"llama.cpp from Qwen3.5: gated delta net, {count} value heads for each key head",
            subheads=(("v", count),) if count > 1 else (),
            subheads_apart=True,
            model_types=("qwen35", "qwen35moe"),
            flags={"value_heads_of_a_key_head": (count,)},
            source="llama.cpp conversion/qwen.py, _LinearAttentionVReorderBase.modify_tensors",
            note=(
                "transformers has the value heads of one key head together; the converter put the first of every key "
                "head before the second of every one"
            ),
        )
        for count in (1, 2, 3, 4, 8)
    ),
    *(
        Layout(
            id=id,
            libraries=libraries,
            weights=(StoredWeight("attn_kv_b.weight", KV_PER_HEAD), StoredWeight(q, Q)),
            layer="blk.#",
            siblings=("attn_kv_a_mqa.weight",),
            unless=unless,
            out=("attn_output.weight",),
            biases=(),
            v_free=True,
            kv_heads="equal",
            rewritten_by="llama.cpp",
            source="llama.cpp conversion/deepseek.py, DeepseekV2Model.modify_tensors",
            proof="source",
            note=(
                "transformers has K and V of each head in one tensor, as llama.cpp had too; its converter now cuts it "
                "into attn_k_b, turned, and attn_v_b. A head of Q ends with its rotary part; that of K is the same for "
                "all heads, in attn_kv_a_mqa"
            ),
        )
        for id, libraries, q, unless in (
            ("gguf-mla", "llama.cpp from DeepSeek-V2, V3, R1, Kimi K2: latent attention", "attn_q_b.weight", ()),
            (
                "gguf-mla-lite",
                "llama.cpp from DeepSeek-V2-Lite: latent attention with a plain query",
                "attn_q.weight",
                ("attn_q_b.weight",),
            ),
        )
    ),
    Layout(
        id="gguf-cross",
        libraries="llama.cpp: attention to an encoder (T5)",
        weights=_CROSS,
        layer="blk.#",
        out=("cross_attn_o.weight",),
        label="cross",
        v_free=True,
        rewritten_by="llama.cpp",
        source="llama.cpp gguf-py/gguf/constants.py, MODEL_TENSOR.DEC_CROSS_ATTN_Q",
        proof="source",
        note="as transformers stores them, under other names",
    ),
    ANY_PACKED,
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-renamed",
        libraries="llama.cpp from Phi-2, Phi-3, MPT, DBRX, ChatGLM, BERT kinds that pack Q, K and V",
        model_types=("phi2", "phi3", "mpt", "dbrx", "chatglm", "*bert*"),
        source="llama.cpp conversion/base.py, TextModel.modify_tensors",
    ),
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-norms",
        libraries="llama.cpp from Bailing MoE 2",
        model_types=("bailingmoe2",),
        head_tensors=_NORM,
        source="llama.cpp conversion/bailingmoe.py, BailingMoeV2Model.modify_tensors",
    ),
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-from-heads",
        libraries="llama.cpp from GPT-NeoX and BLOOM",
        model_types=("gptneox", "bloom"),
        source="llama.cpp conversion/gptneox.py, bloom.py",
        note="transformers has Q, K and V of each head together; the converter sorted them into Q, K, V",
    ),
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-from-groups",
        libraries="llama.cpp from Falcon",
        model_types=("falcon",),
        source="llama.cpp conversion/falcon.py",
        note="transformers has each kv head behind the heads that use it; the converter sorted them into Q, K, V",
    ),
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-from-stripes",
        libraries="llama.cpp from MiMo-V2",
        model_types=("mimo2",),
        v_free=True,
        source="llama.cpp conversion/mimo.py, MimoV2Model._tp_aware_qkv_dequant",
        note=(
            "transformers has a stripe of Q, K and V for each rank of tensor parallelism; the converter sorted them "
            "into Q, K, V"
        ),
    ),
    replace(
        _PACKED_OF_AN_ARCHITECTURE,
        id="gguf-qkv-transposed",
        libraries="llama.cpp from GPT-2 and Jais",
        model_types=("gpt2", "jais"),
        source="llama.cpp conversion/gpt2.py, jais.py",
        note="transformers has [in, out]; the converter transposed it",
    ),
)
