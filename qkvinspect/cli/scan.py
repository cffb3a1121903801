"""qkvinspect scan"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qkvinspect.cli import options, outputs, printing, streams
from qkvinspect.cli.declared import Exit, argument, option

if TYPE_CHECKING:
    from qkvinspect.scans.engine import Engine
    from qkvinspect.scans.rows import ScanJob


def scan(
    patterns: Annotated[
        list[str],
        argument(metavar="PATTERN...", help="Checkpoints, folders of them, or globs in quotes.", show_default=False),
    ],
    output: Annotated[Path, option("--output", "-o", metavar="FILE", help="Where to write: .jsonl, .csv or .parquet.")],
    column: options.Columns = None,
    resume: Annotated[bool, option("--resume", help="Go on after a kill, or with checkpoints that are new.")] = False,
    shard: Annotated[str | None, option("--shard", metavar="I/N", help="Only share I of N, from 1 on.")] = None,
    jobs: Annotated[
        int | None, option("--jobs", "-j", metavar="N", min=1, help="Processes.", show_default="as many as cores")
    ] = None,
    dask: Annotated[
        str | None, option("--dask", metavar="ADDRESS", help="On a Dask cluster; its scheduler's address.")
    ] = None,
    strict: Annotated[bool, option("--strict", help="Exit with 1 if any checkpoint failed.")] = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    layer: options.Layers = None,
    heads: options.Heads = None,
    layout: options.Layouts = None,
    config: options.Config = None,
    container: options.Container = None,
    evidence: options.AskWeights = False,
    limit: options.Limits = None,
) -> None:
    """Scan many checkpoints: a row for each layer, part and head.

    A row has the checkpoint, its step and where that comes from, layer, part, head (none for the whole part),
    norm and non-finite values; --column adds more. Those of show stand in the rows of whole parts; those of
    analyze in rows of their own, whose part is "head". A checkpoint that cannot be read is one row with its error.
    Rows are sorted by step. What is found is kept in FILE.journal, from which --resume goes on; it redoes what
    failed and what was changed; --force begins anew.

    Examples:

    \b
      qkvinspect scan 'run/**/*.pt' -o run.jsonl --heads 8
      qkvinspect scan run/ -o run.jsonl --column logit_bound,ov_spectral_norm --resume
      qkvinspect scan 'run/step=*.ckpt' -o run.parquet --jobs 16
      qkvinspect scan run/ -o rows-$SLURM_ARRAY_TASK_ID.jsonl --shard $SLURM_ARRAY_TASK_ID/64
      qkvinspect scan run/ -o run.jsonl --dask tcp://scheduler:8786

    Exit status:

    \b
      0  scanned, also if some checkpoints failed
      1  some failed, with --strict
      2  all failed, or the command line cannot be used
    """
    from qkvinspect.atomic import new_file
    from qkvinspect.cli.progress import Bar
    from qkvinspect.errors import UsageError
    from qkvinspect.formats.expand import expand
    from qkvinspect.render.scan import scan_writer
    from qkvinspect.render.text import count
    from qkvinspect.scans.engine import scan_all
    from qkvinspect.scans.files import Shard, parse_shard
    from qkvinspect.scans.journal import Journal, discard, journal_of

    if dask and jobs:
        raise UsageError("--jobs and --dask exclude each other", hint="the cluster knows how many workers it has")
    if resume and force:
        raise UsageError("--resume and --force exclude each other", hint="one goes on, the other begins anew")
    streams.hush(quiet)
    writer = scan_writer(output)
    share = parse_shard(shard) if shard else Shard()
    job = _job(options.listed(column), layer, heads, layout, config, container, limit, evidence=evidence)
    journal_path = journal_of(output)
    outputs.require_scanned(output, journal_path, patterns, config, force=force or resume)
    if journal_path.exists() and not (force or resume):
        raise UsageError(
            "holds a scan that was begun", file=str(journal_path), hint="--resume goes on, --force begins anew"
        )
    if force:
        discard(journal_path)
    failed = 0
    with Journal(journal_path, _about(job)) as journal:
        try:
            total, todo = journal.expect(path for path in expand(patterns, existing=True) if path in share)
        except UsageError:
            if not resume:
                discard(journal_path)  # nothing was begun
            raise
        with Bar("scanning", "checkpoints") as bar:
            if todo:
                with _engine(dask, min(jobs or _cores(), todo)) as engine:
                    for done, found in enumerate(scan_all(journal.todo(), job, engine), 1):
                        journal.add(found)
                        if found.error and (failed := failed + 1) <= _SHOWN:
                            printing.note(f"error: {found.path}: {found.error}", grave=True)
                        bar.advance(done, todo)
            journal.keep()
        with new_file(output, force=force or resume) as file:
            writer.write(journal.scanned(), job.fields, file)
    before = f", {total - todo} of them before" if todo < total else ""
    errors = f", {failed} failed (see the column error)" if failed else ""
    printing.note(f"{output}: {count(total, 'checkpoint')}{before}{errors}")
    if failed and (strict or failed == total):
        raise Exit(2 if failed == total else 1)


_SHOWN = 3
"""Errors that are printed; all are in the file."""


def _job(
    columns: Sequence[str],
    layers: list[str] | None,
    heads: list[str] | None,
    layouts: list[str] | None,
    config: str | None,
    container: str | None,
    limits: list[str] | None,
    *,
    evidence: bool,
) -> ScanJob:
    """What is asked of each checkpoint; what would be wrong for all of them is said now."""
    from qkvinspect.formats import configs
    from qkvinspect.formats.limits import parse
    from qkvinspect.inspection.facts.flags import parse_flag
    from qkvinspect.scans.rows import ScanJob, parse_columns
    from qkvinspect.sources import is_remote

    asked = options.asked(
        layers=layers, heads=heads, layouts=layouts, norms=True, evidence="wanted" if evidence else "none"
    )
    for text in asked.heads:
        parse_flag(text)
    if config is not None:
        configs.named(config)
        config = config if is_remote(config) else str(Path(config).absolute())  # workers have a folder of their own
    return ScanJob(
        parse_columns(",".join(columns) or None), asked, container, config, str(Path.cwd()), parse(limits or ())
    )


def _about(job: ScanJob) -> dict[str, object]:
    from dataclasses import asdict

    from qkvinspect.version import __version__

    return {**asdict(job), "config": str(job.config), "version": __version__}


def _cores() -> int:
    from qkvinspect.workers import cores

    return cores()


@contextmanager
def _engine(address: str | None, jobs: int) -> Generator[Engine]:
    from qkvinspect.scans import engine

    with engine.dask(address) if address else engine.processes(jobs) as chosen:
        yield chosen
