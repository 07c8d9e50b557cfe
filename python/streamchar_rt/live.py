"""What of a session changes, and the one lock that guards it.

``changed`` is held for moments, never while something is computed; unless a method says otherwise, who calls it holds
the lock. A chunk under way is a :class:`Job`. What makes a job worthless (an interrupt, a reset, the end) replaces the
stream and leaves the old one to the job, which notices before its next denoising step and throws both away. So a
job never has to be undone, and nobody waits for one to be allowed to go on.
"""
from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .character import Character
from .chunk import Chunk
from .config import Mode, SessionConfig
from .errors import SessionClosedError, StateError
from .heard import TurnText
from .interrupt import History
from .jobs import Event, Job, Origin, Ready
from .journal import Journal
from .pacing import PlaybackClock
from .stream import Mark, Stream
from .streams import StreamMaker
from .telemetry import Counters, Turnaround

if TYPE_CHECKING:
    from .engine import Engine


class Live:
    """One session's stream: where it stands, what was made of it, what is being made, who has heard how much."""

    def __init__(self, engine: Engine, character: Character, config: SessionConfig, origin: Origin | None) -> None:
        self.character, self.config, self.info = character, config, engine.info
        self.changed = threading.Condition()
        self.closed = self.paused = False
        self.background = config.threading == "background"
        self.steps = config.steps or engine.default_steps
        self.rest = Mode.IDLE  # what is done while nothing is spoken
        self.epoch = 0  # goes up whenever what is under way becomes worthless
        self.cuts = 0  # how often the text was dropped
        self.inputs = 0  # goes up with every call that may give something to do
        self.clock = self.handed = 0  # where the next chunk begins, and where what was handed out ends
        self.furthest = 0  # the latest time ever handed out
        self.offset = 0  # the session's clock less the stream's
        self.index = self.handed_index = 0  # of the chunk that is made next, and of that handed out next
        self.ring: deque[Ready] = deque()  # finished chunks that nobody has taken; in background threading only
        self.job: Job | None = None
        self.warnings: list[Event] = []  # of the job under way
        self.playback = PlaybackClock(self.info.sample_rate)
        self.counters = Counters()
        self.turnaround = Turnaround()
        self._cut_log: deque[tuple[int, int]] = deque(maxlen=64)  # (index, pts) of the first chunk after each cut
        self._settlers = 0  # who wait for no chunk to be under way
        self._stirred = engine.stirred
        self._reach = config.max_lead  # seconds that an interrupt may go back where no playback is reported
        self._marks = 2 + math.ceil(config.max_lead / self.info.chunk_seconds)  # boundaries with the model's state
        if self.background:
            self._marks += engine.config.slots_per_session
        self.streams = StreamMaker(engine, character, config, self._warn)
        self.journal: Journal | None = None
        if config.record is not None:
            options = dataclasses.asdict(dataclasses.replace(config, record=None))
            facts = {"character": character.name, "voice": character.voice, "marks": self._marks}
            self.journal = Journal(config.record, **facts, **options)
        if origin is None:
            self.stream = self.streams.new(config.seed, first_turn=1)
            with engine.computing():
                self.stream.ready()
        else:
            self._take_over(origin)
        self.history = History(self.clock, self.stream.mark())

    def _warn(self, **details: Any) -> None:
        """For the text queue of the job under way; its thread needs no lock."""
        self.warnings.append(("warning", details))

    # ------------------------------------------------------------ facts
    def check_open(self) -> None:
        """Needs no lock."""
        if self.closed:
            raise SessionClosedError("the session is closed", hint="make a new one with Engine.session()")

    def is_void(self, job: Job) -> bool:
        """Whether nobody wants the job's chunk any more. Needs no lock."""
        return job.epoch != self.epoch

    @property
    def lead(self) -> float:
        """Seconds generated ahead of reported playback."""
        return (self.clock - self.playback.pts) / self.info.sample_rate

    def ahead(self, now: float) -> float:
        """Seconds of sound that the listener has not heard; while playback stands still, what nobody has taken."""
        if self.playback.running:
            return self.playback.due(self.clock) - now
        return (self.clock - self.handed) / self.info.sample_rate

    def unspoken(self) -> list[TurnText]:
        """What was pushed and does not begin in chunks that were handed out, by turn."""
        return self.stream.speech.unspoken(self.handed - self.offset)

    def is_valid(self, chunk: Chunk) -> bool:
        """Whether no interrupt has cut the whole chunk away."""
        return not any(index > chunk.index and pts <= chunk.pts for index, pts in self._cut_log)

    def touch(self) -> None:
        """Something has changed that may let a chunk be made or taken."""
        self.inputs += 1
        self.changed.notify_all()
        self._stirred.set()

    def journalled(self, call: str, /, **arguments: Any) -> None:
        """Writes down a call, where the session is recorded."""
        if self.journal is not None:
            self.journal.call(call, **arguments)

    # ------------------------------------------------------------ the job under way
    def wait_settled(self) -> None:
        """Until nobody waits for no chunk to be under way."""
        self.changed.wait_for(lambda: not self._settlers or self.closed)

    @contextlib.contextmanager
    def settled(self) -> Iterator[Stream]:
        """The stream between two chunks; waits for the one under way, and no other begins meanwhile. Takes the lock."""
        with self.changed:
            self.check_open()
            if self.job is not None and self.job.thread == threading.get_ident():
                raise StateError("a chunk is being made by this call's own thread", hint="call it between two chunks")
            self._settlers += 1
            try:
                self.changed.wait_for(lambda: self.job is None or self.closed)
                self.check_open()
                yield self.stream
            finally:
                self._settlers -= 1
                self.changed.notify_all()

    def end_job(self, job: Job) -> None:
        if self.job is job:
            self.job = None
        job.computing = False
        if self.closed:
            self._release()
        self.changed.notify_all()

    # ------------------------------------------------------------ forth and back
    def add(self, chunk: Chunk, mark: Mark) -> None:
        """A chunk has been made; the stream after it is ``mark``."""
        self.clock += self.info.chunk_samples
        self.index += 1
        self.history.add(chunk.audio, self.clock, mark)
        self.forget()
        self.stream.speech.forget_before(self.history.oldest_place, self.history.oldest_pts - self.offset)

    def forget(self) -> None:
        """Keeps what an interrupt may still go back to: what playback has not passed."""
        reached = self.handed - self._reach * self.info.sample_rate
        self.history.forget(self.playback.pts if self.playback.reported else reached, self._marks)

    def recall(self, pts: int) -> None:
        """Goes back to the chunk boundary at ``pts``, with the text that waits."""
        stream = self.stream.back_to(self.history.mark_at(pts))
        if self.job is not None and not self.is_void(self.job):
            stream.speech.waited = self.job.waited  # it has not been waited for that chunk
        self.history.back_to(pts)
        if self.journal is not None:
            self.journal.end(None)
            self.journal.call("recall", pts=pts)
        self.epoch += 1
        self.stream = stream
        while self.ring and self.ring[-1].chunk.pts >= pts:
            self.ring.pop()
            self.counters.recalled += 1
        self.index -= (self.clock - pts) // self.info.chunk_samples
        self.clock, self.handed = pts, min(self.handed, pts)
        self.touch()

    def go_on_with(self, stream: Stream) -> None:
        """Goes on with another stream after what was handed out."""
        if self.journal is not None:
            self.journal.end(None)
        self._replace(stream, self.handed)

    def cut(self, stream: Stream, pts: int) -> None:
        """Goes on with another stream at ``pts``; what was handed out from there on is void."""
        self._replace(stream, pts)
        self._cut_log.append((self.index, pts))

    def _replace(self, stream: Stream, clock: int) -> None:
        self.epoch += 1
        self.cuts += 1
        stream.discontinuity = self.handed_index > 0
        self.stream = stream
        self.clock = self.handed = clock
        self.offset = clock - stream.pts
        self.index = self.handed_index
        self.ring.clear()
        self.history = History(clock, stream.mark())
        self.playback.cut(clock)
        self.touch()

    # ------------------------------------------------------------ forks and replays
    def origin(self, stream: Stream) -> Origin:
        """What a fork goes on from; ``stream`` is a copy of this one's."""
        return Origin(stream, self.rest, self.index, self.clock, self.playback.pts)

    def _take_over(self, origin: Origin) -> None:
        self.stream, self.rest = origin.stream, origin.rest
        self.adopt(self.stream, self.stream.speech.next_turn)
        self.clock = self.handed = self.furthest = origin.clock
        self.offset = origin.clock - origin.stream.pts
        self.index = self.handed_index = origin.index
        self.playback.pts = origin.playback_pts

    def adopt(self, stream: Stream, next_turn: int) -> None:
        """Makes a stream this session's own. Needs no lock."""
        stream.speech.adopt(self._warn, next_turn)

    def lift_limits(self, marks: int | None) -> None:
        """For a replay: takes all text, and cuts as far back as asked, to the states that were kept then.

        What was recorded was within the limits; but chunks that nobody took are handed out in a replay, and those
        that an interrupt stopped are not made. Takes the lock.
        """
        with self.changed:
            self._reach, self._marks = math.inf, marks or self._marks
            self.streams.lift_limit()
            self.stream.speech.lift_limit()

    # ------------------------------------------------------------ the end
    def close(self) -> bool:
        """Stops everything. Returns whether it was open. Takes the lock."""
        with self.changed:
            was_open, self.closed = not self.closed, True
            self.epoch += 1
            if self.job is None:
                self._release()
            self.changed.notify_all()
        return was_open

    def _release(self) -> None:
        self.ring.clear()
        self.stream.state = None
        self.history = History(self.clock, self.stream.mark())
