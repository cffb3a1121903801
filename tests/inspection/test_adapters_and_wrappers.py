"""Weights that are not plain numbers: named, never measured as if they were. Real libraries make the oracles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrizations

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report


def report(state: dict[str, torch.Tensor], folder: Path, *heads: str, name: str = "model.safetensors") -> Report:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    with open_checkpoint(folder / name) as checkpoint:
        return inspect(checkpoint, Options(heads=heads))


def codes(found: Report) -> list[str]:
    return [finding.code for finding in found.findings]


def separate(weight: torch.Tensor, **beside: torch.Tensor) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for part in "qkv":
        state[f"l.self_attn.{part}_proj.weight"] = weight.clone()
        state |= {f"l.self_attn.{part}_proj.{key}": value.clone() for key, value in beside.items()}
    return state


@pytest.mark.parametrize("shape", [(256, 384), (200, 300)])
def test_float8_is_multiplied_by_its_blocks_of_scales(tmp_path: Path, shape: tuple[int, int]) -> None:
    """As transformers' finegrained fp8 dequantises: w * repeat(scale_inv), cut to the weight's size."""
    weight = torch.randn(shape).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128))
    attention = report(separate(weight, weight_scale_inv=scale), tmp_path).attentions[0]
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    expected = torch.linalg.norm(weight.to(torch.float64) * wide.to(torch.float64))
    part = attention.part("k")
    assert part is not None
    assert part.measured is not None
    assert part.measured.norm == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (16, 1)])
def test_float8_with_one_scale_or_one_a_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight, scale = torch.randn(16, 8).to(torch.float8_e5m2), torch.rand(shape) + 0.5
    part = report(separate(weight, weight_scale=scale), tmp_path).attentions[0].part("v")
    assert part is not None
    assert part.measured is not None
    expected = torch.linalg.norm(weight.to(torch.float64) * scale.to(torch.float64))
    assert part.measured.norm == pytest.approx(float(expected), rel=1e-6)


def test_scales_of_an_unknown_form_give_no_norm(tmp_path: Path) -> None:
    weight = torch.randn(256, 256).to(torch.float8_e4m3fn)
    part = report(separate(weight, weight_scale=torch.rand(3, 5)), tmp_path).attentions[0].part("q")
    assert part is not None
    assert part.measured is None


def test_integers_have_no_norm_without_their_scale(tmp_path: Path) -> None:
    found = report(separate(torch.ones(16, 8, dtype=torch.int8)), tmp_path, "2")
    assert {part.measured for part in found.attentions[0].parts} == {None}
    assert set(codes(found)) == {"no-norms"}


def test_integers_with_a_scale_a_row_have_the_norm_of_their_values(tmp_path: Path) -> None:
    """bitsandbytes' int8: value * SCB / 127."""
    weight, scale = torch.randint(-127, 128, (16, 8), dtype=torch.int8), torch.rand(16) + 0.5
    part = report(separate(weight, SCB=scale), tmp_path, "2").attentions[0].part("k")
    assert part is not None
    assert part.measured is not None
    expected = torch.linalg.norm(weight.double() * scale.double()[:, None] / 127)
    assert part.measured.norm == pytest.approx(float(expected), rel=1e-6)


def test_bitsandbytes_4bit_is_not_split(tmp_path: Path) -> None:
    """transformers saves the packed weight as [N / 2, 1] with its absmax beside it."""
    state: dict[str, torch.Tensor] = {}
    for part in "qkv":
        name = f"l.self_attn.{part}_proj.weight"
        state |= {name: torch.zeros(64, 1, dtype=torch.uint8), f"{name}.absmax": torch.zeros(2)}
        state[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(9, dtype=torch.uint8)
    found = report(state, tmp_path)
    assert (found.attentions, codes(found)) == ((), ["no-values"])
    assert "l.self_attn.q_proj.weight" in found.findings[0].message or "k_proj" in found.findings[0].message


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("qweight", "qzeros", "scales", "g_idx"), "quantised-gptq"),
        (("weight_packed", "weight_scale", "weight_shape"), "no-values"),
    ],
)
def test_packed_integers_are_named(tmp_path: Path, names: tuple[str, ...], code: str) -> None:
    state = {f"l.self_attn.qkv_proj.{name}": torch.zeros(8, 24, dtype=torch.int32) for name in names}
    found = report(state, tmp_path)
    assert (found.attentions, codes(found)) == ((), [code])
    assert found.findings[0].layer == "l.self_attn"


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(8, 8) for _ in range(3))


@pytest.mark.parametrize(
    ("wrap", "code"),
    [
        (parametrizations.spectral_norm, "parametrised"),
        (parametrizations.orthogonal, "parametrised"),
    ],
)
def test_parametrised_weights_are_named(tmp_path: Path, wrap, code: str) -> None:
    module = torch.nn.ModuleDict({"attn": Encoder()})
    for name in ("q_proj", "k_proj", "v_proj"):
        wrap(getattr(module["attn"], name))
    found = report(module.state_dict(), tmp_path)
    assert (found.attentions, codes(found)) == ((), [code])


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, torch.nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_normalised_weights_have_the_norms_of_what_torch_computes(tmp_path: Path, wrap) -> None:
    module = torch.nn.ModuleDict({"attn": Encoder()})
    for name in ("q_proj", "k_proj", "v_proj"):
        wrap(getattr(module["attn"], name))
        with torch.no_grad():
            next(
                p for n, p in getattr(module["attn"], name).named_parameters() if n.endswith(("_g", "original0"))
            ).mul_(3)
    parts = report(module.state_dict(), tmp_path, "2").attentions[0].parts
    for part, layer in zip(parts, module["attn"].children(), strict=True):
        layer(torch.zeros(1, 8))  # the older form computes the weight before each call
        assert part.measured is not None
        assert part.measured.norm == pytest.approx(float(layer.weight.detach().double().norm()), rel=1e-6)


