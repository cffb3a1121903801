"""Every command on an adapter, alone and with its base; the names of all tools; what is broken said in a line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkvinspect
from tests.some import crossed
from tests.weights.adapters.cases import DATA, placed

State = dict[str, torch.Tensor]


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, Path]:
    return placed("llama-all", tmp_path)


def merged(case: str) -> State:
    return {**load_file(DATA / f"{case}.base.safetensors"), **load_file(DATA / f"{case}.merged.safetensors")}


def test_show_has_the_norm_of_the_product_of_each_head(llama, run) -> None:
    adapter, _ = llama
    state = load_file(adapter / "adapter_model.safetensors")
    layers = run("show", adapter, "--heads", "4/2", "-f", "json").json()["attentions"]
    assert [layer["layer"] for layer in layers] == [f"base_model.model.model.layers.{n}.self_attn" for n in range(2)]
    for layer in layers:
        for part, heads in (("q", 4), ("k", 2), ("v", 2)):
            prefix = f"{layer['layer']}.{part}_proj.lora_"
            product = (state[f"{prefix}B.weight"].double() @ state[f"{prefix}A.weight"].double()) * 1.5
            norms = product.reshape(heads, -1).norm(dim=1)
            assert [head["norm"] for head in layer[part]["heads"]] == pytest.approx(norms.tolist(), rel=1e-6)


@pytest.mark.parametrize("case", ["llama-all", "gpt2", "timm", "llama-dora"])
@pytest.mark.gate
def test_with_its_base_every_command_sees_the_sum(case: str, tmp_path: Path, run) -> None:
    adapter, base = placed(case, tmp_path)
    twin = tmp_path / "twin.safetensors"
    save_file(merged(case), twin)
    heads = ["--heads", "4/2" if "llama" in case else "4"]
    if case != "timm":  # of which the weights are asked as well
        heads += ["--no-evidence"]
    for command in ("show", "analyze", "check"):
        mine = run(command, adapter, "--base", base, *heads, "-f", "json")
        theirs = run(command, twin, *heads, "-f", "json")
        assert mine.code == theirs.code
        assert same(mine.json(), theirs.json()), command
    found = run("diff", adapter, twin, "--base", base, *heads)
    assert found.code == 0, found.out
    assert run("explain", adapter, "--base", base, *heads, "--verify").code == 0


def same(one: object, other: object, key: str = "") -> bool:
    """Whether two answers agree but for names of files, and rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(same(one[k], other[k], k) for k in other if k not in ("path", "checkpoint", "findings", "summary"))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b, key) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-6)
    return one == other


@crossed(
    case=["llama-all", "gpt2", "timm", "qwen2-bias", "multihead", "llama-dora"],
    options=[("--all",), ("--split", "--all")],
)
def test_export_merges(case: str, options: tuple[str, ...], tmp_path: Path, run) -> None:
    adapter, base = placed(case, tmp_path)
    out = tmp_path / "out.safetensors"
    found = run("export", *options, adapter, "--base", base, "-o", out, "--heads", "4/2" if "llama" in case else "4",
                "--no-evidence")  # fmt: skip
    assert found.code == 0, found.err
    written, expected = load_file(out), merged(case)
    if options == ("--all",):
        assert written.keys() == expected.keys()
    for name in written.keys() & expected.keys():
        torch.testing.assert_close(written[name], expected[name], rtol=1e-6, atol=1e-6)


def test_export_splits_an_adapter_of_a_fused_weight(tmp_path: Path, run) -> None:
    adapter, _ = placed("timm", tmp_path)
    out = tmp_path / "out.safetensors"
    assert run("export", "--split", adapter, "-o", out, "--heads", "4").code == 0
    written, state = load_file(out), load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.blocks.0.attn."
    for part, rows in zip("qkv", state[f"{prefix}qkv.lora_B.weight"].chunk(3), strict=True):
        assert torch.equal(written[f"{prefix}{part}_proj.lora_B.weight"], rows)
        assert torch.equal(written[f"{prefix}{part}_proj.lora_A.weight"], state[f"{prefix}qkv.lora_A.weight"])


