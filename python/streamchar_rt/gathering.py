"""Chunks that several threads want at the same moment, generated together, as ``Engine.step`` does.

Flat combining (Hendler et al. 2010): of the threads that wait, one gets the machine and takes the jobs of the others
along; they only wait for their results. After a company its members come back within a few milliseconds, once their
chunks are finished; so the next one waits for them a moment, until each has come or has said that it will not.

``_gate`` guards the queue; while it is held nothing is computed. Nobody who holds a session's lock waits for it, since
a forgotten session that the garbage collector closes may take its own lock anywhere, here too. So who looks whether a
job has become worthless, or a member has left, does so by the clock.
"""
from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .batch_step import MOST
from .jobs import Job

if TYPE_CHECKING:
    from .engine import Engine

_LOOK = 0.05  # seconds after which a thread that waits looks whether its job has become worthless
_GLANCE = 0.002  # and one that waits for members, whether they have left
_LINGER = 0.1  # of the time that a company took: so long the next one waits for its members


class Maker(Protocol):
    """What is asked of whoever wants a job done (``Producer``)."""

    def start(self, job: Job) -> bool: ...
    def stopper(self, job: Job, *, alone: bool) -> Callable[[], bool]: ...
    def set_aside(self, job: Job, state: Any) -> None: ...
    def is_void(self, job: Job) -> bool: ...


class Request:
    """One job that waits, or is being computed.

    Args:
        ahead: seconds of sound that its listener still has; the fewest go first.
        plays: whether they get fewer while it waits.
    """

    def __init__(self, maker: Maker, job: Job, ahead: float, plays: bool) -> None:
        self.maker, self.job = maker, job
        self._ahead, self._since = ahead, time.monotonic() if plays else None
        self.passed = 0  # companies that went before it though it waited
        self.alone = False  # a company with it has failed
        self.done = False
        self.raw: Any = None
        self.error: BaseException | None = None

    def ahead(self, now: float) -> float:
        return self._ahead if self._since is None else self._ahead - (now - self._since)


class Gathering:
    """Where an engine's background sessions wait for the machine. Any thread may call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.proxy(engine)  # whoever asks for a chunk keeps it
        self._gate = threading.Condition(threading.Lock())
        self._waiting: list[Request] = []  # in the order in which they came
        self._expected: set[Maker] = set()  # members of the last company that may be back in a moment
        self._until = 0.0  # when they are not waited for any longer
        self._led = False  # whether one of the threads that wait is after the machine, or has it

    def generate(self, request: Request) -> Any:
        """The raw chunk of the job; None where it has become worthless. Raises what its own computation raises."""
        with self._gate:
            self._waiting.append(request)
            self._expected.discard(request.maker)
            self._gate.notify_all()
            try:
                while not request.done and not (request in self._waiting and request.maker.is_void(request.job)):
                    if self._led or request not in self._waiting:
                        self._gate.wait(_LOOK)
                    else:
                        self._lead(request)
            finally:
                if request in self._waiting:
                    self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        return request.raw

    def leave(self, maker: Maker) -> None:
        """Wants nothing for now: nobody need wait for it. Takes no lock."""
        self._expected.discard(maker)

    # ------------------------------------------------------------ the thread that leads
    def _lead(self, own: Request) -> None:
        """One company, of which the caller's own job need not be. The gate is held, but not meanwhile."""
        self._led = True
        try:
            while self._expected and not own.maker.is_void(own.job) and time.monotonic() < self._until:
                self._gate.wait(_GLANCE)
            if own.maker.is_void(own.job):
                return
            self._expected.clear()
            self._gate.release()
            try:
                with self._engine.computing():
                    self._compute(self._choose())
            finally:
                self._gate.acquire()
        finally:
            self._led = False
            self._gate.notify_all()

    def _choose(self) -> list[Request]:
        """Takes who goes together out of the queue: who was passed over or else runs out first, and those like it.

        Who has a chunk more of sound than the first one waits, and does not make it late. Nobody who comes later
        goes before who has waited.
        """
        with self._gate:
            now = time.monotonic()
            order = sorted(self._waiting, key=lambda request: (-request.passed, request.ahead(now)))
            company = order[:1]
            for request in order[1:]:
                first = company[0]
                fits = not first.alone and not request.alone and request.job.steps == first.job.steps
                if fits and request.ahead(now) - first.ahead(now) <= self._engine.info.chunk_seconds:
                    company.append(request)
            company = company[:MOST]
            for request in order:
                request.passed += 1
            self._waiting = [request for request in self._waiting if request not in company]
            return company

    def _compute(self, company: list[Request]) -> None:
        active: list[Request] = []
        states: list[Any] = []  # as they were before
        begin = time.monotonic()
        try:
            for request in company:
                if request.maker.start(request.job):
                    active.append(request)
                else:
                    self._settle(request)
            states = [request.job.stream.state.clone() for request in active] if len(active) > 1 else []
            for request, raw in zip(active, self._generate(active)):
                request.raw = raw
        except BaseException as error:  # its own thread's to raise
            if states:  # whose fault it is will show
                self._go_alone([(request, state) for request, state in zip(active, states) if not request.done])
                return
            for request in company:
                request.error = None if request.done else error
        with self._gate:
            for request in company:
                if not request.done and not request.error:
                    self._expected.add(request.maker)
                request.done = True
            now = time.monotonic()
            self._until = now + (now - begin) * _LINGER

    def _generate(self, active: list[Request]) -> list[Any]:
        jobs = [request.job for request in active]
        if len(active) == 1:
            (job,) = jobs
            stopper = active[0].maker.stopper(job, alone=True)
            return [self._engine.generate(job.stream.state, job.style, job.steps, stopper)]
        return self._engine.generate_together(
            [job.stream.state for job in jobs], [job.style for job in jobs], jobs[0].steps,
            [self._stopper(request) for request in active],
        ) if active else []  # fmt: skip

    def _stopper(self, request: Request) -> Callable[[], bool]:
        """Lets the thread of a job that has become worthless go at once; nobody will look at its state again."""
        stopped = request.maker.stopper(request.job, alone=False)

        def should_stop() -> bool:
            if not stopped():
                return False
            self._settle(request)
            return True

        return should_stop

    def _settle(self, request: Request) -> None:
        with self._gate:
            if not request.done:
                request.done = True
                self._gate.notify_all()

    def _go_alone(self, members: list[tuple[Request, Any]]) -> None:
        """A company has failed: each of it is to be done again, by itself."""
        for request, state in members:
            request.maker.set_aside(request.job, state)
            request.alone = True
        with self._gate:
            self._waiting = [request for request, _ in members] + self._waiting
