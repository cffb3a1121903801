"""A Dask cluster of two worker processes over TCP, in a process of its own: prints its address, ends with its stdin."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]


class Poison(str):
    """A path that ends the process that looks into it."""

    __slots__ = ()

    def startswith(self, *_: object) -> NoReturn:
        os._exit(1)


@contextmanager
def cluster() -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and its process. It gives up a task as soon as one worker died of it: that is left to the scan.

    Its workers are forked from a process that has imported Dask, those too that take the place of one that was killed.
    """
    settings = {"PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    settings["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"
    command = [sys.executable, "-m", "tests.scans.cluster"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=os.environ | settings)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def main() -> None:
    import logging

    from distributed import LocalCluster

    logging.disable(logging.CRITICAL)  # workers that are killed
    with LocalCluster(2, threads_per_worker=1, protocol="tcp://", dashboard_address=None) as found:
        print(found.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
