"""How long the tests take: python tests/benchmarks/suite.py

The test command of the README and the gate, with coverage, in this environment, one after the other. Writes SUITE.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from processes import saying

HERE = Path(__file__).parent
RUNS = {"the test command": (), "the gate": ("-m", "not slow and not mass", "--cov", "--cov-report=term")}


def main() -> None:
    with saying(HERE / "SUITE.md") as say:
        say(f"{os.cpu_count()} cores, load of the machine when it began {os.getloadavg()[0]:.1f}.\n")
        for name, more in RUNS.items():
            began = time.monotonic()
            command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more)
            done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            outcome = next(line for line in reversed(done.stdout.splitlines()) if " in " in line).strip("= ")
            say(f"{name}: {minutes} min {seconds} s ({outcome.partition(' in ')[0]})")


if __name__ == "__main__":
    main()