def test_a_nan_in_lora_b_is_found_in_its_head(llama, run) -> None:
    adapter, base = llama
    path = adapter / "adapter_model.safetensors"
    state = load_file(path)
    state["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"][9, 1] = float("nan")
    save_file(state, path)
    for options in ((), ("--base", base)):
        found = run("check", adapter, "--heads", "4/2", *options)
        assert found.code == 1
        assert "Q holds 16 NaN or infinite values, in head 2" in found.out


def test_the_api_takes_a_base(llama) -> None:
    adapter, base = llama
    with qkvinspect.open(adapter, base=base, heads="4/2") as checkpoint:
        layer = checkpoint.attentions["model.layers.1.self_attn"]
        expected = merged("llama-all")["model.layers.1.self_attn.q_proj.weight"]
        torch.testing.assert_close(layer.q.torch(), expected, rtol=1e-6, atol=1e-6)


def test_a_quantised_base(llama, tmp_path: Path, run) -> None:
    """Of 8-bit codes with a scale a row: the sum is what is measured, and its numbers what is written."""
    adapter, base = llama
    stored: State = {}
    plain: State = {}
    for name, weight in load_file(base).items():
        if weight.ndim < 2:
            continue
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        codes = (weight / scale).round().to(torch.int8)
        stored |= {name: codes, name.replace("weight", "weight_scale"): scale}
        plain[name] = codes.float() * scale
    save_file(stored, tmp_path / "codes.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    out = [tmp_path / f"{n}.safetensors" for n in range(2)]
    arguments = ("export", "--all", adapter, "--dequantize", "float32", "--heads", "4/2")
    assert run(*arguments, "--base", tmp_path / "codes.safetensors", "-o", out[0]).code == 0
    assert run(*arguments, "--base", tmp_path / "plain.safetensors", "-o", out[1]).code == 0
    written, expected = map(load_file, out)
    for name, value in written.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    refused = run(
        "export", "--all", adapter, "--base", tmp_path / "codes.safetensors", "-o", tmp_path / "no.safetensors"
    )
    assert refused.code == 2
    assert "--dequantize" in refused.err


# --- the names of other tools


def sums(path: Path, base: Path, run, tmp_path: Path, *more: object) -> tuple[State, str]:
    out = tmp_path / "merged.safetensors"
    found = run("export", "--all", path, "--base", base, "-o", out, "--force", "--no-evidence", *more)
    assert found.code == 0, found.err
    return load_file(out), found.err


def factors(rows: int, cols: int, rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, cols), torch.randn(rows, rank)


FLUX = {
    "double_blocks.0.img_attn.qkv.weight": (48, 16),
    "double_blocks.0.img_attn.proj.weight": (16, 16),
    "double_blocks.0.txt_attn.qkv.weight": (48, 16),
    "double_blocks.0.txt_attn.proj.weight": (16, 16),
    "single_blocks.0.linear1.weight": (112, 16),
    "single_blocks.0.linear2.weight": (16, 80),
}


@pytest.fixture
def flux(tmp_path: Path) -> tuple[Path, State]:
    state = {f"model.diffusion_model.{name}": torch.randn(shape) for name, shape in FLUX.items()}
    save_file(state, tmp_path / "flux.safetensors")
    return tmp_path / "flux.safetensors", state


@pytest.mark.parametrize("alpha", [2.0, None, 0.0])
def test_kohya(flux, alpha: float | None, tmp_path: Path, run) -> None:
    """alpha / rank; the rank stands for an alpha that is missing or 0 (sd-scripts, networks/lora.py)."""
    base, state = flux
    stored: State = {}
    expected = dict(state)
    for name, shape in FLUX.items():
        down, up = factors(*shape)
        module = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        stored |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
        if alpha is not None:
            stored[f"{module}.alpha"] = torch.tensor(alpha)
        expected[f"model.diffusion_model.{name}"] += up @ down * ((alpha or 4) / 4)
    save_file(stored, tmp_path / "kohya.safetensors")
    written, _ = sums(tmp_path / "kohya.safetensors", base, run, tmp_path)
    torch.testing.assert_close(written, expected, rtol=1e-5, atol=1e-5)
    alone = run("show", tmp_path / "kohya.safetensors", "--heads", "4", "-f", "json").json()["attentions"]
    assert [layer["layer"] for layer in alone] == [
        "unet.double_blocks.0.img_attn", "unet.double_blocks.0.txt_attn", "unet.single_blocks.0",
    ]  # fmt: skip
    down, up = (stored[f"lora_unet_double_blocks_0_img_attn_qkv.lora_{name}.weight"] for name in ("down", "up"))
    norm = (up @ down).chunk(3)[1].norm() * ((alpha or 4) / 4)
    assert alone[0]["k"]["norm"] == pytest.approx(float(norm), rel=1e-5)


def test_xlabs(flux, tmp_path: Path, run) -> None:
    """qkv_lora of a single block adds to the first rows of linear1 (diffusers, lora_conversion_utils.py)."""
    base, state = flux
    stored: State = {}
    expected = dict(state)
    for lora, module, rows in (
        ("double_blocks.0.processor.qkv_lora1", "double_blocks.0.img_attn.qkv", 48),
        ("double_blocks.0.processor.proj_lora1", "double_blocks.0.img_attn.proj", 16),
        ("double_blocks.0.processor.qkv_lora2", "double_blocks.0.txt_attn.qkv", 48),
        ("double_blocks.0.processor.proj_lora2", "double_blocks.0.txt_attn.proj", 16),
        ("single_blocks.0.processor.qkv_lora", "single_blocks.0.linear1", 48),
    ):
        down, up = factors(rows, 16)
        stored |= {f"{lora}.down.weight": down, f"{lora}.up.weight": up}
        name = f"model.diffusion_model.{module}.weight"
        expected[name] = expected[name].clone()
        expected[name][:rows] += up @ down
    save_file(stored, tmp_path / "xlabs.safetensors")
    written, _ = sums(tmp_path / "xlabs.safetensors", base, run, tmp_path)
    torch.testing.assert_close(written, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        "unet.{block}.attn1.processor.{part}_lora.{down}.weight",
        "unet.{block}.attn1.{module}.lora.{down}.weight",
        "unet.{block}.attn1.{module}.{peft}.weight",
    ],
)
def test_diffusers(pattern: str, tmp_path: Path, run) -> None:
    modules = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
    base: State = {}
    stored: State = {}
    expected: State = {}
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    for part, module in modules.items():
        name = f"{block}.attn1.{module}.weight"
        down, up = factors(16, 16)
        base[name] = torch.randn(16, 16)
        expected[name] = base[name] + up @ down
        for factor, value, peft in (("down", down, "lora_A"), ("up", up, "lora_B")):
            stored[pattern.format(block=block, part=part, module=module, down=factor, peft=peft)] = value
    save_file(base, tmp_path / "base.safetensors")
    save_file(stored, tmp_path / "lora.safetensors")
    written, _ = sums(tmp_path / "lora.safetensors", tmp_path / "base.safetensors", run, tmp_path)
    torch.testing.assert_close(written, expected, rtol=1e-5, atol=1e-5)


