"""convert --tp: the shares are those that Megatron-Core and vLLM cut, and any number of ranks joins to one whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from qkvinspect.cli import app, main
from tests.formats import ranks
from tests.some import crossed, every_value

WIDTH, HEADS, DIM = 64, 8, 8


def llama(kv_heads: int) -> dict[str, Tensor]:
    """Q, K and V apart, as transformers' Llama and Qwen2."""
    found: dict[str, Tensor] = {"model.embed_tokens.weight": ranks.draw(32, WIDTH)}
    for layer in range(2):
        name = f"model.layers.{layer}"
        for part, heads in (("q", HEADS), ("k", kv_heads), ("v", kv_heads)):
            found[f"{name}.self_attn.{part}_proj.weight"] = ranks.draw(heads * DIM, WIDTH)
            found[f"{name}.self_attn.{part}_proj.bias"] = ranks.draw(heads * DIM)
        found[f"{name}.self_attn.o_proj.weight"] = ranks.draw(WIDTH, HEADS * DIM)
        found[f"{name}.mlp.gate_proj.weight"] = ranks.draw(48, WIDTH)
        found[f"{name}.mlp.up_proj.weight"] = ranks.draw(48, WIDTH)
        found[f"{name}.mlp.down_proj.weight"] = ranks.draw(WIDTH, 48)
        found[f"{name}.input_layernorm.weight"] = ranks.draw(WIDTH)
    return found | {"model.norm.weight": ranks.draw(WIDTH), "lm_head.weight": ranks.draw(32, WIDTH)}


def run(*argv: object) -> None:
    assert main([str(arg) for arg in argv]) == 0


def convert(path: Path, to: str, out: Path, kv_heads: int, *more: object) -> Path:
    run("convert", path, "--to", to, "-o", out, "--heads", f"{HEADS}/{kv_heads}", "--no-evidence", *more)
    return out


def state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        found = torch.load(path, weights_only=True)
        return found.get("model", found)
    return load_file(path)


