"""A Dask cluster of two worker processes over TCP, in a process of its own: prints its address, ends with its stdin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def cluster() -> Generator[str]:
    """Its address."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
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
