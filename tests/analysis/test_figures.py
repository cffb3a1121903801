"""Every figure equals what torch.linalg gives in float64 on the full matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from qkvinspect.analysis import HeadFigures, Similar, Spectrum, analyze
from qkvinspect.analysis.spectra import spectra_of_grams
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.real.test_real import SCEPTR, folder
from tests.some import tried


def spectrum(matrix: torch.Tensor) -> tuple[float, float, float]:
    values = torch.linalg.svdvals(matrix)
    share = values / values.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return float(values[0]), float((values**2).sum() / values[0] ** 2), float(entropy.exp())


def same(found: Spectrum | None, expected: torch.Tensor) -> None:
    assert found is not None
    wanted = spectrum(expected)
    assert (found.largest, found.stable_rank, found.effective_rank) == pytest.approx(wanted, rel=1e-8)


def check(found: HeadFigures, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o: torch.Tensor | None) -> None:
    for figures, matrix in ((found.q, q), (found.k, k), (found.v, v)):
        same(figures, matrix)
    circuit = q.T @ k
    assert found.qk is not None
    assert found.qk.largest == pytest.approx(float(torch.linalg.matrix_norm(circuit, 2)), rel=1e-8)
    frobenius = float(torch.linalg.matrix_norm(circuit)) ** 2
    assert found.qk.stable_rank == pytest.approx(frobenius / found.qk.largest**2, rel=1e-8)
    values = torch.linalg.svdvals(circuit)[: len(q)]
    share = values / values.sum()
    assert found.qk.effective_rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-8)
    part = float(torch.linalg.matrix_norm((circuit + circuit.T) / 2)) ** 2 / frobenius
    assert found.symmetric == pytest.approx(part, rel=1e-8)
    bound = found.qk.largest * circuit.shape[0] / len(q) ** 0.5
    assert found.logit_bound == pytest.approx(bound, rel=1e-12)
    inputs = torch.nn.functional.normalize(torch.randn(64, circuit.shape[0], dtype=torch.float64), dim=1)
    inputs *= circuit.shape[0] ** 0.5
    assert float((inputs @ circuit @ inputs.T / len(q) ** 0.5).abs().max()) <= found.logit_bound
    if o is None:
        assert found.ov is None
    else:
        assert found.ov is not None
        assert found.ov.largest == pytest.approx(float(torch.linalg.matrix_norm(o @ v, 2)), rel=1e-8)


def similar(found: list[Similar | None], circuits: torch.Tensor) -> None:
    flat = torch.nn.functional.normalize(circuits.flatten(1), dim=1)
    cosines = flat @ flat.T
    for head, one in enumerate(found):
        others = cosines[head].abs().clone()
        others[head] = -1
        if len(others) == 1:
            assert one is None
            continue
        assert one is not None
        assert one.cosine == pytest.approx(float(cosines[head, one.head]), rel=1e-8, abs=1e-9)
        assert float(others.max() - others[one.head]) < 1e-9


@tried(
    given(
        groups=st.integers(1, 3),
        shared=st.integers(1, 3),
        dim=st.integers(2, 9),
        extra=st.integers(0, 20),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
        form=st.sampled_from(["torch", "llama", "gpt2", "neox"]),
        bare=st.booleans(),
        seed=st.integers(0, 1000),
    ),
    20,
    40,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_against_torch(
    groups: int,
    shared: int,
    dim: int,
    extra: int,
    dtype: torch.dtype,
    form: str,
    bare: bool,
    seed: int,
    tmp_path_factory: Any,
) -> None:
    torch.manual_seed(seed)
    heads = groups * shared if form == "llama" else groups
    kv_heads = groups
    width = heads * dim if form in ("torch", "gpt2", "neox") else heads * dim + extra
    q = torch.randn(heads, dim, width).to(dtype)
    k, v = torch.randn(2, kv_heads, dim, width).to(dtype)
    o = torch.randn(width, heads * dim).to(dtype)
    fused = torch.cat([one.reshape(-1, width) for one in (q, k, v)])
    each = torch.stack([q, k, v], 1).reshape(-1, width) if heads == kv_heads else None
    state = {
        "torch": lambda: {"a.in_proj_weight": fused, "a.out_proj.weight": o},
        "llama": lambda: {
            "model.layers.0.self_attn.q_proj.weight": q.reshape(-1, width),
            "model.layers.0.self_attn.k_proj.weight": k.reshape(-1, width),
            "model.layers.0.self_attn.v_proj.weight": v.reshape(-1, width),
            "model.layers.0.self_attn.o_proj.weight": o,
        },
        "gpt2": lambda: {"h.0.attn.c_attn.weight": fused.T.contiguous(), "h.0.attn.c_proj.weight": o.T.contiguous()},
        "neox": lambda: {"layers.0.attention.query_key_value.weight": each, "layers.0.attention.dense.weight": o},
    }[form]()
    if bare:
        del state[list(state)[-1]]
    path = tmp_path_factory.mktemp("analysis") / "model.pt"
    torch.save(state, path)
    layouts = {"gpt2": (("*", "gpt2"),), "neox": (("*", "gpt-neox"),)}.get(form, ())
    with open_checkpoint(path) as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options((f"{heads}/{kv_heads}",), layouts, norms=False)))
    assert len(layer.heads) == heads
    for head, found in enumerate(layer.heads):
        assert found.kv_head == head // (heads // kv_heads)
        out = None if bare else o[:, head * dim : (head + 1) * dim].double()
        check(found, q[head].double(), k[found.kv_head].double(), v[found.kv_head].double(), out)
    for name, part in (("q", q), ("k", k), ("v", v)):
        whole, values = layer.part(name), torch.linalg.svdvals(part.reshape(-1, width).double())
        assert whole is not None
        assert whole.largest == pytest.approx(float(values[0]), rel=1e-8)
        assert whole.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-8)
    shares = [head // (heads // kv_heads) for head in range(heads)]
    similar([one.similar_qk for one in layer.heads], q.double().mT @ k.double()[shares])
    if not bare:
        outs = o.double().reshape(width, heads, dim).transpose(0, 1)
        similar([one.similar_ov for one in layer.heads], outs @ v.double()[shares])


@pytest.mark.parametrize("condition", [1e1, 1e2, 9e2, 2e3, 1e6, 1e12])
def test_ill_conditioned_heads(condition: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    width, dim = 32, 8

    def head() -> torch.Tensor:
        left, right = (
            torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0],
            torch.randn(dim, width, dtype=torch.float64),
        )
        values = torch.logspace(0, -torch.tensor(condition).log10().item(), dim, dtype=torch.float64)
        return left @ torch.diag(values) @ torch.linalg.qr(right.T)[0].T

    q, k, v = head(), head(), head()
    layer_name = "model.layers.0.self_attn"
    torch.save(
        {f"{layer_name}.{name}_proj.weight": part for name, part in zip("qkv", (q, k, v), strict=True)},
        tmp_path / "m.pt",
    )
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options(("1",), norms=False)))
    check(layer.heads[0], q, k, v, None)


def test_the_known_values_of_sceptr() -> None:
    with open_checkpoint(folder("sceptr") / SCEPTR / "SCEPTR") as checkpoint:
        layer = next(analyze(inspect(checkpoint, Options(norms=False))))
    assert [(name, round(whole.largest, 3)) for name, whole in layer.parts] == [
        ("q", 22.718),
        ("k", 11.785),
        ("v", 2.596),
    ]


@pytest.mark.parametrize("kind", ["random", "one large", "all equal", "low rank", "zero"])
def test_the_largest_singular_value_of_wide_parts(kind: str) -> None:
    size = 513
    matrix = {
        "random": lambda: torch.randn(size, size + 40, dtype=torch.float64),
        "one large": lambda: torch.randn(size, size, dtype=torch.float64) + 1,
        "all equal": lambda: torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0],
        "low rank": lambda: torch.randn(size, 3, dtype=torch.float64) @ torch.randn(3, size, dtype=torch.float64),
        "zero": lambda: torch.zeros(size, size, dtype=torch.float64),
    }[kind]()
    (found,) = spectra_of_grams((matrix @ matrix.T).numpy()[None])
    assert found.largest == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-8)


@pytest.mark.parametrize(
    ("state", "options", "why"),
    [
        ({"a.in_proj_weight": torch.randn(24, 8)}, Options(norms=False), "the number of heads is not known"),
        ({"a.in_proj_weight": torch.full((24, 8), torch.nan)}, Options(heads=("2",)), "not finite"),
        ({"a.in_proj_weight": torch.ones(24, 8, dtype=torch.int8)}, Options(heads=("2",)), "int8 has no value"),
    ],
)
def test_where_there_are_none(state: Any, options: Options, why: str, tmp_path: Any) -> None:
    torch.save(state, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, options))
    assert layer.heads == ()
    assert why in layer.why


def test_a_head_of_zeros(tmp_path: Any) -> None:
    weight = torch.randn(24, 8)
    weight[:4] = 0
    torch.save({"a.in_proj_weight": weight}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options(heads=("2",))))
    first = layer.heads[0]
    assert first.q == first.qk == Spectrum(0.0, 0.0, 0.0)
    assert (first.symmetric, first.logit_bound, first.ov) == (None, 0.0, None)


def test_heads_of_q_and_k_that_are_halved(tmp_path: Path) -> None:
    """timm's DiffAttention: [heads, 2, head_dim / 2] of Q and K for each head of V."""
    torch.manual_seed(0)
    heads, dim, width = 3, 8, 24
    weight, out = torch.randn(3 * width, width), torch.randn(width, width)
    beside = {f"attn.lambda_{name}": torch.zeros(dim // 2) for name in ("q1", "k1", "q2", "k2")}
    torch.save({"attn.qkv.weight": weight, "attn.proj.weight": out, **beside}, tmp_path / "m.pt")
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        (layer,) = analyze(inspect(checkpoint, Options((str(heads),), norms=False)))
    q, k = weight.double()[: 2 * width].reshape(2, 2 * heads, dim // 2, width)
    v = weight.double()[2 * width :].reshape(heads, dim, width)
    o = out.double().reshape(width, heads, dim)
    assert len(layer.heads) == 2 * heads
    for half, found in enumerate(layer.heads):
        check(found, q[half], k[half], v[half // 2], o[:, half // 2])
