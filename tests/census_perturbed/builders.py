"""How each library builds a model of a config, and what its attention modules say of themselves then."""

from __future__ import annotations

import copy
import importlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tests.tables import modules
from tests.tables import transformers_models as library

if TYPE_CHECKING:
    from tests.census_perturbed.perturb import Built

LAYERS = (3, 2, 4, 6, 1000)


@dataclass
class Source:
    """A config that can be built.

    Attributes:
        values: what is perturbed; files: the files beside the weights that these values make.
        trouble: why the last build failed.
    """

    values: dict[str, Any]
    make: Callable[[Mapping[str, Any]], Built]
    files: Callable[[Mapping[str, Any]], dict[str, Any]]
    trouble: str = field(default="")

    def build(self, values: Mapping[str, Any]) -> Built | None:
        try:
            return self.make(values)
        except TimeoutError:
            raise
        except Exception as error:
            if type(error).__name__ == "LateError":
                raise
            self.trouble = f"{type(error).__name__}: {error}"[:200]
            return None


def of(entry: Mapping[str, Any]) -> Source | None:
    """What builds a line of a census; None where no config stands beside the weights."""
    if not entry["files"]:
        return None
    made = {
        "transformers": _transformers,
        "diffusers": _diffusers,
        "timm": _timm,
        "open_clip": _open_clip,
        "litgpt": _litgpt,
    }
    return made[entry["lib"]](entry) if entry["lib"] in made else None


def _built(tensors: Mapping[str, Any], heads: Any, names: Mapping[str, list[str]], model: nn.Module) -> Built:
    from tests.census_perturbed.perturb import Built

    sound = all(_can_run(model.get_submodule(path), number) for path, (number, _) in heads.items())
    return Built({name: [*tensor.shape] for name, tensor in tensors.items()}, heads, dict(names), sound)


