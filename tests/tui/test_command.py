"""The command: what it needs, what it says where that is missing, and how it leaves a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WITHOUT_TEXTUAL = "import sys; sys.modules['textual'] = None; from qkvinspect.cli import main; sys.exit(main({argv}))"


Act = Callable[[subprocess.Popen[bytes], int], None]


def in_terminal(command: list[str], act: Act | None) -> tuple[int, str, bool]:
    """Run a command in a terminal of 80x24.

    Args:
        act: what to do once the tree is there; None where nothing is to come.

    Returns:
        its exit code, what it wrote, and whether it left the terminal as it was.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(follower)
    written = b""
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, *command], stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([leader], [], [], 0.1)[0]:
                written += os.read(leader, 65536)
            elif process.poll() is not None:
                break
            if act is not None and b"all layers" in written:
                act(process, leader)
                act = None
        code = process.wait(60)
    same = termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)
    return code, written.decode(errors="replace"), same


def press(*keys: bytes) -> Act:
    def act(_: subprocess.Popen[bytes], terminal: int) -> None:
        for key in keys:
            os.write(terminal, key)
            time.sleep(0.1)

    return act


@pytest.mark.parametrize(
    ("act", "code"),
    [(press(b"m", b"q"), 0), (lambda process, _: process.send_signal(signal.SIGTERM), 143)],
    ids=["q", "SIGTERM"],
)
@pytest.mark.gate
def test_the_terminal_is_left_as_it_was(samples: Path, act: Act, code: int) -> None:
    command = ["-m", "qkvinspect", "browse", str(samples / "transformer.pt"), "--heads", "2"]
    found, written, same = in_terminal(command, act)
    assert (found, same) == (code, True)
    assert written.index("\x1b[?1049h") < written.rindex("\x1b[?1049l")
    assert "\x1b[48;2;" not in written  # this terminal has 16 colours
    assert "Traceback" not in written


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    code, written, _ = in_terminal(["-m", "qkvinspect", "browse", str(tmp_path / "nowhere.pt")], None)
    assert code == 2
    assert written.startswith("error: ")
    assert written.count("\n") == 1


def test_without_a_terminal_it_says_what_to_use(run, samples: Path) -> None:
    result = run("browse", samples / "transformer.pt")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "`qkvinspect show`" in result.err


def test_without_textual_it_says_what_to_install(samples: Path) -> None:
    argv = ["browse", str(samples / "transformer.pt")]
    code, written, _ = in_terminal(["-c", WITHOUT_TEXTUAL.format(argv=argv)], None)
    assert code == 2
    assert written.count("\n") == 1
    assert "pip install textual" in written
