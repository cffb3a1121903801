"""Hostile surroundings and hostile names: what is opened on a file system, and what a command then shows of it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from tests.batches import batched
from tests.hostile import seeds
from tests.hostile.bounds import no_hang
from tests.hostile.categories.case import Reads, Refused
from tests.hostile.categories.catalogue import SCENES, SHOWN
from tests.hostile.categories.output import Shown
from tests.hostile.categories.scenes import Scene
from tests.hostile.reading import clean, content
from tests.some import crossed

HERE = Path(__file__).parents[2]


def _opened(path: Path | str, scene: Scene) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        if scene.meanwhile is not None:
            scene.meanwhile(Path(path))
        return {name: content(info) for name, info in checkpoint.tensors.items()}


def _as(user: int, path: Path | str) -> tuple[int, str]:
    """Opened by another user, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            open_checkpoint(path).close()
            line = ""
        except CheckpointError as error:
            line = str(error)
        except BaseException as error:
            line = f"{error!r}"
        os.write(writer, line.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        line = answer.read()
    return os.waitpid(child, 0)[1], line


OTHERS = [(number, scene) for number, scene in SCENES if scene.user is not None]
"""Those of another user."""


@pytest.mark.parametrize("scene", [pytest.param(scene, id=f"{number}: {scene.label}") for number, scene in OTHERS])
def test_scene_of_another_user(scene: Scene, tmp_path: Path) -> None:
    path = scene.arrange(tmp_path)
    if os.getuid():
        pytest.skip("only root can be another user")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001 and folder.is_relative_to("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    assert scene.user is not None
    status, line = _as(scene.user, path)
    assert status == 0
    assert line.endswith(f"[{scene.outcome.code}]" if isinstance(scene.outcome, Refused) else ""), line
    assert bool(line) == isinstance(scene.outcome, Refused)


@batched(
    "place scene",
    {f"{number}: {one.label}, {place}": (place, one) for place, (number, one) in enumerate(SCENES) if one.user is None},
)
def test_scene(place: int, scene: Scene, tmp_path: Path) -> None:
    tmp_path /= str(place)
    tmp_path.mkdir()
    path = scene.arrange(tmp_path)
    with no_hang() as within:
        if isinstance(scene.outcome, Reads):
            assert within(_opened, path, scene) == scene.outcome.tensors
            return
        with pytest.raises(CheckpointError) as caught:
            within(_opened, path, scene)
    line = clean(str(caught.value))
    assert caught.value.code == scene.outcome.code, line
    assert caught.value.hint
    assert str(tmp_path) in line or str(path) in line or "\0" in str(path)


@batched("shown", {f"{number}, {place}: {shown.label!r}": shown for place, (number, shown) in enumerate(SHOWN)})
def test_shown(shown: Shown, tmp_path: Path, run) -> None:
    path = tmp_path / "model"
    path.write_bytes(shown.build())
    result = run(*shown.command, path, "--no-evidence")
    assert (result.code, result.err) == (0, "")
    for line in result.out.split("\n"):
        clean(line or " ")
    assert shown.shows in result.out
    if "json" in shown.command:
        assert shown.module in {each["layer"] for each in json.loads(result.out)["attentions"]}
    if "csv" in shown.command:
        rows = list(csv.reader(io.StringIO(result.out)))
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)


def _run(*argv: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qkvinspect", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=HERE, **options)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(Shown("", (), "attn", "").build())
    return path


@crossed(suffix=[".safetensors", ".pt"], most=[0, 1, 100])
def test_120_the_disk_is_full(suffix: str, most: int, sample: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / f"x{suffix}"
    target.parent.mkdir()
    limited = (
        "import resource, signal, sys\n"
        "sys.dont_write_bytecode = True\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
        "from qkvinspect.cli import main\n"
        f"sys.exit(main(['export', '--split', {str(sample)!r}, '-o', {str(target)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "File too large" in done.stderr or "No space" in done.stderr
    assert not list(target.parent.iterdir())


FORMATS = ("table", "json", "csv", "markdown")
SHOWS = """
import os, sys
from qkvinspect.cli import run
for place, form in enumerate(sys.argv[2:]):
    if os.fork():
        print(form, os.waitstatus_to_exitcode(os.wait()[1]), file=sys.stderr, flush=True)
        continue
    os.dup2(int(os.environ["TO"].split()[place]), 1)
    os.closerange(3, 100)
    sys.argv[1:] = ["show", sys.argv[1], "-f", form, "--no-evidence"]
    sys.exit(run())
"""
"""Shows a file in several forms, each by a fork of one process that has the imports, and each to a place of its own."""


def _shows(path: Path, places: list[int]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SHOWS, str(path), *FORMATS],
        env={**os.environ, "TO": " ".join(map(str, places))},
        pass_fds=places,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=HERE,
    )
    assert not done.stdout
    return done.stderr


def test_120_stdout_is_full(sample: Path) -> None:
    with Path("/dev/full").open("w") as full:
        said = _shows(sample, [full.fileno()] * len(FORMATS))
    error = "error: the output cannot be written: No space left on device\n"
    assert said == "".join(f"{error}{form} 2\n" for form in FORMATS)


@pytest.mark.gate
def test_120_nobody_reads_on(sample: Path) -> None:
    places: list[int] = []
    for _ in FORMATS:
        reader, writer = os.pipe()
        os.close(reader)
        places.append(writer)
    said = _shows(sample, places)
    for writer in places:
        os.close(writer)
    assert [line.split()[0] for line in said.splitlines()] == [*FORMATS], said
    command = f"{sys.executable} -m qkvinspect show {sample} --no-evidence | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60, cwd=HERE)
    assert done.stderr == ""
    assert len(done.stdout) == 1


@crossed(ended=[(signal.SIGINT, 130), (signal.SIGTERM, 143)], command=["show", "explain"])
def test_120_it_is_interrupted_while_it_reads(ended: tuple[int, int], command: str, sample: Path) -> None:
    number, code = ended
    slow = (
        "import sys, time\n"
        "from qkvinspect.sources.local import LocalFile\n"
        "def read(*a):\n    print('reading', flush=True)\n"
        "    for _ in range(900): time.sleep(0.1)\n"  # Python acts on a signal between two naps, not just before one
        "LocalFile.read = read\nfrom qkvinspect.cli import main\n"
        f"sys.exit(main([{command!r}, {str(sample)!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == code
        assert b"Traceback" not in process.stderr.read()


def test_the_sound_parts_are_sound() -> None:
    assert {len(seeds.FLOATS), len(seeds.LONGS)} == {64, 32}