def _can_run(module: nn.Module, heads: int) -> bool:
    """Whether the heads fill the rows of Q and share those of K: a library builds what no forward pass could run."""
    q, k = (
        _rows(module, r"q_proj|query|q|wq|to_q|q_lin|query_proj|linear_q"),
        _rows(module, r"k_proj|key|k|wk|to_k|k_lin"),
    )
    dim = library.numbers(module).head_dim or (q and q // heads)
    if not q or not dim:
        return True
    if q % (heads * dim) or (k and (k % dim or heads % (k // dim))):
        return False
    norms = [p.shape[0] for n, p in module.named_parameters() if re.search(r"[qk]_norm\.weight$", n) and p.dim() == 1]
    return all(size in (dim, q, k) for size in norms)


def _rows(module: nn.Module, pattern: str) -> int | None:
    found = {
        part.weight.shape[0]
        for name, part in module.named_children()
        if isinstance(part, nn.Linear) and re.fullmatch(pattern, name)
    }
    return found.pop() if len(found) == 1 else None


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"config.json": dict(values)}


def _live(model: nn.Module) -> dict[str, tuple[int, int | None]]:
    found = {}
    for path, module in library.attentions(model).items():
        said = library.numbers(module)
        if said.heads:
            found[path] = (said.heads, said.kv_heads)
    return found


def _transformers(entry: Mapping[str, Any]) -> Source:
    whole = entry["files"]["config.json"]
    config = library.config_class(whole["model_type"])
    cls = getattr(importlib.import_module("transformers"), entry["class"], None)
    if cls is None:
        cls = next(one for one in library.classes(whole["model_type"]) if one.__name__ == entry["class"])

    def make(values: Mapping[str, Any]) -> Built:
        model = library.build(cls, config, values)
        library.remember_conversions(model)
        loading = importlib.import_module("transformers.core_model_loading")
        stored = loading.revert_weight_conversion(model, dict(model.state_dict()))
        heads = _live(model)
        names = {path: library.saved_names(model, path, model.get_submodule(path)) for path in heads}
        return _built(stored, heads, {path: [n for n in some if n in stored] for path, some in names.items()}, model)

    values = next((few for few in _few(whole) if _builds(make, few)), whole)
    return Source(values, make, _json)


def _few(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for layers in LAYERS:
        yield library.few_layers(whole, layers)


def _builds(make: Callable[[Mapping[str, Any]], Built], values: Mapping[str, Any]) -> bool:
    try:
        return bool(make(values).heads)
    except Exception as error:
        if type(error).__name__ == "LateError":
            raise
        return False


def _names_as_they_were(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    return {truth["path"]: [*truth["shapes"]] for truth in entry["truth"] if truth.get("shapes")}


def _diffusers(entry: Mapping[str, Any]) -> Source:
    whole = entry["files"]["config.json"]
    cls = getattr(importlib.import_module("diffusers"), whole["_class_name"])
    names = _names_as_they_were(entry)

    def make(values: Mapping[str, Any]) -> Built:
        with torch.device("meta"):
            model = cls.from_config(copy.deepcopy(dict(values)))
        return _built(model.state_dict(), _live(model), names, model)

    return Source(whole, make, _json)


def _timm(entry: Mapping[str, Any]) -> Source:
    """timm's config has only its architecture's name: heads are given to it as an argument."""
    timm = importlib.import_module("timm")
    whole = entry["files"]["config.json"]
    names = _names_as_they_were(entry)
    given = {k: v for k, v in (whole.get("model_args") or {}).items() if k == "img_size"}

    def make(values: Mapping[str, Any]) -> Built:
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        with torch.device("meta"):
            model = timm.create_model(whole["architecture"], pretrained=False, **given, **arguments)
        found = {
            path: (one.num_heads, one.kv_heads or one.num_heads) for path, one in modules.attentions(model).items()
        }
        return _built(model.state_dict(), found, names, model)

    def files(values: Mapping[str, Any]) -> dict[str, Any]:
        return _json({**whole, "model_args": {**(whole.get("model_args") or {}), **values}})

    heads = list(dict.fromkeys(number for number, _ in make({}).heads.values()))
    return Source({"num_heads": heads[0] if len(heads) == 1 else heads}, make, files)


def _open_clip(entry: Mapping[str, Any]) -> Source:
    open_clip = importlib.import_module("open_clip")
    ((name, whole),) = entry["files"].items()
    names = _names_as_they_were(entry)

    def make(values: Mapping[str, Any]) -> Built:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "perturbed.json"
            path.write_text(json.dumps(values))
            open_clip.add_model_config(path)
        with torch.device("meta"):
            model = open_clip.create_model("perturbed", device="meta", load_weights=False, pretrained_image=False)
        found = {
            path: (one.num_heads, one.kv_heads or one.num_heads) for path, one in modules.attentions(model).items()
        }
        return _built(model.state_dict(), found, names, model)

    values = copy.deepcopy(whole["model_cfg"])
    vision = values["vision_cfg"]
    if not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list):
        vision.setdefault("head_width", 64)  # open_clip's default, so that it can be another number
    return Source(values, make, lambda values: {name: {**whole, "model_cfg": values}})


def _litgpt(entry: Mapping[str, Any]) -> Source:
    import yaml

    ((name, text),) = entry["files"].items()
    model_module = importlib.import_module("litgpt.model")
    config = importlib.import_module("litgpt.config").Config
    names = _names_as_they_were(entry)
    mine = {"n_head", "n_query_groups", "head_size"}
    whole = yaml.safe_load(text)

    def make(values: Mapping[str, Any]) -> Built:
        made = config(**values)
        with torch.device("meta"):
            model = model_module.GPT(made)
        found = dict.fromkeys(names, (made.n_head, made.n_query_groups))
        return _built(model.state_dict(), found, names, model)

    assert mine <= whole.keys()
    return Source(whole, make, lambda values: {name: yaml.safe_dump(dict(values))})
