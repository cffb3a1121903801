"""What is to be read next: one thing at a time, what is looked at before what was asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from qkvinspect.tui.session import ReadingJob, Session


class Work:
    """The jobs that wait.

    Attributes:
        running: the job that is being done.
        stopping: whether the running job is no longer wanted.
        share: how much of it is done.
    """

    def __init__(self, session: Session) -> None:
        self.running: ReadingJob | None = None
        self.stopping = False
        self.share = 0.0
        self._session = session
        self._shown: int | None = None
        self._asked: deque[ReadingJob] = deque()
        self._failed: set[int] = set()

    def show(self, layer: int | None) -> None:
        """A layer is looked at: its norms are wanted; those of the one before are not."""
        if self.running and self.running.what == "norms" and self.running.layers != (layer,):
            self.stopping = True
        self._shown = layer
        if layer is not None:
            self._failed.discard(layer)

    def analyze(self, layers: Iterable[int]) -> None:
        """One layer after another."""
        self._asked += [ReadingJob("figures", (layer,)) for layer in layers if layer not in self._session.figures]

    def ask(self, layers: Sequence[int]) -> None:
        """What the weights say of some layers."""
        self._asked.append(ReadingJob("evidence", tuple(layers)))

    def begin(self, visible: Sequence[int]) -> ReadingJob | None:
        """The most urgent job, which is now running; None if there is none.

        Args:
            visible: layers on the screen whose norms are wanted, too.
        """
        shown = () if self._shown is None else (self._shown,)
        known = self._session.measured | self._failed
        unread = [layer for layer in (*shown, *visible) if layer not in known]
        if unread and (unread[0] == self._shown or not self._asked):
            self.running = ReadingJob("norms", (unread[0],))
        else:
            self.running = self._asked.popleft() if self._asked else None
        self.stopping, self.share = False, 0.0
        return self.running

    def end(self, *, failed: bool) -> None:
        """The running job is done; what fails would fail for all that was asked for."""
        if failed and self.running:
            self._failed.update(self.running.layers)
            self._asked.clear()
        self.running = None

    def stop(self) -> None:
        """Forget what was asked for."""
        self._asked.clear()
        self.stopping = self.running is not None and self.running.what != "norms"

    @property
    def left(self) -> int:
        """How many jobs that were asked for wait."""
        return len(self._asked)