def test_the_alpha_in_the_metadata_of_diffusers(tmp_path: Path, run) -> None:
    down, up = factors(16, 16)
    name = "transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.weight": torch.zeros(16, 16)}, tmp_path / "base.safetensors")
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 10})}
    stored = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_file(stored, tmp_path / "lora.safetensors", metadata)
    out = run("show", tmp_path / "lora.safetensors", "--heads", "4", "-f", "json").json()["attentions"][0]
    assert out["q"]["norm"] == pytest.approx(float((up @ down).norm() * 2.5), rel=1e-5)


def test_loralib_with_a_product_for_each_part(tmp_path: Path, run) -> None:
    """MergedLinear: a grouped convolution makes the product (loralib 0.1.2, layers.py, merge_AB)."""
    a, b = torch.randn(12, 16), torch.randn(48, 4)
    delta = torch.nn.functional.conv1d(a[None], b[..., None], groups=3)[0]
    base = {"blocks.0.attn.qkv.weight": torch.randn(48, 16), "blocks.0.attn.proj.weight": torch.randn(16, 16)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({"blocks.0.attn.qkv.lora_A": a, "blocks.0.attn.qkv.lora_B": b}, tmp_path / "lora.safetensors")
    refused = run("show", tmp_path / "lora.safetensors", "--base", tmp_path / "base.safetensors")
    assert "the adapter's lora_alpha is unknown" in refused.out
    (tmp_path / "alpha.yaml").write_text("lora_alpha: 8\n")
    written, _ = sums(
        tmp_path / "lora.safetensors", tmp_path / "base.safetensors", run, tmp_path, "--config", tmp_path / "alpha.yaml"
    )
    expected = base["blocks.0.attn.qkv.weight"] + delta * 2
    torch.testing.assert_close(written["blocks.0.attn.qkv.weight"], expected, rtol=1e-5, atol=1e-5)


# --- what is broken or does not fit


def broken(llama, **change: torch.Tensor | None) -> Path:
    adapter, _ = llama
    path = adapter / "adapter_model.safetensors"
    state = load_file(path)
    for leaf, value in change.items():
        name = f"base_model.model.model.layers.0.self_attn.q_proj.{leaf}.weight"
        state.pop(name, None)
        if value is not None:
            state[name] = value
    save_file(state, path)
    return adapter


NONE = [
    ({"lora_B": None}, "B (lora_B, up) is missing"),
    ({"lora_A": None}, "A (lora_A, down) is missing"),
    ({"lora_B": torch.ones(16, 3)}, "has another rank"),
    ({"lora_B": torch.ones(12, 4)}, "do not fit it"),
    ({"lora_A": torch.ones(4, 12)}, "do not fit it"),
    ({"lora_B": torch.ones(16)}, "has another shape"),
    ({"lora_B": torch.ones(16, 0)}, "has another shape"),
    ({"lora_B": torch.ones(16, 4, dtype=torch.int8)}, "has another dtype"),
    ({"lora_A": torch.ones(2, 16), "lora_B": torch.ones(16, 2)}, "says rank 4"),
    ({"lora_mid": torch.ones(4, 4)}, "is not decoded"),
]


@pytest.mark.parametrize(("change", "said"), NONE)
def test_factors_that_are_none(change, said: str, llama, run) -> None:
    _, base = llama
    adapter = broken(llama, **change)
    found = run("check", adapter, "--base", base, "--heads", "4/2", "--no-evidence")
    assert (found.code, "Traceback" in found.err) == (1, False)
    assert said in found.out


@crossed(change=[change for change, _ in NONE], command=["show", "explain", "analyze"], summed=[True, False])
def test_commands_take_factors_that_are_none(change, command: str, summed: bool, llama, run) -> None:
    _, base = llama
    adapter = broken(llama, **change)
    options = ("--base", base) if summed else ()
    assert run(command, adapter, "--heads", "4/2", *options, "--no-evidence").code in (0, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 8}, "says rank 8"),
        ({"lora_alpha": "much"}, "no number for lora_alpha"),
        ({"lora_alpha": float("nan")}, "the adapter's lora_alpha is unknown"),
        ({"lora_alpha": 10**400}, "finite"),
        ({"peft_type": "LOHA"}, "LOHA, which is not decoded"),
        ({"init_lora_weights": "pissa"}, "began as pissa"),
        ({"alpha_pattern": {"(a+)+q_proj": 1}}, "may take too long"),
        ({"alpha_pattern": {"q_proj(": 1}}, "a pattern that is none"),
        ({"use_qalora": True}, "use_qalora"),
    ],
)
def test_configs_that_mean_something_else(change: dict[str, object], said: str, llama, run) -> None:
    adapter, base = llama
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = run("check", adapter, "--base", base, "--heads", "4/2")
    assert found.code == 1
    assert said in found.out


