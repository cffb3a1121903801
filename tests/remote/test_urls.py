"""URLs as text, and the ranges that are made of what is announced."""

from __future__ import annotations

import pytest

from qkvinspect.errors import CheckpointError
from qkvinspect.sources import is_remote
from qkvinspect.sources.range_map import Runs, gaps, joined
from qkvinspect.sources.urls import beside, shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a/model.pt", "https://host/a/model.pt"),
        ("https://me:secret@host:8000/model.pt?X-Amz-Signature=secret#secret", "https://host:8000/model.pt"),
        ("https://secret@host/model.pt", "https://host/model.pt"),
        ("https://host/a@b/model.pt", "https://host/a@b/model.pt"),
        ("https://host?secret@x", "https://host"),
        ("https://a:secret@secret@host/x", "https://host/x"),
        ("sftp://me:secret@host/model.pt", "sftp://host/model.pt"),
        ("s3://bucket/model.pt?versionId=secret", "s3://bucket/model.pt"),
        ("hf://org/model@main/model.pt", "hf://org/model@main/model.pt"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("model.pt?#@:", "model.pt?#@:"),
    ],
)
def test_what_is_shown(url: str, expected: str) -> None:
    assert shown(url) == expected
    assert "secret" not in shown(url)


@pytest.mark.parametrize("text", ["model.pt", "/a/b://c", "file:///a/b.pt", "c://x", "a/s3://x", "s3:/x", ""])
def test_what_is_no_remote_file(text: str) -> None:
    assert not is_remote(text)


def test_what_lies_beside() -> None:
    assert beside("https://u:p@h/a/x.json?sig=1", "b/c d.pt") == "https://u:p@h/a/b/c%20d.pt?sig=1"
    assert beside("https://h/a/x.json", "b?c#d%2e.pt") == "https://h/a/b%3Fc%23d%252e.pt"
    assert beside("s3://bucket/a/x.json", "b?c.pt") == "s3://bucket/a/b?c.pt"


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../../x", "a\\b", "a\0"])
def test_what_leads_out(name: str) -> None:
    with pytest.raises(CheckpointError, match="outside its own folder"):
        beside("https://h/a/x.json", name)


def test_ranges_are_joined_where_the_gap_is_small() -> None:
    assert list(joined([(0, 100), (100, 200), (50, 60)], 0, 32)) == [(0, 200)]
    assert list(joined([(300, 400), (0, 100)], 199, 32)) == [(0, 100), (300, 400)]
    assert list(joined([(300, 400), (0, 100)], 200, 32)) == [(0, 400)]
    assert list(joined([(5, 5), (7, 7)], 0, 32)) == []


def test_gaps_stay_a_small_share_of_what_is_wanted() -> None:
    wanted = [(0, 3200), *((3200 + 150 * n + 100, 3200 + 150 * n + 150) for n in range(100))]
    found = list(joined(wanted, 0, 32))
    spare = sum(stop - start for start, stop in found) - sum(stop - start for start, stop in wanted)
    assert 0 < spare <= sum(stop - start for start, stop in wanted) // 32
    assert found[0] == (0, 3350)


def test_runs() -> None:
    runs = Runs[str]()
    for start, stop, value in ((30, 40, "c"), (0, 10, "a"), (10, 20, "b")):
        runs.add(start, stop, value)
    assert [value for _, _, value in runs.over(5, 31)] == ["a", "b", "c"]
    assert runs.over(20, 30) == []
    assert list(gaps(5, 50, runs.over(5, 50))) == [(20, 30), (40, 50)]
    runs.remove(10)
    assert list(gaps(0, 30, runs.over(0, 30))) == [(10, 30)]