def test_old_weight_norm_is_no_value_projection(tmp_path: Path) -> None:
    found = report({"conv.weight_g": torch.ones(24, 1), "conv.weight_v": torch.ones(24, 8)}, tmp_path)
    assert (found.attentions, found.findings) == ((), ())


def lora(module: str, rows: int, rank: int = 2) -> dict[str, torch.Tensor]:
    return {
        f"{module}.lora_A.default.weight": torch.randn(rank, 8),
        f"{module}.lora_B.default.weight": torch.randn(rows, rank),
    }


def test_lora_of_multihead_attention_is_told_of(tmp_path: Path) -> None:
    state = {
        "attn.base_layer.in_proj_weight": torch.randn(24, 8),
        "attn.base_layer.out_proj.base_layer.weight": torch.randn(8, 8),
    }
    found = report(state | lora("attn", 24), tmp_path)
    (base,) = found.attentions
    assert (base.layer, base.tensors["out"]) == ("attn.base_layer", "attn.base_layer.out_proj.base_layer.weight")
    assert "in_proj_weight is read without the adapter beside it, LoRA of rank 2" in said(found, "adapter-scale")


def said(found: Report, code: str) -> str:
    return "\n".join(finding.message for finding in found.findings if finding.code == code)


@pytest.mark.parametrize(("name", "shape"), [("qkv", (24, 8)), ("c_attn", (8, 24))])
def test_an_update_of_some_parts_is_not_split_as_all_are(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    """loralib's MergedLinear of enable_lora [True, False, True] has two parts, and no name says which."""
    factors = {f"h.0.attn.{name}.lora_A": torch.randn(4, 8), f"h.0.attn.{name}.lora_B": torch.randn(16, 2)}
    base = {f"h.0.attn.{name}.weight": torch.randn(shape), "h.0.attn.proj.weight": torch.randn(8, 8)}
    found = report(factors | base, tmp_path, "2")
    assert [attention.layer for attention in found.attentions] == ["h.0.attn"]
    assert [part.rows for part in found.attentions[0].parts] == [(range(8),), (range(8, 16),), (range(16, 24),)]
    assert "adapter-left-out" in codes(found)
    alone = report(factors, tmp_path)
    assert not alone.attentions
    assert "2 parts" in next(finding.message for finding in alone.findings if finding.code == "no-values")


def test_factors_in_processors_are_added_to_the_module(tmp_path: Path) -> None:
    """diffusers takes the rank for an alpha that is not stored."""
    state = {f"b.attn1.to_{part}.weight": torch.randn(8, 8) for part in "qkv"}
    for part in "qkv":
        state[f"b.attn1.processor.to_{part}_lora.down.weight"] = torch.randn(2, 8)
        state[f"b.attn1.processor.to_{part}_lora.up.weight"] = torch.randn(8, 2)
    found = report(state, tmp_path, "2")
    (attention,) = found.attentions
    for part in attention.parts:
        down, up = (state[f"b.attn1.processor.to_{part.name}_lora.{way}.weight"].double() for way in ("down", "up"))
        assert part.measured is not None
        norm = torch.linalg.norm(state[f"b.attn1.to_{part.name}.weight"].double() + up @ down)
        assert part.measured.norm == pytest.approx(float(norm), rel=1e-6)
    assert "adapter-added" in codes(found)


def test_an_adapter_alone_is_shown(tmp_path: Path) -> None:
    found = report(lora("base_model.model.layers.0.self_attn.q_proj", 8), tmp_path)
    (adapter,) = found.attentions
    assert (adapter.layer, [part.name for part in adapter.parts]) == ("base_model.model.layers.0.self_attn", ["q"])
    assert codes(found) == ["adapter-only", "adapter-scale", "heads-unknown"]


@pytest.mark.parametrize("name", ["mp_rank_01_model_states.safetensors", "layer_03-model_00-model_states.safetensors"])
def test_a_tensor_parallel_shard_is_named(tmp_path: Path, name: str) -> None:
    assert "tensor-parallel" in codes(report(separate(torch.ones(8, 8)), tmp_path, name=name))


def test_a_fused_copy_beside_its_parts_is_shown_once(tmp_path: Path) -> None:
    """diffusers keeps to_q, to_k, to_v after fuse_projections()."""
    state = {f"attn1.to_{part}.weight": torch.ones(8, 8) for part in "qkv"}
    found = report(
        state | {"attn1.to_qkv.weight": torch.ones(24, 8), "attn1.to_out.0.weight": torch.ones(8, 8)}, tmp_path
    )
    assert [attention.tensors["weight"] for attention in found.attentions] == ["attn1.to_qkv.weight"]
    assert "stale-duplicate" in codes(found)


@pytest.mark.filterwarnings("ignore")
def test_the_stale_copy_of_quantizable_attention_is_left_out(tmp_path: Path) -> None:
    quantizable = torch.ao.nn.quantizable.MultiheadAttention(8, 2)
    state = {f"a.{name}": value for name, value in quantizable.state_dict().items() if isinstance(value, torch.Tensor)}
    found = report(state, tmp_path, "2")
    assert [attention.layout.id for attention in found.attentions if attention.layout] == ["torch-ao-mha"]
    assert "stale-duplicate" in codes(found)