def test_a_base_that_is_another_model(llama, tmp_path: Path, run) -> None:
    adapter, _ = llama
    found = run("show", adapter, "--base", DATA / "timm.base.safetensors")
    assert found.code == 2
    assert "none of the adapter's modules is one of the base" in found.err
    assert run("show", DATA / "timm.base.safetensors", "--base", DATA / "timm.base.safetensors").code == 2
    assert run("show", adapter, "--base", adapter).code == 2
    assert run("diff", DATA / "timm.base.safetensors", DATA / "timm.base.safetensors", "--base", adapter).code == 2


def test_modules_that_the_base_has_not_are_said(llama, tmp_path: Path, run) -> None:
    adapter, base = llama
    few = {name: value for name, value in load_file(base).items() if ".1." not in name}
    save_file(few, tmp_path / "few.safetensors")
    found = run("show", adapter, "--base", tmp_path / "few.safetensors", "--heads", "4/2")
    assert "the base has no one place for base_model.model.model.layers.1.self_attn.k_proj" in found.out
    left = {name.rpartition(".lora_")[0] for name in load_file(adapter / "adapter_model.safetensors") if ".1." in name}
    assert len(left) == 4
    assert re.search(r"no one place for \S+, \S+, \S+ and 1 more\s+of the adapter", found.out)


