"""A folder is listed once while nothing is added to it or removed."""

from __future__ import annotations

import os
from pathlib import Path

from qkvinspect.sources.listing import files


def test_it_is_listed_again_once_it_changed(tmp_path: Path) -> None:
    (tmp_path / "b.pt").touch()
    (tmp_path / "a.pt").touch()
    (tmp_path / "folder").mkdir()
    assert files(str(tmp_path)) == ("a.pt", "b.pt")
    (tmp_path / "c.pt").touch()
    assert files(str(tmp_path)) == ("a.pt", "b.pt", "c.pt")
    os.utime(tmp_path, (1, 1))
    first = files(str(tmp_path))
    assert files(str(tmp_path)) is first
    assert files(str(tmp_path / "folder")) == ()
    (tmp_path / "a.pt").unlink()
    assert files(str(tmp_path)) == ("b.pt", "c.pt")
    assert files(str(tmp_path / "nowhere")) == ()
