"""qkvinspect check"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Literal

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.render.writers import CHECK_WRITERS, WRITERS

if TYPE_CHECKING:
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.checks.digests import Digests
    from qkvinspect.checks.policy import Policy
    from qkvinspect.checks.result import Checked
    from qkvinspect.finding_codes import Severity
    from qkvinspect.inspection.report import Report

    CheckFormat = str
else:
    CheckFormat = StrEnum("CheckFormat", [(name, name) for name in (*WRITERS, *CHECK_WRITERS)])

Codes = list[str] | None


def check(
    paths: Annotated[
        list[str] | None,
        argument(metavar="PATH...", help="Checkpoints, folders of them, globs in quotes, or URLs.", show_default=False),
    ] = None,
    select: Annotated[Codes, option("--select", metavar="CODE", help="Only these checks; repeatable.")] = None,
    ignore: Annotated[Codes, option("--ignore", metavar="CODE", help="Not these checks; repeatable.")] = None,
    fail_on: Annotated[
        Literal["error", "warning", "info"] | None,
        option("--fail-on", help="The least severity that makes the exit code 1.", show_default="warning"),
    ] = None,
    format: Annotated[
        CheckFormat | None,
        option("--format", "-f", help="How to print it.", show_default="table, on GitHub's runners also github"),
    ] = None,
    output: Annotated[
        Path | None,
        option("--output", "-o", metavar="FILE", help="Write the result there, and a table to stdout."),
    ] = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    baseline: Annotated[
        Path | None, option("--baseline", metavar="FILE", help="Fail on what changed since it was written.")
    ] = None,
    write_baseline: Annotated[
        Path | None, option("--write-baseline", metavar="FILE", help="Record what the checkpoint is like now.")
    ] = None,
    sha256: Annotated[
        Path | None, option("--sha256", metavar="FILE", help="Compare the files with this list of sha256sum.")
    ] = None,
    hub: Annotated[
        str | None, option("--hub", metavar="OWNER/NAME", help="Compare the files with those of a model hub.")
    ] = None,
    tolerance: Annotated[
        float,
        option("--tolerance", metavar="X", min=0.0, help="How far norms may be from the baseline, relatively."),
    ] = 0.01,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    base: options.Base = None,
    container: options.Container = None,
    evidence: options.AskWeights = True,
    limit: options.Limits = None,
    download: options.Download = False,
    list_checks: Annotated[bool, option("--list", help="List the checks and their severities.")] = False,
) -> None:
    """Check checkpoints before they are released; made for CI.

    Every weight is read. Settings in qkvinspect.toml, or [tool.qkvinspect] in pyproject.toml, choose the
    checks and say which numbers are expected.

    Examples:

    \b
      qkvinspect check model.safetensors
      qkvinspect check 'checkpoints/*.pt' --heads 8 --fail-on error
      qkvinspect check release/ --format junit -o checks.xml
      qkvinspect check model.pt --write-baseline attention.json
      qkvinspect check model.pt --baseline attention.json
      qkvinspect check model/ --sha256 SHA256SUMS --hub openai-community/gpt2

    Exit status:

    \b
      0  nothing as grave as --fail-on was found
      1  something was
      2  a checkpoint or the command line cannot be used
    """
    from qkvinspect.checks import failing
    from qkvinspect.errors import UsageError
    from qkvinspect.formats.expand import expand

    streams.hush(quiet)
    if list_checks:
        _list(str(format or "table"), output, force=force)
        return
    if not paths:
        raise UsageError("no checkpoint is named", hint="give a path; `qkvinspect check --help` has examples")
    found = list(dict.fromkeys(path for pattern in paths for path in sorted(expand([pattern]))))
    for flag, file in (("--baseline", baseline), ("--write-baseline", write_baseline)):
        if file is not None and len(found) > 1:
            raise UsageError(f"{flag} is for one checkpoint", found=f"{len(found)} of them")
    for target in (output, write_baseline):
        outputs.require_output(target, (*found, config, baseline, sha256), force=force)
    if output is not None and write_baseline is not None and output.absolute() == write_baseline.absolute():
        raise UsageError("--output and --write-baseline name one file", file=str(output))
    job = _CheckJob(
        policy=_policy(select, ignore, fail_on),
        open=lambda path: options.load(path, container, config, limit, download, base),
        inspect=lambda opened: options.report(
            opened,
            layers=layer,
            heads=heads,
            layouts=layout,
            norms=True,
            evidence="each" if evidence else "none",
        ),
        baseline=baseline,
        record=write_baseline,
        force=force,
        tolerance=tolerance,
        digests=_digests(sha256, hub),
    )
    results = [job.check(path) for path in found]
    _print(results, str(format) if format else None, output, force=force)
    if any(one.error for one in results):
        raise Exit(2)
    if failing((finding for one in results for finding in one.findings), job.policy):
        raise Exit(1)


@dataclass(frozen=True, slots=True)
class _CheckJob:
    """What to do with each checkpoint."""

    policy: Policy
    open: Callable[[str], Checkpoint]
    inspect: Callable[[Checkpoint], Report]
    baseline: Path | None
    record: Path | None
    force: bool
    tolerance: float
    digests: tuple[Digests, ...]

    def check(self, path: str) -> Checked:
        from qkvinspect.checks import baseline as recorded
        from qkvinspect.checks import run
        from qkvinspect.checks.result import Checked
        from qkvinspect.cli.progress import Bar
        from qkvinspect.errors import CheckpointError, LayoutError
        from qkvinspect.sources.urls import shown

        name = shown(path)
        before = recorded.read(self.baseline) if self.baseline else None
        try:
            with self.open(path) as checkpoint, Bar(f"checking {PurePath(name).name[:40]}") as bar:
                report = self.inspect(checkpoint)
                findings = run(
                    report,
                    self.policy,
                    baseline=before,
                    tolerance=self.tolerance,
                    progress=bar.advance,
                    digests=self.digests,
                )
        except (CheckpointError, LayoutError) as error:
            return Checked(name, error=str(error))
        if self.record:
            recorded.write(recorded.record(report), self.record, force=self.force)
        return Checked(name, tuple(findings), len(report.attentions))


def _digests(manifest: Path | None, hub: str | None) -> tuple[Digests, ...]:
    """What the files should be."""
    from qkvinspect.checks import digests

    found = [digests.read(manifest)] if manifest is not None else []
    if hub is not None:
        from qkvinspect.sources import hub as hubs

        found.append(digests.Digests(hub, hubs.digests(hub)))
    return tuple(found)


def _policy(select: Codes, ignore: Codes, fail_on: Severity | None) -> Policy:
    """The settings of the project, and what the command line has in their place."""
    from qkvinspect.checks import parse_policy
    from qkvinspect.settings import find

    settings = find(Path.cwd())
    policy = parse_policy(settings.check, settings.origin)
    flags = {"select": select or ["*"], "ignore": ignore or [], "fail_on": fail_on or policy.fail_on}
    given = parse_policy(flags)
    return replace(
        policy,
        select=given.select if select else policy.select,
        ignore=(*policy.ignore, *given.ignore),
        fail_on=given.fail_on,
    )


def _print(results: Sequence[Checked], format: str | None, output: Path | None, *, force: bool) -> None:
    """The result in its form; and for people, where that went into a file; and for GitHub, where its runner reads."""
    from qkvinspect.render.results.check import document
    from qkvinspect.render.view import ViewOptions
    from qkvinspect.render.writers import written

    found = document(results)
    if output is not None:
        printing.save(written(found, format or "table", ViewOptions()), output, force=force)
        format = None
    printing.put(found, format or "table")
    if format is None and os.environ.get("GITHUB_ACTIONS") == "true":
        printing.put(found, "github")


def _list(format: str, output: Path | None, *, force: bool) -> None:
    from qkvinspect.checks import rules
    from qkvinspect.errors import UsageError
    from qkvinspect.render.results.rules import document

    if format in CHECK_WRITERS:
        raise UsageError(f"the checks cannot be listed as {format}", hint=f"--format {', '.join(WRITERS)}")
    outputs.require_output(output, (), force=force)
    printing.put(document(rules()), format, output, force=force)