def test_a_suffix_that_two_modules_have_is_no_place(llama, tmp_path: Path, run) -> None:
    adapter, base = llama
    two = {f"{tower}.{name}": v.clone() for name, v in load_file(base).items() for tower in ("a", "b")}
    save_file(two, tmp_path / "two.safetensors")
    assert run("show", adapter, "--base", tmp_path / "two.safetensors").code == 2


# --- half of a sum is not written

WRITERS = (
    ("export", "--all"),
    ("export", "--split", "--no-evidence"),
    ("pack", "--to", "qkv-proj"),
    ("convert", "--to", "qkv-proj"),
)


@crossed(command=WRITERS, none=[NONE[0], NONE[2], NONE[-1]])
def test_one_module_that_cannot_be_added(none, command: tuple[str, ...], llama, tmp_path, run) -> None:
    (change, said), (_, base) = none, llama
    adapter, out = broken(llama, **change), tmp_path / "out.safetensors"
    for options in (("--base", base), ()):
        found = run(*command, adapter, "-o", out, "--heads", "4/2", *options)
        assert (found.code, found.err.count("\n"), out.exists()) == (2, 1, False), found.err
        assert said in found.err or "cannot be stored" in found.err


@crossed(
    command=WRITERS,
    change=[{"peft_type": "ADALORA"}, {"init_lora_weights": "pissa"}, {"lora_bias": True}, {"lora_alpha": None}],
)
def test_an_adapter_that_cannot_be_added(change: dict[str, object], command, llama, tmp_path: Path, run) -> None:
    adapter, base = llama
    path, out = adapter / "adapter_config.json", tmp_path / "out.safetensors"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = run(*command, adapter, "-o", out, "--heads", "4/2", "--base", base)
    assert (found.code, found.err.count("\n"), out.exists()) == (2, 1, False), found.err


