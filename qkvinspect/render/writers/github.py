"""Annotations of GitHub Actions: a workflow command a finding."""

from __future__ import annotations

from qkvinspect.errors import clean
from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions

_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}


def write(document: Document, view: ViewOptions) -> str:
    """All checkpoints."""
    lines: list[str] = []
    for one in document.checked:
        if one.error:
            lines.append(_command("error", one.path, "unreadable", one.error))
        for finding in one.findings:
            where = f"{finding.layer}: " if finding.layer else ""
            lines.append(_command(_LEVELS[finding.severity], one.path, finding.code, f"{where}{finding.message}"))
    return "".join(f"{line}\n" for line in lines)


def _command(level: str, path: str, code: str, message: str) -> str:
    return f"::{level} file={_property(path)},title=qkvinspect {_property(code)}::{_data(message)}"


def _data(text: str) -> str:
    """As the runner decodes it (actions/toolkit, command.ts)."""
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
