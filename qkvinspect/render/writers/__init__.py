"""Forms in which any result can be written. A new one is one module here, what imports it, and WRITERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from qkvinspect.render.document import Document
    from qkvinspect.render.view import ViewOptions

Writer: TypeAlias = "Callable[[Document, ViewOptions], str]"
"""Makes text of a document; a program's form has no use for the view."""


def _table() -> Writer:
    from qkvinspect.render.writers.table import write

    return write


def _json() -> Writer:
    from qkvinspect.render.writers.json import write

    return write


def _csv() -> Writer:
    from qkvinspect.render.writers.csv import write

    return write


def _markdown() -> Writer:
    from qkvinspect.render.writers.markdown import write

    return write


def _junit() -> Writer:
    from qkvinspect.render.writers.junit import write

    return write


def _github() -> Writer:
    from qkvinspect.render.writers.github import write

    return write


def _sarif() -> Writer:
    from qkvinspect.render.writers.sarif import write

    return write


WRITERS: Mapping[str, Callable[[], Writer]] = {"table": _table, "json": _json, "csv": _csv, "markdown": _markdown}
"""What --format names, and what imports its writer: only the one that is asked for is loaded."""

CHECK_WRITERS: Mapping[str, Callable[[], Writer]] = {"junit": _junit, "github": _github, "sarif": _sarif}
"""What --format of ``check`` names besides: forms that know nothing but checkpoints and findings."""


def written(document: Document, form: str, view: ViewOptions) -> str:
    """A document in one of the forms; those of CHECK_WRITERS are for what was checked."""
    load = WRITERS.get(form) or CHECK_WRITERS[form]
    return load()(document, view)
