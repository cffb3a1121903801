"""How long the tests take: python tests/benchmarks/suite.py

The test command of the README and the gate, each in a clone of its own, the install of a new environment included, one
after the other. Writes SUITE.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import saying

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    (line,) = re.findall(r"^python3 -m venv .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    with saying(HERE / "SUITE.md") as say:
        say(f"{os.cpu_count()} cores, load of the machine when it began {os.getloadavg()[0]:.1f}.\n")
        for name, command in (("the test command", line), ("the gate", ".ci/run")):
            with TemporaryDirectory() as folder:
                subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
                began = time.monotonic()
                done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
                minutes, seconds = divmod(round(time.monotonic() - began), 60)
            lines = [one.strip("= ") for one in done.stdout.splitlines() if " passed" in one and " in " in one]
            outcome = lines[-1] if lines else "without an outcome"
            outcome += f", exit code {done.returncode}" if done.returncode else ""
            say(f"{name}: {minutes} min {seconds} s ({outcome})")


if __name__ == "__main__":
    main()
