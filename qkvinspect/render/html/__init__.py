"""A page that shows everything about one checkpoint, or two side by side, in one file that needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from qkvinspect.diff.difference import Difference
from qkvinspect.errors import UsageError
from qkvinspect.render.html.controls import pictures
from qkvinspect.render.html.data import data, dumped
from qkvinspect.render.html.markup import joined, text
from qkvinspect.render.html.packing import packings
from qkvinspect.render.html.side import PageSide
from qkvinspect.render.html.summary import facts, summary
from qkvinspect.render.html.words import differences, evidence, findings
from qkvinspect.version import __version__

__all__ = ["PageSide", "plotly", "render"]

_SCRIPTS = ("page.js", "copy.js", "maps.js", "heads.js", "profiles.js")
_POLICY = (
    "default-src 'none'; script-src {scripts}; img-src data:; "
    "style-src 'unsafe-inline'; "  # plotly makes rules as it draws; nothing can be fetched by them
    "base-uri 'none'; form-action 'none'"
)


def plotly() -> str:
    """The plotting library that the page holds.

    Raises:
        UsageError: it is not installed.
    """
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise UsageError("a report needs plotly, which is not installed", hint="pip install 'qkvinspect[report]'")
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def render(sides: Sequence[PageSide], difference: Difference | None, library: str, made: date) -> str:
    """The whole page.

    Args:
        library: what ``plotly`` gives.
        made: the day that the page names.
    """
    numbers = data(sides, difference)
    maps = pictures(sides, numbers)
    sections = (
        *([differences(difference)] if difference else []),
        packings(sides),
        *maps[:1],
        findings(sides),
        *([evidence(sides)] if numbers["rows"] else []),
        *maps[1:],
        summary(sides),
    )
    scripts = [library, "\n".join(map(_file, _SCRIPTS))]
    return Template(_file("page.html")).substitute(
        policy=_POLICY.format(scripts=" ".join(f"'{_hash(script)}'" for script in scripts)),
        title=text(f"Attention in {_named(sides)}"),
        style=_file("strips.css") + _file("page.css"),
        facts=joined(facts(sides, made)),
        version=text(__version__),
        sections=joined(one.body for one in sections),
        links=joined(one.link for one in sections),
        data=dumped(numbers),
        library=scripts[0],
        script=scripts[1],
    )


def _named(sides: Sequence[PageSide]) -> str:
    """The files, with their folders where the names alone are the same."""
    paths = [Path(side.report.checkpoint.path) for side in sides]
    same = len({path.name for path in paths}) < len(paths)
    return " and ".join("/".join(path.parts[-2:]) if same else path.name or str(path) for path in paths)


def _file(name: str) -> str:
    return (files("qkvinspect.render.html") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
