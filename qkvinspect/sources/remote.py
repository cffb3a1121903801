"""Remote files as sources of bytes: each range is fetched once, and announced ranges ahead of time.

Only what is read is downloaded. It is kept in a temporary file (``spool``), so that a pickle, a
checksum and the norms may all read it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.progress import Progress
from qkvinspect.sources import spool
from qkvinspect.sources.fetching import CHUNK, Fetcher, FetchJob, patiently
from qkvinspect.sources.local import changed, require_within
from qkvinspect.sources.range_map import Range, Runs, gaps, joined
from qkvinspect.sources.transport import Answer, TemporaryError, Transport

_HEAD = 128 << 10
"""Bytes of the first request: most headers, and the pickle of most zips, lie within."""

_TAIL = 128 << 10
"""Bytes fetched where the end is read: most directories of zips lie within."""

_SMALL, _BLOCK = 16 << 10, 64 << 10
"""A read of so few bytes that nobody announced fetches so many."""

_NEAR, _SHARE = 4 << 10, 32
"""How large a gap between announced ranges may be, to be fetched with them; see ``range_map``."""

_UNLISTED = ("config.json",)
"""Names that are tried beside a file where the folder cannot be listed."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How remote files are fetched.

    Attributes:
        download: whole, when they are opened.
        progress: told how many of their bytes have come.
    """

    download: bool = False
    progress: Progress | None = None


class RemoteFile:
    """One file behind a URL; its first bytes are asked for at once, and waited for when they are needed."""

    def __init__(self, transport: Transport, reach: Reach, fetcher: Fetcher | None = None) -> None:
        self._transport = transport
        self._reach = reach
        self._own = fetcher is None
        self._fetcher = fetcher or Fetcher()
        self._held = self._fetcher.spool.held()
        self._jobs = Runs[FetchJob]()
        self._marks = Runs[int]()
        self._known: tuple[int | None, str] | None = None
        self._beside: dict[str, RemoteFile] = {}
        self._downloaded = 0
        self._most = 1 << 63
        with self._fetcher.changed:
            self._fetcher.submit([self._job(0, _HEAD)])

    @property
    def name(self) -> str:
        return self._transport.name

    @property
    def patience(self) -> float:
        return self._transport.patience

    @property
    def size(self) -> int:
        with self._fetcher.changed:
            while self._known is None or self._known[0] is None or self._incomplete():
                self._fail(job for _, _, job in self._jobs.over(0, _HEAD))
                self._fetcher.wait(self)
            return self._known[0]

    def read(self, offset: int, length: int) -> bytes:
        stop = offset + length
        require_within(self.name, self.size, offset, length)
        if not length:
            return b""
        with self._fetcher.changed:
            if self._fetcher.closed:
                raise CheckpointError(
                    "is closed", code=Code.FILE_READ, file=self.name, hint="open the checkpoint again"
                )
            self._fetcher.reach(max((mark for _, _, mark in self._marks.over(offset, stop)), default=0))
            while missing := list(gaps(offset, stop, self._held.over(offset, stop))):
                for gap in missing:
                    self._request(gap)
                self._fetcher.wait(self)
            pieces = self._held.over(offset, stop)
        return spool.read(pieces, offset, stop)

    def expect(self, ranges: Sequence[Range]) -> None:
        """Announce what will be read, in about this order; it is fetched in few requests, several at once."""
        size = self.size
        with self._fetcher.changed:
            jobs = [
                self._job(*gap)
                for start, stop in joined(((start, min(stop, size)) for start, stop in ranges), _NEAR, _SHARE)
                for gap in list(self._missing(start, stop))
            ]
            self._fetcher.plan(jobs)
            for job in jobs:
                self._marks.add(job.start, job.stop, job.mark)

    def relative(self, name: str) -> RemoteFile:
        """A file in the same folder or below it; one that is not there fails when it is first read."""
        if name not in self._beside:
            self._beside[name] = RemoteFile(self._transport.beside(name), self._reach, self._fetcher)
        return self._beside[name]

    def another(self, transport: Transport) -> RemoteFile:
        """A file of the same checkpoint that lies elsewhere: it comes with this one's threads, until this is closed."""
        return RemoteFile(transport, self._reach, self._fetcher)

    def siblings(self) -> tuple[str, ...]:
        names = self._transport.names()
        return tuple(filter(self._there, _UNLISTED)) if names is None else names

    def check(self) -> None:
        """Ask again for the validators of files whose answers did not carry one."""
        files = [file for file in self._family() if file._known is not None]
        self._transport.renew()
        with ThreadPoolExecutor(8) as pool:
            asked = chain(map(RemoteFile._validator, files[:1]), pool.map(RemoteFile._validator, files[1:]))
            for file, now in zip(files, asked, strict=True):
                if now is not None and file._known is not None and now != file._known[1]:
                    raise file._changed("another")

    def _validator(self) -> str | None:
        return patiently(self.name, self._transport.validator)

    def _family(self) -> Iterator[RemoteFile]:
        yield self
        for file in self._beside.values():
            yield from file._family()

    def close(self) -> None:
        if self._own:
            self._fetcher.close()
            self._transport.close()

    def attempt(self, job: FetchJob) -> None:
        """Fetch what is missing of a job, once."""
        with self._transport.fetch(job.position, job.stop) as answer:
            slot = self._begin(job, answer)
            for piece in answer.pieces:
                if job.position + len(piece) > self._most:
                    raise spool.no_room("the end of it", f"none after {job.position} bytes")
                self._held.store(slot, job.position, piece)
                with self._fetcher.changed:
                    self._held.add(slot, job.position, job.position + len(piece))
                    job.position += len(piece)
                    self._downloaded += len(piece)
                    self._fetcher.alive()
                    self._tell()
                    self._fetcher.changed.notify_all()
        with self._fetcher.changed:
            if answer.whole and answer.size is None:
                self._known = job.position, answer.validator
            elif job.position < job.stop:
                raise TemporaryError("the answer ended too early")

    def finished(self, job: FetchJob) -> None:
        if job.error is None:
            self._jobs.remove(job.start)

    def _begin(self, job: FetchJob, answer: Answer) -> spool.Slot:
        """Compare an answer with those before it, and make room for its bytes."""
        with self._fetcher.changed:
            if self._known is None or self._known[0] is None:
                self._known = answer.size, answer.validator
                if self._reach.download:
                    self._most = self._fetcher.spool.lift_limit(answer.size)
                    self._fetcher.hurry()
            elif answer.size not in (None, self._known[0]):
                raise self._changed(f"one of {answer.size} bytes")
            elif answer.validator != self._known[1]:
                raise self._changed("another of the same size")
            if answer.whole:
                self._held.clear()
                job.position = self._downloaded = 0
                job.stop = answer.size or 0
                return self._fetcher.spool.whole()
            job.stop = min(job.stop, answer.size or 0)
            if self._reach.download and not job.start:
                self._fetcher.plan([self._job(*gap) for gap in list(self._missing(job.stop, answer.size or 0))])
            return self._fetcher.spool.slot(job.position, job.stop - job.position)

    def _job(self, start: int, stop: int) -> FetchJob:
        job = FetchJob(self, start, stop)
        self._jobs.add(start, stop, job)
        return job

    def _missing(self, start: int, stop: int) -> Iterable[Range]:
        """The parts of a range that are neither held nor requested, in pieces of the size of a request."""
        for first, last in gaps(start, stop, [*self._held.over(start, stop), *self._jobs.over(start, stop)]):
            for at in range(first, last, CHUNK):
                yield at, min(at + CHUNK, last)

    def _request(self, gap: Range) -> None:
        """Have a missing range fetched next."""
        start, stop = gap
        if not self._jobs.over(start, stop):
            start, stop = self._widened(start, stop)
        for missing in list(self._missing(start, stop)):
            self._job(*missing)
        jobs = [job for _, _, job in self._jobs.over(*gap)]
        self._fail(jobs)
        self._fetcher.submit(jobs)

    def _widened(self, start: int, stop: int) -> Range:
        size = self._known[0] or 0 if self._known else 0
        if stop == size:
            return max(min(start, size - _TAIL), 0), stop
        return (start, min(start + _BLOCK, size)) if stop - start <= _SMALL else (start, stop)

    def _fail(self, jobs: Iterable[FetchJob]) -> None:
        for job in jobs:
            if job.error is not None:
                raise job.error

    def _incomplete(self) -> bool:
        """Whether the file is wanted whole, and is not yet."""
        if not self._reach.download or self._known is None or not self._known[0]:
            return False
        self._fail(job for _, _, job in self._jobs.over(0, self._known[0]))
        return any(gaps(0, self._known[0], self._held.over(0, self._known[0])))

    def _tell(self) -> None:
        if self._reach.download and self._reach.progress is not None and self._known is not None:
            self._reach.progress(self._downloaded, self._known[0] or self._downloaded)

    def _there(self, name: str) -> bool:
        """Whether there is such a file beside it; yes if the server fails, so that opening the file says why."""
        try:
            return self.relative(name).size >= 0
        except CheckpointError as error:
            return error.code not in (Code.FILE_MISSING, Code.FILE_PERMISSION)

    def _changed(self, found: str) -> CheckpointError:
        return changed(self.name, self._known[0] if self._known else None, found)
