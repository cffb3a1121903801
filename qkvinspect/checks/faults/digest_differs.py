"""A file is not what a manifest or a hub knows by its SHA-256.

``--sha256 FILE`` names a manifest as sha256sum writes it, ``--hub OWNER/NAME`` a repository of huggingface.co (or of
HF_ENDPOINT), whose large files are known by their digest. A file of which it has none is reported as well. Every file
that tensors are read from is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.digests import file_digests
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.DIGEST_DIFFERS


def find(subject: Subject) -> Iterator[Fault]:
    if not subject.digests:
        return
    for name, found in file_digests(subject.report.checkpoint):
        for digests in subject.digests:
            expected = digests.of(name)
            if expected is None:
                yield None, f"{name}: {digests.origin} has no digest of it; its SHA-256 is {found}"
            elif expected != found:
                yield None, f"{name}: its SHA-256 is {found}, and {digests.origin} says {expected}: fetch it again"
