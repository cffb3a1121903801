"""Configs beside a checkpoint: which are read, in which order, and what becomes of those that cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.errors import UsageError
from qkvinspect.formats import open_checkpoint
from tests.conftest import Run
from tests.counted import counted
from tests.long import long


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(1)}, path)
    return path


def origins(path: Path, **options: Any) -> list[str]:
    with open_checkpoint(path, **options) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        return [config.origin for config in checkpoint.configs]


def test_json_and_yaml_give_the_same(model: Path) -> None:
    model.with_name("a.json").write_text('{"heads": 8, "sub": {"dim": [1, 2.5, null, true]}}')
    model.with_name("b.yaml").write_text("heads: 8\nsub:\n  dim: [1, 2.5, null, true]\n")
    model.with_name("c.yml").write_text("{heads: 8, sub: {dim: [1, 2.5, ~, yes]}}")
    with open_checkpoint(model) as checkpoint:
        assert [config.origin for config in checkpoint.configs] == ["config:a.json", "config:b.yaml", "config:c.yml"]
        for config in checkpoint.configs:
            assert config.values == {"heads": 8, "sub": {"dim": [1, 2.5, None, True]}}


def test_order_same_name_then_usual_then_any(model: Path) -> None:
    names = [
        "zzz.json",
        "aaa.yaml",
        "config.yaml",
        "hparams.yaml",
        "params.json",
        "config.json",
        "model.yaml",
        "model.json",
    ]
    for name in names:
        model.with_name(name).write_text("{}")
    assert origins(model) == [
        f"config:{name}"
        for name in (
            "model.json",
            "model.yaml",
            "config.json",
            "params.json",
            "hparams.yaml",
            "config.yaml",
            "aaa.yaml",
            "zzz.json",
        )
    ]


def test_same_name_with_dots(tmp_path: Path) -> None:
    path = tmp_path / "sd-v1.5.ckpt"
    torch.save({"w": torch.ones(1)}, path)
    for name in ("config.json", "sd-v1.5.yaml"):
        path.with_name(name).write_text("{}")
    assert origins(path) == ["config:sd-v1.5.yaml", "config:config.json"]


def test_one_inside_comes_after_those_beside_and_the_named_one_first(model: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": {"heads": 1}}, model)
    model.with_name("config.json").write_text('{"heads": 2}')
    other = tmp_path / "elsewhere" / "mine.yaml"
    other.parent.mkdir()
    other.write_text("heads: 3")
    assert origins(model, config=other) == ["config:mine.yaml", "config:config.json", "checkpoint:args"]


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "generation_config.json",
        "preprocessor_config.json",
        "added_tokens.json",
        "other.safetensors.index.json",
        "notes.txt",
        "config.json.bak",
    ],
)
def test_files_that_are_no_configs(name: str, model: Path) -> None:
    model.with_name(name).write_text('{"heads": 1}')
    assert origins(model) == []


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', "3", "null"])
@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_files_that_hold_no_mapping_are_passed_over(text: str, name: str, model: Path) -> None:
    model.with_name(name).write_text(text)
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()
        assert checkpoint.findings == ()


UNREADABLE: dict[str, tuple[str, bytes]] = {
    "empty json": ("config.json", b""),
    "cut json": ("config.json", b'{"a": '),
    "json twice": ("config.json", b'{"a": 1, "a": 2}'),
    "json NaN": ("config.json", b'{"a": NaN}'),
    "json not UTF-8": ("config.json", b'{"a": "\xff"}'),
    "json too deep": ("config.json", b'{"a":' * 100_000),
    "json of a huge integer": ("config.json", b'{"a": ' + b"9" * 10_000 + b"}"),
    "json of many values": ("config.json", b'{"a": [' + b"1," * 60_000 + b"1]}"),
    "json too large": ("config.json", b'{"a": "' + b"x" * 2_100_000 + b'"}'),
    "yaml cut": ("config.yaml", b"a: [1, 2"),
    "yaml tab": ("config.yaml", b"a:\n\t- b: c\n - d"),
    "yaml not UTF-8": ("config.yaml", b"a: \xff\xfe"),
    "yaml control": ("config.yaml", b"a: \x00"),
    "yaml object": ("config.yaml", b"a: !!python/object/apply:os.system ['true']"),
    "yaml name": ("config.yaml", b"a: !!python/name:os.system"),
    "yaml own tag": ("config.yaml", b"a: !Mine {b: 1}"),
    "yaml two documents": ("config.yaml", b"a: 1\n---\nb: 2\n"),
    "yaml unknown alias": ("config.yaml", b"a: *nothing"),
    "yaml unhashable key": ("config.yaml", b"{[1, 2]: 3}"),
    "yaml too deep": ("config.yaml", b"a: " + b"[" * 5000),
    "yaml bool of nothing": ("config.yaml", b"a: !!bool maybe"),
    "yaml empty int": ("config.yaml", b"a: !!int ''"),
    "yaml empty float": ("config.yaml", b"a: !!float ''"),
    "yaml timestamp of text": ("config.yaml", b"a: !!timestamp soon"),
    "yaml impossible date": ("config.yaml", b"a: 2001-99-99"),
    "yaml escape past Unicode": ("config.yaml", b'a: "\\UFFFFFFFF"'),
    "yaml escape beyond an int": ("config.yaml", b'a: "\\U80000000"'),
}


@pytest.mark.parametrize(("name", "data"), UNREADABLE.values(), ids=UNREADABLE)
def test_configs_that_cannot_be_read_are_a_finding(name: str, data: bytes, model: Path) -> None:
    model.with_name(name).write_bytes(data)
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()
        (finding,) = checkpoint.findings
        assert (finding.code, finding.severity) == ("config-unreadable", "info")
        assert finding.message.startswith(f"{name} ")
        assert len(finding.message.splitlines()) == 1


@pytest.mark.parametrize(("name", "data"), UNREADABLE.values(), ids=UNREADABLE)
def test_the_config_that_the_user_names_must_be_readable(name: str, data: bytes, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "elsewhere" / name
    bad.parent.mkdir()
    bad.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        open_checkpoint(model, config=bad)
    assert str(caught.value).startswith(str(bad))
    assert len(str(caught.value).splitlines()) == 1


def test_a_named_config_that_is_missing_or_no_mapping(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        open_checkpoint(model, config=tmp_path / "nothing.json")
    listed = tmp_path / "list.json"
    listed.write_text("[]")
    with pytest.raises(UsageError, match="not a mapping"):
        open_checkpoint(model, config=listed)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what /proc shows")
def test_no_file_stays_open(model: Path, tmp_path: Path) -> None:
    model.with_name("config.json").write_text("{")
    before = len(os.listdir("/proc/self/fd"))
    with open_checkpoint(model):
        pass
    with pytest.raises(UsageError):
        open_checkpoint(model, config=tmp_path / "nothing.json")
    assert len(os.listdir("/proc/self/fd")) == before


def aliases(levels: int, times: int, form: str) -> bytes:
    """A few lines that stand for ``times ** levels`` values."""
    lines = ["a0: &a0 {k: 1}"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} " + form.format(", ".join([f"*a{n - 1}"] * times)))
    return "\n".join(lines).encode()


BOMBS: dict[str, tuple[bytes, str]] = {
    "aliases that double": (aliases(40, 2, "[{}]"), "too many values"),
    "merges of merges": (aliases(10, 10, "{{<<: [{}]}}"), "too many values"),
    "one alias many times": (b"a: &a [" + b"1," * 900 + b"]\nb: [" + b"*a," * 900 + b"]", "too many values"),
    "a part of itself": (b"a: &a [*a]", "'a' stands for"),
    "many values": (b"a: [" + b"1," * 60_000 + b"]", "too many values"),
    "deep flow": (b"a: " + b"[" * 500 + b"]" * 500, "too deeply"),
    "deep blocks": (b"- " * 20_000 + b"a", "too deeply"),
    "deep complex keys": (b"? " * 20_000 + b"a", "too deeply"),
    "digits": (b"a: " + b"9" * 101, "digits"),
    "hexadecimal digits": (b"a: 0x" + b"f" * 1_000_000, "digits"),
    "binary digits": (b"a: 0b" + b"1" * 1_000_000, "digits"),
    "sexagesimal": (b"a: 1" + b":59" * 500_000, "digits"),
    "a float": (b"a: 1." + b"3" * 1_000_000, "digits"),
    "a tagged number": (b'a: !!int "' + b"1:" * 100_000 + b'1"', "digits"),
}


@pytest.mark.parametrize(("data", "why"), long(BOMBS["many values"].__eq__, BOMBS.values()), ids=BOMBS)
def test_yaml_that_stands_for_much_is_refused_before_it_is_built(data: bytes, why: str, model: Path) -> None:
    model.with_name("config.yaml").write_bytes(data)
    with counted() as lines, open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()
        (finding,) = checkpoint.findings
    assert why in finding.message
    assert sum(lines.values()) < 1_000_000  # built, these take very many or never end


def test_anchors_and_merges_of_a_usual_size_are_read(model: Path) -> None:
    model.with_name("config.yaml").write_text(
        "base: &b {heads: 8, dim: 64}\nsub:\n  <<: *b\n  dim: 32\nsame: *b\n"
        "hash: " + "ab12" * 32 + "\nlong: 0.1000000000000000055511151231257827021181583404541015625\n"
    )
    with open_checkpoint(model) as checkpoint:
        (config,) = checkpoint.configs
    assert config.values["sub"] == {"heads": 8, "dim": 32}
    assert config.values["same"] == {"heads": 8, "dim": 64}
    assert (config.values["hash"], config.values["long"]) == ("ab12" * 32, 0.1)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "device"])
def test_a_config_that_is_no_file_is_not_waited_for_and_told(kind: str, model: Path) -> None:
    config = model.with_name("config.json")
    if kind == "pipe":
        os.mkfifo(config)
    elif kind == "folder":
        config.mkdir()
    else:
        config.symlink_to("/dev/zero" if kind == "device" else "nothing")
    assert origins(model) == []
    with open_checkpoint(model) as checkpoint:
        (told,) = [one for one in checkpoint.findings if one.code == "config-unreadable"]
    assert told.message == "config.json beside it is not used: it is no regular file, or a link to none"


def test_many_files_beside(model: Path) -> None:
    for n in range(50):
        model.with_name(f"log{n:02}.json").write_text("{}")
    model.with_name("config.json").write_text("{}")
    found = origins(model)
    assert found[0] == "config:config.json"
    assert len(found) == 20


WRITTEN_HERE = {
    "show": ("show", "M", "-f", "json"),
    "explain": ("explain", "M", "-f", "json"),
    "analyze": ("analyze", "M", "-f", "json"),
    "check": ("check", "M", "-f", "json"),
    "sarif": ("check", "M", "-f", "sarif"),
    "diff": ("diff", "M", "M", "-f", "json"),
    "lineage": ("lineage", "M", "M", "-f", "json"),
    "export": ("export", "M", "-o", "OUT", "-f", "json"),
}


@pytest.fixture
def attention(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    save_file({f"h.0.self_attn.{part}_proj.weight": torch.randn(8, 8) for part in "qkvo"}, path)
    return path


@pytest.mark.parametrize("command", WRITTEN_HERE.values(), ids=WRITTEN_HERE)
def test_what_this_tool_wrote_beside_a_checkpoint_is_no_config(
    command: tuple[str, ...], run: Run, attention: Path, tmp_path: Path
) -> None:
    model = attention
    out = str(tmp_path / "out" / "o.safetensors")
    Path(out).parent.mkdir()
    result = run(*({"M": str(model), "OUT": out}.get(word, word) for word in command))
    assert result.out, result.err
    (tmp_path / "a_config_by_name.json").write_text(result.out)
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()


def test_a_baseline_beside_a_checkpoint_is_no_config(run: Run, attention: Path, tmp_path: Path) -> None:
    model = attention
    baseline = tmp_path / "model.json"
    assert run("check", model, "--write-baseline", baseline).code in (0, 1)
    assert baseline.exists()
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()


def test_a_file_that_only_counts_heads_is_no_config_unless_its_name_says_so(model: Path) -> None:
    stray = model.with_name("results.json")
    stray.write_text('{"heads": 2, "accuracy": 0.9}')
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.configs == ()
        (finding,) = checkpoint.findings
        assert finding.message.startswith(
            "results.json beside it is not used: it says no more of a model than its heads"
        )
    assert origins(model, config=stray) == ["config:results.json"]
    stray.rename(model.with_name("my_hparams.json"))
    assert origins(model) == ["config:my_hparams.json"]
    model.with_name("my_hparams.json").rename(model.with_name("any.json"))
    model.with_name("any.json").write_text('{"heads": 2, "hidden_size": 8}')
    assert origins(model) == ["config:any.json"]


def test_many_files_that_are_no_configs_are_one_line(model: Path) -> None:
    for number in range(25):
        model.with_name(f"data-{number:02}.json").write_text("{")
    model.with_name("config.json").write_text("{")
    with open_checkpoint(model) as checkpoint:
        own, rest = (finding.message for finding in checkpoint.findings)
    assert own.startswith("config.json beside it is not used: cannot be parsed")
    assert rest.startswith("data-00.json beside it is not used: cannot be parsed")
    assert rest.endswith("; nor are data-01.json, data-02.json and 16 more, for this or other reasons")


def test_two_files_that_are_no_configs_are_told_by_themselves(model: Path) -> None:
    for name in ("data.json", "notes.yaml"):
        model.with_name(name).write_text("{")
    with open_checkpoint(model) as checkpoint:
        said = [finding.message for finding in checkpoint.findings]
    assert [text.partition(" beside it is not used: ")[0] for text in said] == ["data.json", "notes.yaml"]
