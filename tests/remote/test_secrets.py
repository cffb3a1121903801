"""User, password and query of a URL, and tokens of the environment, are in nothing that is printed or written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qkvinspect.errors import without_secrets
from tests.cli.test_options import COMMANDS, options
from tests.conftest import Run
from tests.long import long
from tests.remote import files
from tests.remote.server import Asked, Handler, Web, serving
from tests.some import first

SECRET = "s3cr3t"


def redirected(handler: Handler, asked: Asked) -> bool:
    """As stores answer: the place of a file, with a signature in its query."""
    if not asked.name.startswith("moved/"):
        return False
    handler.head(302, {"Location": f"/{asked.name[6:]}?Signature={SECRET}", "Content-Length": "0"})
    return True


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where files are to be had, with all that is secret; the current folder is another."""
    (tmp_path / "web").mkdir()
    torch.save(files.tiny(), tmp_path / "web" / "model.pt")
    (tmp_path / "web" / "broken.pt").write_bytes((tmp_path / "web" / "model.pt").read_bytes()[:-9])
    (tmp_path / "web" / "config.json").write_text('{"num_attention_heads": 2}')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    with serving(tmp_path / "web") as web:
        web.fault = redirected
        monkeypatch.setenv("HF_ENDPOINT", url(web).format(""))
        yield url(web)


def url(web: Web) -> str:
    return web.url.replace("http://", f"http://me:{SECRET}@") + "/{}" + f"?X-Amz-Signature={SECRET}&Expires=1"


NAMES = [name for name in COMMANDS if name != "browse"]
VALUED = {name: [option for option, param in options(COMMANDS[name]).items() if not param.is_flag] for name in NAMES}
"""Options that take a value."""

FILES = ("model.pt", "broken.pt", "missing.pt", "moved/model.pt", "moved/missing.pt")


def by_turns(name: str) -> list[str]:
    """Options that a command is tried with in every run: each option with one of the commands that have it."""
    found: list[str] = []
    for number, option in enumerate(dict.fromkeys(option for one in NAMES for option in VALUED[one])):
        having = [one for one in NAMES if option in VALUED[one]]
        found += [option] if having[number % len(having)] == name else []
    return found


def lines(name: str, at: str, *, brief: bool, every: bool) -> list[list[str]]:
    """Lines of a command on URLs, and with a URL for the values that options take; or the two that have none."""
    many = {"diff": [at, at], "lineage": [at, at], "report": [at, at], "layouts": []}.get(name, [at])
    known = options(COMMANDS[name])
    out = {"export": "o.pt", "pack": "o.pt", "convert": "o.pt", "report": "o.html", "scan": "o.jsonl"}.get(
        name, "o.txt"
    )
    quick = ["--no-evidence"] if "--evidence" in known else []
    given = [name, *many, *(["--to", "torch-mha"] if "--to" in known else [])]
    whole = [*given, *(["-o", out, "--force"] if "--output" in known else [])]
    if brief:
        return [[*given, *quick], [*whole, *quick]]
    found = [given, [*whole, *quick], [*whole, "extra", at], [*whole, f"--no-such={at}"]]
    for option in VALUED[name] if every else by_turns(name):
        if option not in ("--dask", "--format"):
            found.append([*whole, *quick, option, at])
    if name == "check":
        found += [[*given, "-f", form, *quick] for form in ("json", "junit", "sarif", "github")]
        found += [[*given, *quick, "--write-baseline", "b.json"], [*given, *quick, "--hub", "a/b"]]
    return found


@pytest.mark.parametrize("every", first(1, [False, True]))
@pytest.mark.parametrize("name", long({"check", "convert", "diff", "lineage", "report", "scan"}.__contains__, NAMES))
def test_no_command_tells_a_secret(name: str, every: bool, place: str, run: Run) -> None:
    """Each option and each form once in every run; ``-m mass`` has each option with each command."""
    for number, file in enumerate(FILES):
        asked = lines(name, place.format(file), brief=number > 0, every=every)
        for line in asked if every or number == 0 else asked[number % 2 :: 2]:
            jobs = ["--jobs", "1"] if name == "scan" else []
            said = run(*line, *jobs)
            assert SECRET not in said.out + said.err, line
            assert "fault of qkvinspect" not in said.err, line
            for path in Path().rglob("*"):
                assert SECRET not in str(path), line
                assert path.is_dir() or SECRET.encode() not in path.read_bytes(), (path, line)


def test_a_scan_goes_on_without_a_secret_in_its_journal(place: str, run: Run) -> None:
    urls = [place.format("model.pt"), place.format("moved/model.pt")]
    assert run("scan", *urls, "-o", "o.jsonl", "--jobs", "1", "--config", place.format("config.json")).code == 0
    again = run("scan", *urls, "-o", "o.jsonl", "--jobs", "1", "--config", place.format("config.json"), "--resume")
    assert (again.code, "2 of them before" in again.err) == (0, True), again.err
    assert Path("o.jsonl").read_text().count('"part": "q"') > 1
    other = run("scan", urls[0].replace("Expires=1", "Expires=2"), "-o", "o.jsonl", "--jobs", "1", "--resume")
    assert other.code == 2, "other options: the config is missing"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://me:s3cr3t@host/a.pt?sig=s3cr3t: is gone", "http://host/a.pt: is gone"),
        ("http:/me:s3cr3t@host/a.pt?sig=s3cr3t; give another", "http:/host/a.pt; give another"),
        ("found 's3://KEY:s3cr3t@bucket/a#s3cr3t'; did you", "found 's3://bucket/a'; did you"),
        ("(https://s3cr3t@host)", "(https://host)"),
        ("https://a:p@s3cr3t@host/x, https://host/y?z=s3cr3t)", "https://host/x, https://host/y)"),
        ("a/b?c: C:/x?y@z is a path; a: b", "a/b?c: C:/x?y@z is a path; a: b"),
    ],
)
def test_a_message_without_secrets(said: str, shown: str) -> None:
    assert without_secrets(said) == shown
