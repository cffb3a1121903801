"""Note which lines and branches of the package the tests run: python -m pytest -p tests.noted_lines --lines FILE

The processes that run the tests note them, with slipcover, which is told here what ``[tool.slipcover]`` says: started
by its own command line it would look through the package once more in the process that only hands out the tests.
"""

from __future__ import annotations

import os
import shutil
import tomllib
import warnings
from pathlib import Path

import pytest
from slipcover import Slipcover

_SEEN = 1_000_000
"""How often a line is run before slipcover takes its probe out of it: it looks through every module to do so, which
takes longer than the probes do."""

_TOLD = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["slipcover"]

_LEFT_OUT = Slipcover(exclude_also=_TOLD["exclude-also"])._exclude_patterns

os.environ.update(
    SLIPCOVER_ENABLED="1",
    SLIPCOVER_BRANCH=str(int(_TOLD["branch"])),
    SLIPCOVER_SOURCE=_TOLD["source"],
    SLIPCOVER_EXCLUDE_LINES="\n".join(pattern.pattern for pattern in _LEFT_OUT),
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # that this pytest is newer than it, which matters for tests alone
    from slipcover import pytest_plugin

if (_noting := pytest_plugin._slipcover_instance) is not None:
    _noting.d_miss_threshold = _SEEN


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", type=Path, required=True, help="where to write what ran, as slipcover's JSON")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.move(Path(os.environ["SLIPCOVER_COVERAGE_DIR"], "merged.json"), session.config.getoption("--lines"))