def of_ranks(folder: Path, count: int) -> list[dict[str, Tensor]]:
    """The state of each rank, as its own loader would find it."""
    if (folder / "latest_checkpointed_iteration.txt").exists():
        assert (folder / "latest_checkpointed_iteration.txt").read_text() == "release"
        paths = [folder / "release" / f"mp_rank_{rank:02}" / "model_optim_rng.pt" for rank in range(count)]
    else:
        paths = [folder / f"model-rank-{rank}-part-0.safetensors" for rank in range(count)]
    assert {path for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")} == set(paths)
    return [state(path) for path in paths]


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


LAYOUTS = [
    *((to, kv_heads) for to in ("qkv-proj", "phi3", "megatron-core") for kv_heads in (1, 2, 8)),
    *((to, 8) for to in ("megatron-v2", "megatron-v1", "megatron-v0")),
]


@pytest.mark.parametrize(("to", "kv_heads"), every_value(LAYOUTS))
@pytest.mark.gate
def test_1_4_8_2_1(to: str, kv_heads: int, tmp_path: Path) -> None:
    """Separate, blocked, grouped, per head, row by row: the same bytes after every number of ranks."""
    save_file(llama(kv_heads), tmp_path / "own.safetensors")
    before = convert(tmp_path / "own.safetensors", to, tmp_path / "1.safetensors", kv_heads)
    layout = ("--layout", to) if to.startswith("megatron-v") else ()
    for count in (4, 8, 2):
        more = ("--tp", count, "--verify", *(() if before.suffix == ".safetensors" and not layout else layout))
        before = convert(before, to, tmp_path / str(count), kv_heads, *more)
    after = convert(before, to, tmp_path / "again.safetensors", kv_heads, "--tp", 1, *layout)
    require_equal(state(after), state(tmp_path / "1.safetensors"))


@crossed(kv_heads=[1, 2, 8], count=[8, 4, 2])
def test_shares_of_megatron_core(kv_heads: int, count: int, tmp_path: Path) -> None:
    whole = ranks.megatron_core(HEADS, kv_heads, DIM, 2)
    save_file(whole, tmp_path / "own.safetensors")
    folder = convert(tmp_path / "own.safetensors", "megatron-core", tmp_path / "out", kv_heads, "--tp", count)
    for rank, own in enumerate(of_ranks(folder, count)):
        require_equal(own, {name: ranks.megatron_share(name, one, rank, count) for name, one in whole.items()})


@pytest.mark.parametrize("version", [0, 1, 2])
def test_shares_of_older_megatron(version: int, tmp_path: Path) -> None:
    name = "language_model.encoder.layers.0.self_attention"
    whole = {
        f"{name}.query_key_value.weight": ranks.draw(3 * WIDTH, WIDTH),
        f"{name}.dense.weight": ranks.draw(WIDTH, WIDTH),
        f"{name}.dense.bias": ranks.draw(WIDTH),
    }
    save_file(whole, tmp_path / "own.safetensors")
    to = f"megatron-v{version}"
    folder = convert(tmp_path / "own.safetensors", to, tmp_path / "out", 8, "--tp", 4, "--layout", to)
    for rank, own in enumerate(of_ranks(folder, 4)):
        expected = {key: ranks.megatron_share(key, one, rank, 4, version=version) for key, one in whole.items()}
        require_equal(own, expected)
    saved = torch.load(folder / "release/mp_rank_00/model_optim_rng.pt", weights_only=True)
    assert saved["checkpoint_version"] == {0: 0, 1: 1, 2: 3}[version]
    assert saved["iteration"] == 0


@crossed(to=["phi3", "qkv-proj"], kv_heads=[1, 2, 8], count=[8, 4, 2])
def test_shares_of_vllm(to: str, kv_heads: int, count: int, tmp_path: Path) -> None:
    whole = llama(kv_heads)
    save_file(whole, tmp_path / "own.safetensors")
    folder = convert(tmp_path / "own.safetensors", to, tmp_path / "out", kv_heads, "--tp", count)
    for rank, own in enumerate(of_ranks(folder, count)):
        for layer in range(2):
            name = f"model.layers.{layer}"
            for kind in ("weight", "bias"):
                parts = [whole[f"{name}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                q, k, v = ranks.vllm_qkv(*parts, kv_heads, rank, count)
                if to == "phi3":
                    assert torch.equal(own[f"{name}.self_attn.qkv_proj.{kind}"], torch.cat([q, k, v]))
                else:
                    for part, tensor in zip("qkv", (q, k, v), strict=True):
                        assert torch.equal(own[f"{name}.self_attn.{part}_proj.{kind}"], tensor)
            rows = ("mlp.gate_proj", "mlp.up_proj")
            assert all(
                torch.equal(own[f"{name}.{at}.weight"], whole[f"{name}.{at}.weight"].chunk(count)[rank]) for at in rows
            )
            columns = ("self_attn.o_proj", "mlp.down_proj")
            for at in columns:
                assert torch.equal(own[f"{name}.{at}.weight"], whole[f"{name}.{at}.weight"].chunk(count, 1)[rank])
            assert torch.equal(own[f"{name}.input_layernorm.weight"], whole[f"{name}.input_layernorm.weight"])
        assert torch.equal(own["lm_head.weight"], whole["lm_head.weight"].chunk(count)[rank])


def test_gate_and_up_of_vllm(tmp_path: Path) -> None:
    """Its merged columns are cut half by half, and joined so."""
    layers = ranks.llama(HEADS, 8, DIM)
    save_file(ranks.vllm_rank(layers, 1 << 20, 0, 1), tmp_path / "own.safetensors")
    folder = convert(tmp_path / "own.safetensors", "phi3", tmp_path / "out", 8, "--tp", 4)
    for rank, own in enumerate(of_ranks(folder, 4)):
        require_equal(own, ranks.vllm_rank(layers, 8, rank, 4))


def test_gpt2_is_cut_along_its_columns(tmp_path: Path) -> None:
    whole = {
        "h.0.attn.c_attn.weight": ranks.draw(WIDTH, 3 * WIDTH),
        "h.0.attn.c_attn.bias": ranks.draw(3 * WIDTH),
        "h.0.attn.c_proj.weight": ranks.draw(WIDTH, WIDTH),
        "h.0.attn.c_proj.bias": ranks.draw(WIDTH),
    }
    save_file(whole, tmp_path / "own.safetensors")
    folder = convert(tmp_path / "own.safetensors", "gpt2", tmp_path / "out", HEADS, "--tp", 2)
    for rank, own in enumerate(of_ranks(folder, 2)):
        parts = [part.chunk(2, 1)[rank] for part in whole["h.0.attn.c_attn.weight"].chunk(3, 1)]
        assert torch.equal(own["h.0.attn.c_attn.weight"], torch.cat(parts, 1))
        assert torch.equal(own["h.0.attn.c_proj.weight"], whole["h.0.attn.c_proj.weight"].chunk(2)[rank])
        assert torch.equal(own["h.0.attn.c_proj.bias"], whole["h.0.attn.c_proj.bias"])


def refused(*argv: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in argv])
    assert result.exit_code != 0
    return str(result.exception) + result.output


REFUSED: dict[str, tuple[dict[str, Tensor], tuple[object, ...], str]] = {
    "heads that cannot be shared out": ({}, ("--tp", 3), "8 heads cannot be shared out over 3 ranks"),
    "kv heads that cannot": ({}, ("--tp", 16), "8 heads cannot be shared out over 16 ranks"),
    "an unknown tensor": ({"adapter.mix": ranks.draw(4, 4)}, ("--tp", 2), "adapter.mix: how ranks share it is unknown"),
    "experts in one tensor of a known name": (
        {"model.layers.0.mlp.down_proj.weight": ranks.draw(4, WIDTH, WIDTH)},
        ("--tp", 2),
        "how ranks share it is unknown",
    ),
    "a vocabulary": ({"lm_head.weight": ranks.draw(33, WIDTH)}, ("--tp", 2), "33 rows cannot be shared out"),
    "with shards": ({}, ("--tp", 2, "--max-shard-size", "1GB"), "do not go together"),
    "--whole alone": ({}, ("--whole", "*"), "means nothing without --tp"),
}


@pytest.mark.parametrize(("extra", "more", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shared_out(
    extra: dict[str, Tensor], more: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    save_file(llama(2) | extra, tmp_path / "own.safetensors")
    argv = ("convert", tmp_path / "own.safetensors", "--to", "qkv-proj", "-o", tmp_path / "out", *more)
    said = refused(*argv, "--heads", "8/2", "--no-evidence")
    assert re.search(re.escape(message), said)
    assert not (tmp_path / "out").exists()


def test_whole_is_for_what_every_rank_gets(tmp_path: Path) -> None:
    odd = ranks.draw(4, 4)
    save_file(llama(2) | {"adapter.mix": odd}, tmp_path / "own.safetensors")
    folder = convert(tmp_path / "own.safetensors", "qkv-proj", tmp_path / "out", 2, "--tp", 2, "--whole", "adapter.*")
    assert all(torch.equal(own["adapter.mix"], odd) for own in of_ranks(folder, 2))


def test_the_heads_must_be_known(tmp_path: Path) -> None:
    save_file(llama(2), tmp_path / "own.safetensors")
    said = refused("convert", tmp_path / "own.safetensors", "--to", "qkv-proj", "--tp", 2, "-o", tmp_path / "out")
    assert "--heads" in said


def test_a_dry_run_and_a_name_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(llama(2), tmp_path / "own.safetensors")
    convert(tmp_path / "own.safetensors", "phi3", tmp_path / "out", 2, "--tp", 2, "--dry-run")
    assert "on 2 ranks" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "own.safetensors", "phi3", tmp_path / "out", 2, "--tp", 2)
    argv = ("convert", tmp_path / "own.safetensors", "--to", "phi3", "--heads", "8/2", "--tp", 2)
    assert "exists already" in refused(*argv, "-o", tmp_path / "out")
    assert ".safetensors" in refused(*argv, "-o", tmp_path / "x.safetensors")


@pytest.mark.parametrize(("to", "kept"), [("megatron-core", True), ("phi3", False)])
def test_what_torch_alone_has_goes_into_torch_s_files_and_no_others(to: str, kept: bool, tmp_path: Path) -> None:
    """complex128, which safetensors has no code for, beside Megatron's; phi3's ranks are safetensors."""
    odd = torch.ones(3, dtype=torch.complex128)
    torch.save({**llama(2), "odd": odd}, tmp_path / "own.pt")
    argv = ("convert", tmp_path / "own.pt", "--to", to, "--heads", "8/2", "--no-evidence", "--tp", 2)
    argv += ("--whole", "odd")
    out = tmp_path / "out"
    if not kept:
        assert "safetensors has no dtype complex128" in refused(*argv, "-o", out)
        assert not out.exists()
        return
    run(*argv, "-o", out, "--verify")
    for own in of_ranks(out, 2):
        assert torch.equal(own["odd"], odd)


@pytest.mark.gate
def test_export_takes_the_whole_of_ranks(tmp_path: Path) -> None:
    whole = ranks.megatron_core(HEADS, 2, DIM, 2)
    ranks.save_megatron(tmp_path / "run", whole, 4, num_attention_heads=HEADS, num_query_groups=2, kv_channels=DIM)
    run("export", "--split", "--all", tmp_path / "run", "-o", tmp_path / "out.safetensors")
    save_file(whole, tmp_path / "whole.safetensors")
    heads = ("--heads", "8/2")
    run("export", "--split", "--all", tmp_path / "whole.safetensors", "-o", tmp_path / "one.safetensors", *heads)
    require_equal(state(tmp_path / "out.safetensors"), state(tmp_path / "one.safetensors"))
