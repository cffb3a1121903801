"""``convert --align-to`` and ``--kv-heads``: the modules themselves compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.lineage import kinds
from tests.lineage.tiny import Attention, Model, Recipe

LEARNED, ROTARY = Recipe(), Recipe(positions="rotary", norm="rms", kv_heads=3)
QUICK = "--no-evidence"
EXACT = ("permuted", "rotated", "rescaled")


def attention(recipe: Recipe, path: Path, layer: int) -> Tensor:
    """What a layer of a file computes of some input."""
    state = load_file(path / "model.safetensors" if path.is_dir() else path)
    prefix = f"model.layers.{layer}.self_attn."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    module = Attention(Recipe(**{**vars(recipe), "kv_heads": len(own["k_proj.weight"]) // recipe.head_dim}))
    module.load_state_dict(own)
    with torch.no_grad():
        return module(torch.randn(2, 9, recipe.width, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize(("recipe", "rotary"), [(LEARNED, "none"), (ROTARY, "halves")])
def test_heads_are_brought_into_the_order_and_basis_of_another(
    recipe: Recipe, rotary: str, tmp_path: Path, run
) -> None:
    model = Model(recipe, 1)
    kinds.make(model, 0, (), 0).save(tmp_path / "a")
    kinds.make(model, 0, EXACT, 3).save(tmp_path / "b")
    out = tmp_path / "out.safetensors"
    result = run("convert", QUICK, tmp_path / "b", "--align-to", tmp_path / "a", "--rotary", rotary, "-o", out)
    assert result.code == 0, result.err
    a, b, made = (
        load_file(tmp_path / "a/model.safetensors"),
        load_file(tmp_path / "b/model.safetensors"),
        load_file(out),
    )
    assert made.keys() == a.keys() == b.keys()
    for name in (one for one in a if "self_attn" in one):
        assert not torch.allclose(a[name], b[name], atol=1e-3)
        assert torch.allclose(a[name], made[name], atol=1e-6)
    for layer in range(recipe.layers):
        assert torch.allclose(attention(recipe, tmp_path / "b", layer), attention(recipe, out, layer), atol=1e-5)


def multihead(model_seed: int, heads: int = 4) -> nn.MultiheadAttention:
    torch.manual_seed(model_seed)
    module = nn.MultiheadAttention(32, heads, batch_first=True)
    nn.init.normal_(module.in_proj_bias)
    nn.init.normal_(module.out_proj.bias)
    return module


def moved(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """The same module with its heads in another order, turned and rescaled, biases too."""
    heads, width = module.num_heads, module.embed_dim // module.num_heads
    generator = torch.Generator().manual_seed(5)
    order = torch.randperm(heads, generator=generator).tolist()
    rows = (
        torch.cat([module.in_proj_weight, module.in_proj_bias[:, None]], 1).detach().view(3, heads, width, -1)[:, order]
    )
    out = module.out_proj.weight.detach().T.view(heads, width, -1)[order]
    made = multihead(0, heads)
    for head in range(heads):
        (qk, vo), (c, d) = torch.linalg.qr(torch.randn(2, width, width, generator=generator))[0], (0.3, 2.5)
        rows[:, head] = torch.stack([qk @ rows[0, head] / c, qk @ rows[1, head] * c, vo @ rows[2, head] * d])
        out[head] = vo @ out[head] / d
    with torch.no_grad():
        made.in_proj_weight.copy_(rows.flatten(0, 2)[:, :-1])
        made.in_proj_bias.copy_(rows.flatten(0, 2)[:, -1])
        made.out_proj.weight.copy_(out.flatten(0, 1).T)
        made.out_proj.bias.copy_(module.out_proj.bias)
    return made


def saved_multihead(modules: list[nn.MultiheadAttention], path: Path) -> Path:
    state = {f"layers.{n}.self_attn.{key}": value for n, one in enumerate(modules)
             for key, value in one.state_dict().items()}  # fmt: skip
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def computed(module: nn.MultiheadAttention, state: dict[str, Tensor], layer: int) -> Tensor:
    prefix = f"layers.{layer}.self_attn."
    module.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return module(x, x, x)[0]


def test_multihead_attention_of_torch_computes_the_same_biases_included(tmp_path: Path, run) -> None:
    modules = [multihead(1), multihead(2)]
    a = saved_multihead(modules, tmp_path / "a.safetensors")
    b = saved_multihead([moved(one) for one in modules], tmp_path / "b.safetensors")
    out = tmp_path / "out.safetensors"
    assert run("convert", QUICK, b, "--align-to", a, "-o", out).code == 2  # no heads are known
    result = run("convert", QUICK, b, "--align-to", a, "--heads", "4", "-o", out)
    assert result.code == 0, result.err
    again = run(
        "convert", QUICK, b, "--align-to", a, "--heads", "4", "--align-heads", "2", "-o", tmp_path / "two.safetensors"
    )
    assert again.code == 2
    assert "its heads" in again.err
    one, other, made = (load_file(path) for path in (a, b, out))
    for layer in range(2):
        expected = computed(multihead(0), other, layer)
        assert torch.allclose(expected, computed(multihead(0), one, layer), atol=1e-5)  # they were moved exactly
        assert torch.allclose(expected, computed(multihead(0), made, layer), atol=1e-5)
    for name in one:
        assert torch.allclose(one[name], made[name], atol=1e-5), name


def llama(kv_heads: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaAttention

    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=8, num_key_value_heads=kv_heads, head_dim=8, attention_bias=True
    )
    config._attn_implementation = "eager"
    return LlamaAttention(config, 0)


def of_llama(path: Path, kv_heads: int) -> Tensor:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    module = llama(kv_heads)
    prefix = "model.layers.0.self_attn."
    module.load_state_dict({name.removeprefix(prefix): value for name, value in load_file(path).items()})
    x = torch.randn(1, 11, 64, generator=torch.Generator().manual_seed(7))
    mask = torch.full((11, 11), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        turns = LlamaRotaryEmbedding(module.config)(x, torch.arange(11)[None])
        return module(hidden_states=x, position_embeddings=turns, attention_mask=mask)[0]


def saved_llama(module: nn.Module, folder: Path, kv_heads: int) -> Path:
    folder.mkdir()
    save_file({f"model.layers.0.self_attn.{name}": value.detach().clone().contiguous()
               for name, value in module.state_dict().items()}, folder / "model.safetensors")  # fmt: skip
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": kv_heads,
              "head_dim": 8, "num_hidden_layers": 1}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def moved_llama(module: nn.Module, kv_heads: int, *, shared: int) -> dict[str, Tensor]:
    """Its state with each head of K and V turned, its Q along; K and V of ``shared`` neighbours made alike before."""
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    generator = torch.Generator().manual_seed(11)
    share = 8 // kv_heads
    for group in range(kv_heads):
        angle = torch.rand(4, generator=generator) * 6.28
        cos, sin = torch.diag(angle.cos()), torch.diag(angle.sin())
        qk = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
        vo = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
        rows, like = (
            slice(group * 8, group * 8 + 8),
            slice(group // shared * shared * 8, group // shared * shared * 8 + 8),
        )
        its = slice(group * 8 * share, (group + 1) * 8 * share)
        for end in ("weight", "bias"):
            for part, turn in (("k", qk), ("v", vo)):
                state[f"{part}_proj.{end}"][rows] = turn @ module.state_dict()[f"{part}_proj.{end}"][like]
            own = state[f"q_proj.{end}"][its]
            state[f"q_proj.{end}"][its] = (qk @ own.view(share, 8, -1)).reshape(own.shape)
        out = state["o_proj.weight"][:, its]
        state["o_proj.weight"][:, its] = (
            (out.T.reshape(share, 8, -1).transpose(1, 2) @ vo.T).transpose(1, 2).reshape(out.T.shape).T
        )
    return state


def test_the_llama_of_transformers_computes_the_same(tmp_path: Path, run) -> None:
    torch.manual_seed(0)
    module = llama(4)
    nn.init.normal_(module.k_proj.bias)
    a = saved_llama(module, tmp_path / "a", 4)
    module.load_state_dict(moved_llama(module, 4, shared=1))
    b = saved_llama(module, tmp_path / "b", 4)
    out = tmp_path / "out.safetensors"
    assert run("convert", QUICK, b, "--align-to", a, "-o", out).code == 0
    expected = of_llama(b / "model.safetensors", 4)
    assert torch.allclose(expected, of_llama(a / "model.safetensors", 4), atol=1e-5)
    assert torch.allclose(expected, of_llama(out, 4), atol=1e-5)
    assert torch.allclose(load_file(a / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"],
                          load_file(out)["model.layers.0.self_attn.k_proj.weight"], atol=1e-5)  # fmt: skip


def test_heads_that_are_alike_but_for_a_rotation_are_merged_without_loss(tmp_path: Path, run) -> None:
    torch.manual_seed(0)
    module = llama(8)
    nn.init.normal_(module.k_proj.bias)
    module.load_state_dict(moved_llama(module, 8, shared=2))
    a = saved_llama(module, tmp_path / "a", 8)
    out = tmp_path / "out.safetensors"
    result = run("convert", QUICK, a, "--kv-heads", 4, "-o", out, "--format", "json")
    assert result.code == 0, result.err
    (layer,) = json.loads(result.out)["heads"]["merged"]
    assert [group["kv_heads"] for group in layer["groups"]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert max(max(group["aligned"].values()) for group in layer["groups"]) < 1e-5
    assert min(min(group["mean"].values()) for group in layer["groups"]) > 0.1
    assert torch.allclose(of_llama(a / "model.safetensors", 8), of_llama(out, 4), atol=1e-5)
    assert '"num_key_value_heads": 4' in result.err


@pytest.mark.parametrize(("recipe", "rotary"), [(LEARNED, "none"), (Recipe(positions="rotary"), "halves")])
@pytest.mark.parametrize("packed", [False, True])
def test_the_error_of_each_group_is_that_of_its_circuits(
    recipe: Recipe, rotary: str, packed: bool, tmp_path: Path, run
) -> None:
    made = kinds.make(Model(recipe, 1), 0, ("permuted", "rotated") + ("packed",) * packed, 3)
    made.save(tmp_path / "a")
    out = tmp_path / "out.safetensors"
    to = ("--to", "qkv-proj")
    result = run(
        "convert", QUICK, tmp_path / "a", "--kv-heads", 2, "--rotary", rotary, *to, "-o", out, "--format", "json"
    )
    assert result.code == 0, result.err
    said = json.loads(result.out)["heads"]["merged"]
    state = load_file(out)
    for layer, weights in enumerate(made.attention):
        new = {part: state[f"model.layers.{layer}.self_attn.{part}.weight"].double().numpy()
               for part in (kinds.Q, kinds.K, kinds.V, kinds.OUT)}  # fmt: skip
        old = {part: value.double().numpy() for part, value in weights.items()}
        order = [head for group in said[layer]["groups"] for head in group["kv_heads"]]
        both = circuits(old, [*range(6)], order), circuits(new, [h // 3 for h in range(6)], [*range(6)])
        for side, name in enumerate(("qk", "ov")):
            before, after = (one[side] for one in both)
            for group, found in enumerate(said[layer]["groups"]):
                its = slice(group * 3, group * 3 + 3)
                error = np.linalg.norm(after[its] - before[its]) / np.linalg.norm(before[its])
                assert found["aligned"][name] == pytest.approx(error, rel=1e-3)
        assert said[layer]["aligned"]["ov"] < said[layer]["mean_of_neighbours"]["ov"]


def circuits(state: dict[str, np.ndarray], kv: list[int], order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = (state[part].reshape(-1, 8, 48) for part in (kinds.Q, kinds.K, kinds.V))
    o = state[kinds.OUT].T.reshape(-1, 8, 48)
    return (np.array([q[head].T @ k[kv[head]] for head in order]),
            np.array([o[head].T @ v[kv[head]] for head in order]))  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "how layer 'model.layers.0.self_attn' tells positions apart is not known"),
        (("--rotary", "thirds"), "--rotary does not say which rows"),
        (("--rotary", "none", "--kv-heads", 4), "cannot become 4"),
    ],
)
def test_what_is_not_known_is_asked_for(tmp_path: Path, run, more: tuple[str, ...], said: str) -> None:
    place = kinds.make(Model(LEARNED, 1), 0, (), 0).save(tmp_path / "a")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "model_type": "tiny"}))
    how = more if "--kv-heads" in more else ("--align-to", place, *more)
    result = run("convert", QUICK, place, *how, "-o", tmp_path / "out.safetensors")
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("q_norm.weight", (8,), "q_norm.weight"), ("relative_attention_bias.weight", (32, 6), "relative_attention_bias")],
)
def test_tensors_that_hang_on_the_order_or_basis_of_heads_forbid_both(
    tmp_path: Path, run, name: str, shape: tuple[int, ...], said: str
) -> None:
    place = kinds.make(Model(LEARNED, 1), 0, (), 0).save(tmp_path / "a")
    state = load_file(place / "model.safetensors")
    save_file({**state, f"model.layers.1.self_attn.{name}": torch.ones(shape)}, place / "model.safetensors")
    result = run("convert", QUICK, place, "--kv-heads", 2, "--rotary", "none", "-o", tmp_path / "out.safetensors")
    assert result.code == 2
    assert said in result.err


@pytest.mark.gate
def test_heads_are_merged_into_one_tensor_as_they_are_apart(tmp_path: Path, run) -> None:
    place = kinds.make(Model(LEARNED, 1), 0, ("packed",), 3).save(tmp_path / "a")
    how = ("--kv-heads", 2, "--rotary", "none", "-o")
    refused = run("convert", QUICK, place, *how, tmp_path / "no.safetensors")
    assert refused.code == 2
    assert "torch-mha holds as many heads of K and V as of Q" in refused.err
    for to in ("qkv-proj", "phi3", "internlm2"):
        assert run("convert", QUICK, place, *how, tmp_path / f"{to}.safetensors", "--to", to).code == 0
    apart, one, grouped = (load_file(tmp_path / f"{to}.safetensors") for to in ("qkv-proj", "phi3", "internlm2"))
    layer = "model.layers.1"
    q, k, v = (apart[f"{layer}.self_attn.{part}.weight"] for part in (kinds.Q, kinds.K, kinds.V))
    assert torch.equal(one[f"{layer}.self_attn.qkv_proj.weight"], torch.cat([q, k, v]))
    groups = [torch.cat([q[g * 24 : g * 24 + 24], k[g * 8 : g * 8 + 8], v[g * 8 : g * 8 + 8]]) for g in range(2)]
    assert torch.equal(grouped[f"{layer}.attention.wqkv.weight"], torch.cat(groups))


def test_strangers_are_not_aligned(tmp_path: Path, run) -> None:
    a, b = (kinds.make(Model(LEARNED, seed), 0, (), 0).save(tmp_path / str(seed)) for seed in (1, 2))
    result = run("convert", QUICK, b, "--align-to", a, "--rotary", "none", "-o", tmp_path / "out.safetensors")
    assert result.code == 2
    assert "no kin: unrelated" in result.err


def test_a_layout_that_is_not_known_is_said_to_be_so(tmp_path: Path, run) -> None:
    names = {"c_attn.weight": (64, 48), "c_attn.bias": (48,), "c_proj.weight": (16, 64), "c_proj.bias": (64,)}
    save_file({f"h.0.attn.{name}": torch.ones(shape) for name, shape in names.items()}, tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors"
    result = run("convert", QUICK, path, "--align-to", path, "-o", tmp_path / "b.safetensors")
    assert result.code == 2
    assert "how its layers are stored is not known; --to says" in result.err
