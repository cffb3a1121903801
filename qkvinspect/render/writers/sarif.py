"""SARIF 2.1.0, for code scanning: one run, a rule a check, a result a finding."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import PurePath
from urllib.parse import quote

from qkvinspect.checks import Rule, rules
from qkvinspect.errors import clean
from qkvinspect.finding_codes import FindingKind
from qkvinspect.findings import Finding
from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import json
from qkvinspect.sources import is_remote
from qkvinspect.version import __version__

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def write(document: Document, view: ViewOptions) -> str:
    """All checkpoints."""
    checked = document.checked
    used = {finding.code for one in checked for finding in one.findings}
    listed = [rule for rule in rules() if rule.code in used]
    places = {rule.code: place for place, rule in enumerate(listed)}
    run: dict[str, object] = {
        "tool": {"driver": {"name": "qkvinspect", "version": __version__, "rules": [_rule(rule) for rule in listed]}},
        "results": [_result(one.path, finding, places) for one in checked for finding in one.findings],
        "invocations": [
            {
                "executionSuccessful": not any(one.error for one in checked),
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": clean(one.error)}, "locations": [_location(one.path, None)]}
                    for one in checked
                    if one.error
                ],
            }
        ],
    }
    sarif = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return json.text(sarif)


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.code,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": f"{rule.summary} {rule.details}".strip()},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(path: str, finding: Finding, places: Mapping[FindingKind, int]) -> dict[str, object]:
    where = f"{finding.layer}: " if finding.layer else ""
    identity = f"{PurePath(path).name}\0{finding.code}\0{finding.layer}\0{finding.message}"
    return {
        "ruleId": finding.code,
        "ruleIndex": places[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": clean(f"{where}{finding.message}")},
        "locations": [_location(path, finding.layer)],
        "partialFingerprints": {"finding/v1": sha256(identity.encode(errors="replace")).hexdigest()[:32]},
    }


def _location(path: str, layer: str | None) -> dict[str, object]:
    where, safe = (path, "/:") if is_remote(path) else (PurePath(path).as_posix(), "/")
    uri = quote(where.encode(errors="surrogatepass"), safe)
    place: dict[str, object] = {"artifactLocation": {"uri": f"file://{uri}" if path.startswith("/") else uri}}
    location: dict[str, object] = {"physicalLocation": place}
    if layer:
        location["logicalLocations"] = [{"fullyQualifiedName": clean(layer), "kind": "module"}]
    return location