@pytest.mark.parametrize(
    "name",
    [
        "layers.9.self_attn.q_proj.lora_A.weight",
        "token_adapter.trainable_tokens_delta",
        "layers.0.self_attn.q_proj.lora_E",
    ],
)
def test_what_the_base_has_no_place_for_is_not_left_out(name: str, llama, tmp_path: Path, run) -> None:
    adapter, base = llama
    path, out = adapter / "adapter_model.safetensors", tmp_path / "out.safetensors"
    save_file(load_file(path) | {f"base_model.model.model.{name}": torch.ones(4, 16)}, path)
    for command in (("export", "--all"), ("export", "--all", "--split", "--no-evidence"), *WRITERS[2:]):
        found = run(*command, adapter, "--base", base, "-o", out, "--heads", "4/2")
        assert (found.code, found.err.count("\n"), out.exists()) == (2, 1, False), found.err
        assert "the base has no one place for base_model.model.model." in found.err


def test_what_is_for_another_model_may_be_left_out(flux, tmp_path: Path, run) -> None:
    """A pipeline's adapter has modules of the text encoder too, whose weights are another file."""
    base, state = flux
    stored: State = {}
    for module, shape in (("unet_double_blocks_0_img_attn_qkv", (48, 16)), ("te1_text_model_layers_0_q_proj", (8, 8))):
        down, up = factors(*shape)
        stored |= {f"lora_{module}.lora_down.weight": down, f"lora_{module}.lora_up.weight": up}
    save_file(stored, tmp_path / "kohya.safetensors")
    written, said = sums(tmp_path / "kohya.safetensors", base, run, tmp_path)
    name = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    factor = "lora_unet_double_blocks_0_img_attn_qkv"
    product = stored[f"{factor}.lora_up.weight"] @ stored[f"{factor}.lora_down.weight"]
    torch.testing.assert_close(written[name], state[name] + product, rtol=1e-5, atol=1e-5)
    assert "the base has no one place for te1.text_model" in said


@pytest.mark.parametrize("saved", [False, True])
def test_the_sum_of_an_embedding(saved: bool, llama, tmp_path: Path, run) -> None:
    """The transpose of B @ A (PEFT 0.21, tuners/lora/layer.py, Embedding), which may save the embedding beside it."""
    adapter, base = llama
    path, embedding = adapter / "adapter_model.safetensors", torch.randn(24, 16)
    name, module = "model.embed_tokens.weight", "base_model.model.model.embed_tokens"
    save_file(load_file(base) | {name: embedding}, tmp_path / "base.safetensors")
    a, b = torch.randn(4, 24), torch.randn(16, 4)
    beside = {f"{module}.base_layer.weight": embedding} if saved else {}
    save_file(load_file(path) | {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b} | beside, path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    written, said = sums(adapter, tmp_path / "base.safetensors", run, tmp_path, "--heads", "4/2")
    expected = embedding + (b @ a).T * (config["lora_alpha"] / config["r"])
    torch.testing.assert_close(written[name], expected, rtol=1e-6, atol=1e-6)
    assert "no one place" not in said


def test_codes_that_cannot_be_numbers_are_not_half_written(tmp_path: Path, run) -> None:
    """One layer's MLP lacks its scale: nothing is written as numbers, and the codes are copied as they are."""
    state: State = {}
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj"):
        state[f"layers.0.{part}.weight"] = torch.randint(-128, 127, (16, 16), dtype=torch.int8)
        state[f"layers.0.{part}.weight_scale"] = torch.rand(16, 1)
    state["layers.0.mlp.up_proj.weight_scale"] = torch.rand(7, 3)
    save_file(state, tmp_path / "codes.safetensors")
    out = tmp_path / "out.safetensors"
    for command in (*WRITERS[2:], ("export", "--all")):
        found = run(*command, tmp_path / "codes.safetensors", "--heads", "4", "-o", out, "--dequantize", "float32")
        assert (found.code, found.err.count("\n"), out.exists()) == (2, 1, False), found.err
        assert "layers.0.mlp.up_proj.weight cannot be written as float32" in found.err
    assert run("export", "--all", tmp_path / "codes.safetensors", "--heads", "4", "-o", out).code == 0
    torch.testing.assert_close(load_file(out), state, rtol=0, atol=0)
