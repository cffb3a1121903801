"""JUnit XML, as CI servers read it: a suite a checkpoint, a case a finding, and one that passes where there is none.

Findings of severity error are failures; warnings and infos are cases that pass, with what they say as their output.
"""

from __future__ import annotations

from xml.etree import ElementTree

from qkvinspect.checks.result import Checked
from qkvinspect.errors import clean
from qkvinspect.findings import Finding
from qkvinspect.late_pattern import late_pattern
from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions

_NOT_XML = late_pattern("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(document: Document, view: ViewOptions) -> str:
    """All checkpoints."""
    root = ElementTree.Element("testsuites", name="qkvinspect")
    for one in document.checked:
        _suite(root, one)
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, one: Checked) -> None:
    failures = sum(finding.severity == "error" for finding in one.findings)
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_xml(one.path),
        tests=str(max(len(one.findings), 1)),
        failures=str(failures),
        errors=str(int(bool(one.error))),
        skipped="0",
    )
    for finding in one.findings:
        _case(suite, one.path, finding)
    if not one.findings:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(one.path), name="check")
        if one.error:
            ElementTree.SubElement(case, "error", message=_xml(one.error), type="unreadable")


def _case(suite: ElementTree.Element, path: str, finding: Finding) -> None:
    name = f"{finding.code}: {finding.layer}" if finding.layer else finding.code
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(path), name=_xml(name))
    if finding.severity == "error":
        failure = ElementTree.SubElement(case, "failure", message=_xml(finding.message), type=finding.code)
        failure.text = _xml(f"{path}: {name}: {finding.message}")
    else:
        ElementTree.SubElement(case, "system-out").text = _xml(f"{finding.severity}: {finding.message}")


def _xml(text: str) -> str:
    """Text that XML 1.0 can hold."""
    return _NOT_XML.sub("�", clean(text))
