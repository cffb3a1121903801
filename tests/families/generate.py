"""Write one JSON description per tiny model of a real library (unfused Q/K/V).

Every model is built from a small configuration with random weights.  A JSON file
holds the name, dtype and shape of every tensor of its checkpoint (no values), the
``config.json`` the library wrote, and the true attention projections.

How the truth is obtained - never from patterns over tensor names:

* ``named_modules()`` is walked, and a module whose *class* is listed in ``SPECS``
  is an attention; its q/k/v/output submodules (or parameters) are fetched by
  attribute, e.g. ``module.self.query``.
* The number of heads and the head width are read from attributes of that module,
  or of the ``config`` object it was built with.  Where a library keeps no head
  width, it is the number of rows of Q divided by the number of heads.
* Every parameter is first filled with distinct random values.  A parameter's name
  in the checkpoint is then the one tensor there that has the same values, so a
  library that renames tensors on saving cannot mislead us.
* Head counts are checked against the shapes, and the number of attentions against
  the number written down by hand in cases.py.  Decoys expect none.

Usage: ``python generate.py [OUTPUT_DIRECTORY]`` (see README.md for what to install).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """Attribute paths, relative to an attention module, of what it is made of."""

    q: str
    k: str
    v: str
    out: str
    heads: str
    head_dim: str = ""  # empty: rows of Q / heads
    kv_heads: str = ""  # empty: same as heads


HEADS, SIZE, DIM = "num_attention_heads", "attention_head_size", "head_dim"
PROJ = ("q_proj", "k_proj", "v_proj")
SELF = ("self.query", "self.key", "self.value")
BERT = Spec(*SELF, "output.dense", f"self.{HEADS}", f"self.{SIZE}")
LIN = Spec("q_lin", "k_lin", "v_lin", "out_lin", "n_heads", DIM)
VIT = Spec(*PROJ, "o_proj", HEADS, DIM)
GQA = Spec(*PROJ, "o_proj", f"config.{HEADS}", DIM, "config.num_key_value_heads")
BART = Spec(*PROJ, "out_proj", "num_heads", DIM)
DETR = Spec(*PROJ, "o_proj", "config.encoder_attention_heads", DIM)
TO = ("to_q", "to_k", "to_v")
ADD = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
REFORMER = tuple(name.replace("self", "self_attention") for name in SELF)
GLOBAL = tuple(f"{name}_global" for name in SELF)

# The end of the dotted path of an attention class -> what its instances contain.
SPECS: dict[str, list[Spec]] = {
    **{f"{n}Attention": [BERT] for n in ("Bert", "Roberta", "Electra", "Esm", "BlipText")},
    **{f"{n}Attention": [VIT] for n in ("ViT", "DeiT", "Beit", "Dinov2", "Swin", "Segformer")},
    **{f"{n}Attention": [GQA] for n in ("Llama", "Mistral", "Gemma", "Qwen2", "Qwen3", "Olmo2", "Mixtral", "GptOss")},
    **{f"{n}Attention": [BART] for n in ("Bart", "Marian", "OPT", "CLIP", "Whisper", "Wav2Vec2", "GPTNeoSelf")},
    "Lfm2Attention": [Spec(*PROJ, "out_proj", GQA.heads, DIM, GQA.kv_heads)],
    "GPTJAttention": [Spec(*PROJ, "out_proj", HEADS, DIM)],
    "DetrSelfAttention": [DETR],
    "DetrCrossAttention": [DETR],
    "AlbertAttention": [Spec("query", "key", "value", "dense", HEADS, SIZE)],
    "DistilBertSelfAttention": [Spec("q_lin", "k_lin", "v_lin", "out_lin", "n_heads", SIZE)],
    "DebertaV2Attention": [Spec(*(f"{n}_proj" for n in SELF), BERT.out, BERT.heads, BERT.head_dim)],
    "LongformerAttention": [
        Spec(*SELF, "output.dense", "self.num_heads", "self.head_dim"),
        Spec(*GLOBAL, "output.dense", "self.num_heads", "self.head_dim"),
    ],
    "ReformerAttention": [Spec(*REFORMER, "output.dense", f"self_attention.{HEADS}", f"self_attention.{SIZE}")],
    "MPNetSelfAttention": [Spec("q", "k", "v", "o", HEADS, SIZE)],
    "T5Attention": [Spec("q", "k", "v", "o", "n_heads", "key_value_proj_dim")],
    "XLNetRelativeAttention": [Spec("q", "k", "v", "o", "n_head", "d_head")],
    "FunnelRelMultiheadAttention": [Spec("q_head", "k_head", "v_head", "post_proj", "config.n_head", "config.d_head")],
    "CpmAntAttention": [Spec("project_q", "project_k", "project_v", "attention_out", "num_heads", "dim_head")],
    "modeling_xlm.MultiHeadAttention": [LIN],
    "modeling_flaubert.MultiHeadAttention": [LIN],
    "modeling_ctrl.MultiHeadAttention": [Spec("Wq", "Wk", "Wv", "dense", "num_heads", DIM)],
    "attention_processor.Attention": [Spec(*TO, "to_out.0", "heads"), Spec(*ADD, "heads")],
    "FluxAttention": [Spec(*TO, "to_out.0", "heads", DIM), Spec(*ADD, "heads", DIM)],
    "x_transformers.x_transformers.Attention": [Spec(*TO, "to_out", "heads", kv_heads="kv_heads")],
    "whisper.model.MultiHeadAttention": [Spec("query", "key", "value", "out", "n_head")],
    "esm.multihead_attention.MultiheadAttention": [BART],
    "llama3.model.Attention": [Spec("wq", "wk", "wv", "wo", "n_local_heads", DIM, "n_local_kv_heads")],
    "EvaAttention": [Spec(*PROJ, "proj", "num_heads", DIM)],
    "modified_resnet.AttentionPool2d": [Spec(*PROJ, "c_proj", "num_heads")],
}
# Multi-head latent attention: no plain Q, K and V, so its weights are only listed.
MLA = ("DeepseekV3Attention", "DeepseekV2Attention")
MLA_WEIGHTS = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
MLA_SIZES = ("num_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")


def prepare() -> torch.library.Library | None:
    """Make the libraries importable and runnable on one CPU process.

    A GPU build of torchvision cannot register its kernels with a CPU build of torch;
    declaring two of its operators is enough to import it (keep the returned object
    alive).  llama_models needs a (single-process) model-parallel group.
    """
    operators = None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    importlib.import_module("fairscale.nn.model_parallel").initialize_model_parallel(1)
    importlib.import_module("transformers").logging.set_verbosity_error()
    return operators


def load(target: str) -> Any:
    """Import what "module:name" stands for."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def build(case: Case) -> nn.Module:
    """Build the model of a case and give all its parameters distinct random values."""
    kwargs = {}
    for key, value in case.kwargs.items():
        if isinstance(value, tuple) and isinstance(value[0], str) and ":" in value[0]:
            nested = isinstance(value[1], dict)
            made = load(value[0])(**value[1]) if nested else load(value[0])(*value[1:])
            kwargs[key] = made
        else:
            kwargs[key] = value
    cls = load(case.target)
    model = cls(load(f"transformers:{case.config}")(**kwargs)) if case.config else cls(**kwargs)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def checkpoint(case: Case, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors of the model's checkpoint and the config the library wrote."""
    if case.dist not in ("transformers", "diffusers"):
        return dict(model.state_dict()), None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(Path(folder, "config.json").read_text())
        (path,) = Path(folder).glob("*.safetensors")
        saved = load_file(path)
    return (saved if case.names == "save_pretrained" else dict(model.state_dict())), config


def fetch(module: nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path, or None where there is none."""
    try:
        return attrgetter(path)(module) if path else None
    except AttributeError:
        return None


def weight(part: nn.Module | Tensor | None) -> Tensor | None:
    """Return the weight of a projection, which may be a bare parameter."""
    return part.weight if isinstance(part, nn.Module) else part


def name_of(parameter: Tensor | None, tensors: dict[str, Tensor]) -> str | None:
    """Find the name in the checkpoint of a parameter by its values."""
    if parameter is None:
        return None
    (name,) = (n for n, t in tensors.items() if t.shape == parameter.shape and t.equal(parameter))
    return name


def common_prefix(*names: str) -> str:
    """Return the dotted prefix that all the names share."""
    parts: list[str] = []
    for column in zip(*(name.split(".") for name in names), strict=False):
        if len(set(column)) > 1:
            break
        parts.append(column[0])
    return ".".join(parts)


def describe(module: nn.Module, spec: Spec, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Describe one attention, or return None where the module lacks one of q, k, v."""
    parts = {key: fetch(module, getattr(spec, key)) for key in ("q", "k", "v")}
    if any(part is None for part in parts.values()):
        return None
    names = {key: name_of(weight(part), tensors) for key, part in parts.items()}
    biases = {f"{k}_bias": name_of(getattr(p, "bias", None), tensors) for k, p in parts.items()}
    # XLNet keeps (in, heads, head_dim); all others keep (heads * head_dim, in, ...).
    rows = {k: p.shape[1:].numel() if p.dim() == 3 else p.shape[0]
            for k, p in ((k, weight(p)) for k, p in parts.items())}  # fmt: skip
    heads = fetch(module, spec.heads)
    kv_heads = fetch(module, spec.kv_heads) if spec.kv_heads else heads
    head_dim = fetch(module, spec.head_dim) if spec.head_dim else rows["q"] // heads
    expected = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    if rows != expected:
        raise ValueError(f"{names}: {rows} rows, expected {expected}")
    return {
        "layer": common_prefix(*names.values()), **names, **biases,
        "out": name_of(weight(fetch(module, spec.out)), tensors),
        "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim,
    }  # fmt: skip


def specs_of(module: nn.Module) -> list[Spec]:
    """Return the specs of the module's class; none if it is not an attention."""
    full = f".{type(module).__module__}.{type(module).__name__}"
    # A key without a dot is a whole class name; one with dots ends the class's path.
    return next((s for key, s in SPECS.items() if full.endswith("." + key)), [])


def latent(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Describe the multi-head latent attentions of a model."""
    for module in model.modules():
        if type(module).__name__ in MLA:
            parts = [p for n in MLA_WEIGHTS if (p := getattr(module, n, None)) is not None]
            names = [str(name_of(weight(part), tensors)) for part in parts]
            sizes = {size: getattr(module, size) for size in MLA_SIZES}
            yield {"layer": common_prefix(*names), "weights": names, **sizes}


def generate(case: Case, folder: Path) -> None:
    """Write the file of one case."""
    model = build(case)
    tensors, config = checkpoint(case, model)
    found = [describe(m, spec, tensors) for m in model.modules() for spec in specs_of(m)]
    attentions = [entry for entry in found if entry is not None]
    mla = list(latent(model, tensors))
    if len(attentions) + len(mla) != case.count:
        raise ValueError(f"{case.file}: {len(attentions)} + {len(mla)}, not {case.count}")
    record: dict[str, Any] = {
        "library": f"{case.dist} {importlib.metadata.version(case.dist).partition('+')[0]}",
        "model": type(model).__name__, "names": case.names, "config": config,
        "tensors": {n: [str(t.dtype).removeprefix("torch."), list(t.shape)]
                    for n, t in tensors.items()},
        "attentions": attentions, **({"mla": True, "mla_layers": mla} if mla else {}),
    }  # fmt: skip
    path = folder / f"{case.dist.replace('_', '-')}-{case.file}.json"
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(f"{path.name}: {len(tensors)} tensors, {len(attentions)} attentions, {len(mla)} latent")


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    keep_alive = prepare()
    for item in CASES:
        generate(item, output)
