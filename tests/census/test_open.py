"""``OPEN.md`` is true: what is said of modules that another census expects otherwise."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
TEXT = (HERE / "OPEN.md").read_text()
Shapes = Mapping[str, tuple[int, ...]]

_OUT = {"self_attn.out_proj.weight": (64, 64), "self_attn.out_proj.bias": (64,)}
_POSITIONS = {"self_attn.pos_bias_u": (16, 4), "self_attn.pos_bias_v": (16, 4), "self_attn.linear_pos.weight": (64, 64)}
_NORM_AND_OUT = {
    "a.norm.weight": (64,),
    "a.norm.bias": (64,),
    "a.proj_out.weight": (64, 64, 1),
    "a.proj_out.bias": (64,),
}
_ROPE, _RELPOS = ({f"speechbrain-{kind}-{way}" for way in ("self", "cross")} for kind in ("rope", "relpos"))


def asked(folder: Path, run: Any, shapes: Shapes) -> Any:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return run("show", folder / "model.safetensors", "--no-norms", "-f", "json").json()


@pytest.mark.parametrize(("kind", "total"), [("Undecided", 34), ("Missed", 38)])
def test_every_module_has_a_reason(kind: str, total: int) -> None:
    rows = TEXT.partition(f"## {kind}: {total}\n")[2].partition("\n## ")[0]
    counts = re.findall(r"^\| (\d+) \|(?: [^|]+ \|){3}$", rows, re.MULTILINE)
    assert sum(map(int, counts)) == total


@pytest.mark.parametrize(
    ("shapes", "packings"),
    [
        ({"self_attn.in_proj_weight": (192, 64), **_OUT, **_POSITIONS}, _ROPE | _RELPOS),
        ({"self_attn.in_proj_weight": (192, 64), **_OUT}, _ROPE),
        ({"a.qkv.weight": (192, 64, 1), "a.qkv.bias": (192,), **_NORM_AND_OUT}, {"adm-legacy", "adm-new"}),
        (
            {"f.toqk.weight": (256, 64), "f.tov.weight": (256, 64), "f.to_out.weight": (64, 256)},
            {f"pattern-{how}" for how in ("shared", "blocks", "per-head", "row-by-row", "heads-in-turn")},
        ),
    ],
    ids=["RelPosMHAXL", "RoPEMHA", "XTTS", "Reformer"],
)
def test_several_packings_are_listed_and_none_is_chosen(
    tmp_path: Path, run: Any, shapes: Shapes, packings: set[str]
) -> None:
    told = asked(tmp_path, run, shapes)
    (found,) = told["attentions"]
    assert (found["layout"], set(found["candidates"])) == (None, packings)
    assert "ambiguous-layout" in {finding["code"] for finding in told["findings"]}


def test_a_receptance_is_no_query(tmp_path: Path, run: Any) -> None:
    names = ("key", "value", "receptance", "output")
    told = asked(tmp_path, run, {f"blocks.0.attention.{name}.weight": (64, 64) for name in names})
    assert told["attentions"] == []
    (said,) = (finding for finding in told["findings"] if finding["code"] == "unrecognised-attention")
    assert "k and v alone" in said["message"]


def test_one_head_of_k_for_all_of_q(tmp_path: Path, run: Any) -> None:
    """K is the projection behind the depthwise convolution: so timm's forward has it, and so it is said."""
    with lzma.open(HERE / "data" / "timm.jsonl.xz", "rt") as lines:
        models = (json.loads(line) for line in lines if "MultiQueryAttention2d" in line)
        seen = [
            truth["k"]
            for model in models
            for truth in model["truth"]
            if truth["class"] == "MultiQueryAttention2d"
            and any(name == f"{truth['path']}.key.down_conv.weight" for name, *_ in model["tensors"])
        ]
    assert seen
    assert all(k["tensors"][0].endswith("key.proj.weight") and k["heads"] == 1 for k in seen)
    at = "timm_model.blocks.2.9.attn"
    shapes: dict[str, tuple[int, ...]] = {f"{at}.query.proj.weight": (768, 640, 1, 1)}
    shapes[f"{at}.output.proj.weight"] = (640, 768, 1, 1)
    for part in ("key", "value"):
        shapes |= {f"{at}.{part}.down_conv.weight": (640, 1, 3, 3), f"{at}.{part}.norm.weight": (640,)}
        shapes[f"{at}.{part}.proj.weight"] = (64, 640, 1, 1)
    (found,) = asked(tmp_path, run, shapes)["attentions"]
    assert found["tensors"]["k"] == f"{at}.key.proj.weight"
    assert (found["num_heads"], found["num_kv_heads"]) == (12, 1)
