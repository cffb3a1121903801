"""Finding puts the collector of cycles off, and leaves it as it was, whatever happens."""

from __future__ import annotations

import gc

import pytest

from qkvinspect.garbage import none_collected


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_as_it_was(on: bool, fails: bool) -> None:
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        with none_collected():
            assert not gc.isenabled()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    finally:
        after = gc.isenabled()
        (gc.enable if before else gc.disable)()
    assert after == on
