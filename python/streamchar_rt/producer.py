"""Makes a session's chunks, and hands them out.

One lock, ``changed``, guards everything that changes; it is held for moments, never while something is computed.
A chunk under way is a :class:`Job`. What makes a job worthless (an interrupt, a reset, the end) replaces the
stream and leaves the old one to the job, which notices before its next denoising step and throws both away. So a
job never has to be undone, and nobody waits for one to be allowed to go on.
"""
from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .character import Character
from .chunk import Chunk, Interruption
from .config import Mode, SessionConfig
from .errors import ConfigError, SessionClosedError, StateError
from .finish import finish_chunk, held_chunk
from .heard import TurnText
from .interrupt import History
from .jobs import Event, Job, Origin, Ready
from .journal import Journal, chunk_digest
from .pacing import PlaybackClock, StepChooser
from .speech import Speech
from .stream import Emotion, Stream
from .telemetry import Counters
from .timeline import Timeline

if TYPE_CHECKING:
    from .engine import Engine
    from .pipeline import RawChunk

_MODES = (Mode.IDLE, Mode.LISTENING, Mode.SPEAKING)  # in the order of the model's mode indices
_EMOTION_REACH = 4  # units before its place at which an emotion begins to show: about half a chunk


class Producer:
    """The stream of one session. All methods may be called from any thread, ``produce`` by one at a time."""

    def __init__(
        self, engine: Engine, character: Character, config: SessionConfig, origin: Origin | None = None
    ) -> None:
        self.engine, self.character, self.config = engine, character, config
        self.info = engine.info
        self.changed = threading.Condition()
        self.counters = Counters()
        self.ring: deque[Ready] = deque()  # finished chunks that nobody has taken; in background threading only
        self.rest = Mode.IDLE
        self.closed = self.paused = False
        self.epoch = 0  # goes up whenever what is under way becomes worthless
        self.cuts = 0  # how often the text was dropped
        self.clock = self.handed = 0  # where the next chunk begins, and where what was handed out ends
        self.offset = 0  # the session's clock less the stream's
        self.inputs = 0  # goes up with every call that may give something to do
        self.journal: Journal | None = None
        self._steps = config.steps or engine.default_steps
        self._voice = engine.voices().index(character.voice)
        self._background = config.threading == "background"
        self._chooser = StepChooser(self._steps)
        self.playback = PlaybackClock(self.info.sample_rate)
        self._index = self._handed_index = 0
        self._furthest = 0  # the latest time ever handed out
        self._cut_log: deque[tuple[int, int]] = deque(maxlen=64)  # (index, pts) of the first chunk after each cut
        self._job: Job | None = None
        self._settlers = 0
        self._warnings: list[Event] = []  # of the job under way
        self._asked_at: float | None = None  # when the turnaround that is being measured began
        self._text_came = False  # since then
        self._starving = False
        self.reach = config.max_lead  # seconds that an interrupt may go back where no playback is reported
        self.marks = 2 + math.ceil(config.max_lead / self.info.chunk_seconds)  # boundaries with the model's state
        if self._background:
            self.marks += engine.config.slots_per_session
        self._text_limit = config.max_pending_text
        if config.record is not None:
            options = dataclasses.asdict(dataclasses.replace(config, record=None))
            facts = {"character": character.name, "voice": character.voice, "marks": self.marks}
            self.journal = Journal(config.record, **facts, **options)
        if origin is None:
            self.stream = self.new_stream(config.seed, first_turn=1)
            with engine.computing():
                self.stream.ready()
        else:
            self._take_over(origin)
        self._history = History(self.clock, self.stream.mark())

    # ------------------------------------------------------------ input
    @contextlib.contextmanager
    def input(self, call: str = "", /, **arguments: Any) -> Iterator[Speech]:
        """The text queue, for a call that takes effect with the next chunk that begins. Journalled if it succeeds."""
        with self.changed:
            self.check_open()
            if self._background and self._lets_speech_begin(call, arguments):
                self._recall_rest()
            yield self.stream.speech
            if call:
                self.journalled(call, **arguments)
            self.touch()

    def journalled(self, call: str, /, **arguments: Any) -> None:
        """Writes down a call. The lock is held."""
        if self.journal is not None:
            self.journal.call(call, **arguments)

    def watch_stream(self, source: Iterator[str]) -> Iterator[str]:
        """A stream of text whose pieces are written down as they are drawn. The lock is held."""
        journal = self.journal
        if journal is None:
            return source
        number = journal.new_stream()
        journal.call("hold", stream=number)

        def watched() -> Iterator[str]:
            for piece in source:
                with self.changed:
                    journal.drawn(number, piece)
                yield piece

        return watched()

    def touch(self) -> None:
        """Something has changed that may let a chunk be made or taken."""
        self.inputs += 1
        self.changed.notify_all()
        self.engine.stirred.set()

    def text_comes(self) -> None:
        """Text was pushed: after an interrupt, the turnaround counts from the first text on."""
        if self._asked_at is not None and not self._text_came:
            self._asked_at, self._text_came = time.perf_counter(), True

    def _lets_speech_begin(self, call: str, arguments: Mapping[str, Any]) -> bool:
        """Whether a call ends a rest: the first text, or the word that no more comes. Each does so but once."""
        if call == "push_text":
            return bool(arguments["text"].strip()) and not self.stream.speech.has_text
        return call in ("flush", "end_turn") and self.stream.speech.has_text

    def _recall_rest(self) -> None:
        """Text comes: takes back chunks of rest that wait in the ring or are being made. The lock is held.

        Else the text would be heard behind them only. They were not handed out, so nobody misses them.
        """
        stream, job = self.stream, self._job
        if stream.state is None or not stream.speech.at_rest(stream.state):
            return
        if job is not None and self.is_void(job):
            return
        if job is not None and not job.computing:
            job.outdated = True  # what it is to be is not decided yet, or it is about to be done
            return
        if job is not None and not job.rests:
            return
        pts, rest = self.clock, 0
        for ready in reversed(self.ring):
            if not ready.rests:
                break
            pts, rest = ready.chunk.pts, rest + 1
        if rest or job is not None:
            with contextlib.suppress(StateError):  # text is being drawn, and cannot be copied
                self.recall(pts)

    def _void_if_outdated(self, job: Job) -> None:
        """Takes back a chunk of rest that text came upon before it was computed. The lock is held."""
        if job.outdated and not self.is_void(job):
            job.outdated, job.computing = False, True
            self._recall_rest()

    def recall(self, pts: int) -> None:
        """Goes back to the chunk boundary at ``pts``, with the text that waits. The lock is held."""
        stream = self.stream.back_to(self._history.mark_at(pts))
        if self._job is not None and not self.is_void(self._job):
            stream.speech.waited = self._job.waited  # it has not been waited for that chunk
        self._history.back_to(pts)
        if self.journal is not None:
            self.journal.end(None)
            self.journal.call("recall", pts=pts)
        self.epoch += 1
        self.stream = stream
        while self.ring and self.ring[-1].chunk.pts >= pts:
            self.ring.pop()
            self.counters.recalled += 1
        self._index -= (self.clock - pts) // self.info.chunk_samples
        self.clock, self.handed = pts, min(self.handed, pts)
        self.touch()

    def warn(self, **details: Any) -> None:
        """For the text queue of the job under way."""
        self._warnings.append(("warning", details))

    def check_open(self) -> None:
        if self.closed:
            raise SessionClosedError("the session is closed", hint="make a new one with Engine.session()")

    # ------------------------------------------------------------ one chunk
    def produce(self, *, steps: int | None = None, hand_out: bool) -> Ready | None:
        """Makes the next chunk; begins anew where an interrupt or reset comes between.

        Args:
            steps: denoising steps; None: as configured.
            hand_out: give the chunk to the caller instead of the ring.

        Returns:
            None while paused, or where there is nothing to do.
        """
        while True:
            job = self.begin(steps)
            if job is None:
                return None
            ready = None
            try:
                ready = self.finish(job, self._compute(job), hand_out=hand_out)
            finally:
                if ready is None:
                    self.give_up(job)
            if ready is not None:
                return ready
            with self.changed:
                self.check_open()

    def begin(self, steps: int | None = None) -> Job | None:
        """Reads text and decides what the next chunk is to be. None while paused, or where there is nothing to do."""
        with self.changed:
            self.changed.wait_for(lambda: not self._settlers or self.closed)
            self.check_open()
            if self.paused:
                return None
            stream = self.stream
            job = Job(self.epoch, stream, self.rest, steps or self._choose_steps(), time.perf_counter())
            self._job, self._warnings = job, job.events
            job.at_rest = stream.state is not None and stream.speech.at_rest(stream.state)
            job.waited = stream.speech.waited
            stream.speech.seal()
            if self.journal is not None:
                self.journal.begin()
        try:
            if stream.state is None:
                with self.engine.computing():
                    stream.ready()
            if not self._plan(job):
                with self.changed:
                    void = self.is_void(job)
                    if not void and self.journal is not None:
                        self.journal.end(0)
                    self._end(job)
                return self.begin(steps) if void else None
        except BaseException:
            self.give_up(job)
            raise
        return job

    def _plan(self, job: Job) -> bool:
        stream, rate = job.stream, self.info.sample_rate
        state, speech = stream.state, stream.speech
        speech.feed(state, stream.pts, rate)
        speaking = speech.speaking(state)
        job.at_rest = job.at_rest and speech.at_rest(state)
        for cue in speech.acting_cues(state.pointer, _EMOTION_REACH):
            stream.emotion.act(cue, self.engine.emotions(), stream.pts, rate)
        job.mode = Mode.SPEAKING if speaking else job.rest
        job.style = (self._voice, stream.emotion.at(stream.pts), _MODES.index(job.mode))
        job.generates = speaking or speech.ending or self.config.idle == "generate" or stream.fade is not None
        return job.generates or self.config.idle == "hold"

    def _compute(self, job: Job) -> RawChunk | None:
        if not job.generates:
            return self.held(job)
        with self.engine.computing():
            if not self.start(job):
                return None
            # That it has stopped is known where it comes to its end: several lanes may work at it.
            return self.engine.generate(job.stream.state, job.style, job.steps, lambda: self.is_void(job))

    def held(self, job: Job) -> RawChunk:
        """The raw chunk of a job that generates nothing."""
        return held_chunk(self.engine, self.character, job.stream)

    def start(self, job: Job) -> bool:
        """Notes that the job is being computed; False where it has become worthless."""
        with self.changed:
            self._void_if_outdated(job)
            job.computing = not self.is_void(job)
            return job.computing

    def stopper(self, job: Job) -> Callable[[], bool]:
        """For a job in company: tells the computation whether to stop; who waits for that learns that it has."""

        def should_stop() -> bool:
            if not self.is_void(job):
                return False
            with self.changed:
                job.computing = False  # others of its company may go on
                self.changed.notify_all()
            return True

        return should_stop

    def finish(self, job: Job, raw: RawChunk | None, *, hand_out: bool) -> Ready | None:
        """Makes the chunk of what was generated. None where the job has become worthless."""
        if raw is None:
            return None
        chunk, events = finish_chunk(self, job, raw)
        mark = dataclasses.replace(job.stream.mark(), discontinuity=False, fade=None)
        digest = None if self.journal is None else chunk_digest(chunk)
        ready = Ready(chunk, (*job.events, *events), job.rests and not events and not chunk.end_of_turn)
        with self.changed:
            if ready.rests:
                self._void_if_outdated(job)
            if self.is_void(job):
                return None
            job.stream.discontinuity, job.stream.fade = False, None
            self._chooser.learn(chunk.timings)
            self.clock += self.info.chunk_samples
            self._index += 1
            self._history.add(chunk.audio, self.clock, mark)
            self._forget()
            job.stream.speech.forget_before(self._history.oldest_place, self._history.oldest_pts - self.offset)
            if self.journal is not None:
                self.journal.end(job.steps, digest)
            if hand_out:
                self.hand_out(ready)
            else:
                self.ring.append(ready)
            self._end(job)
            return ready

    def give_up(self, job: Job) -> None:
        """Ends a job that gives no chunk."""
        with self.changed:
            if self._job is job and not self.is_void(job) and self.journal is not None:
                self.journal.end(None)
            self._end(job)

    def _end(self, job: Job) -> None:
        if self._job is job:
            self._job = None
        job.computing = False
        if self.closed:
            self._release()
        self.changed.notify_all()

    def is_void(self, job: Job) -> bool:
        return job.epoch != self.epoch

    def _choose_steps(self) -> int:
        """Fewer steps only where a worker keeps a deadline: a stream stepped by hand repeats byte for byte."""
        if self._background and self.config.adaptive_steps and self.playback.running:
            return self._chooser.choose(self.playback.due(self.clock) - time.monotonic())
        return self._steps

    def slack_ms(self, total_ms: float) -> float:
        """Time left until the chunk under way is played; where nothing is known of playback, of its own length."""
        if self.playback.running:
            return (self.playback.due(self.clock) - time.monotonic()) * 1e3
        return self.info.chunk_seconds * 1e3 - total_ms

    @property
    def index(self) -> int:
        """Of the chunk that is made next."""
        return self._index

    # ------------------------------------------------------------ handing out
    def hand_out(self, ready: Ready) -> None:
        """Counts a chunk as given to the consumer. The lock is held."""
        chunk, now = ready.chunk, time.monotonic()
        self.handed = chunk.pts + self.info.chunk_samples
        self._furthest = max(self._furthest, self.handed)
        self._handed_index = chunk.index + 1
        self._starving = False
        late = self.playback.handed(chunk.pts, now)
        if self._background:
            self.counters.underrun_ms += late * 1e3
        if self._asked_at is not None and chunk.mode is Mode.SPEAKING:
            self.counters.latency("turnaround", (time.perf_counter() - self._asked_at) * 1e3)
            self._asked_at = None
        self.counters.add(
            chunk.timings, words=len(chunk.words), turn_ends=chunk.end_of_turn, full_steps=self._steps,
            drift=chunk.drift,
        )  # fmt: skip

    def starves(self) -> float | None:
        """Seconds for which the player has had nothing to play though it should; told once. The lock is held."""
        if self._starving or not self.playback.running or self.paused:
            return None
        late = time.monotonic() - self.playback.due(self.handed)
        if late <= 0:
            return None
        self._starving = True
        return late

    def unspoken(self) -> list[TurnText]:
        """What was pushed and does not begin in chunks that were handed out, by turn. The lock is held."""
        return self.stream.speech.unspoken(self.handed - self.offset)

    @property
    def has_turn(self) -> bool:
        """Whether a turn is open, waits, is being spoken, or ends in a chunk that was not handed out."""
        with self.changed:
            return bool(self.unspoken())

    @property
    def mode(self) -> Mode:
        with self.changed:
            stream = self.stream
            speaks = stream.state is not None and stream.speech.speaking(stream.state)
            speaks = speaks or any(ready.chunk.mode is Mode.SPEAKING for ready in self.ring)
            return Mode.SPEAKING if speaks or any(turn.after.strip() for turn in self.unspoken()) else self.rest

    def is_valid(self, chunk: Chunk) -> bool:
        """Whether no interrupt has cut the whole chunk away."""
        with self.changed:
            return not any(index > chunk.index and pts <= chunk.pts for index, pts in self._cut_log)

    # ------------------------------------------------------------ playback
    def report_playback(self, pts: int) -> None:
        with self.changed:
            self.check_open()
            # A report that was on its way while the stream was cut tells of what was heard before.
            if isinstance(pts, bool) or not isinstance(pts, (int, np.integer)) or not 0 <= pts <= self._furthest:
                raise ConfigError(f"playback cannot be at {pts!r}", hint=f"a sample number from 0 to {self._furthest}")
            self.playback.report(min(int(pts), self.handed), time.monotonic(), self.handed)
            self._forget()
            self.changed.notify_all()

    @property
    def lead(self) -> float:
        """Seconds generated ahead of reported playback."""
        return (self.clock - self.playback.pts) / self.info.sample_rate

    def pause(self) -> None:
        with self.changed:
            self.check_open()
            self.paused = True
            self.playback.halt()

    def resume(self) -> None:
        with self.changed:
            self.check_open()
            self.paused = False
            self.touch()

    # ------------------------------------------------------------ cutting
    def interrupt(self, heard_pts: int | None) -> Interruption:
        """See ``Session.interrupt``."""
        begin = time.perf_counter()
        length = min(round(self.config.interrupt_fade * self.info.sample_rate), self.info.chunk_samples)
        with self.changed:
            self.check_open()
            cut = self._cut_pts(heard_pts)
            turns = self.stream.speech.unheard(cut - self.offset)
            turn = turns[0] if turns else TurnText(self.stream.speech.turn_id, "", "")
            dropped = self._history.chunks_from(cut)
            fade = self._history.fade(cut, length)
            if self.journal is not None:
                self.journal.end(None)
                self.journal.call("interrupt", heard_pts=cut)
            stopped = self._job
            stream = self.stream.cut(self._history.mark_at(cut), turn.turn_id, fade)
            stream.discontinuity = self._handed_index > 0
            self._replace(stream, cut)
            self._cut_log.append((self._index, cut))
            self.counters.interrupts += 1
            self.counters.dropped += dropped
            self._asked_at, self._text_came = begin, False
            if stopped is not None and stopped.thread != threading.get_ident():
                self.changed.wait_for(lambda: not stopped.computing)
            stop_ms = (time.perf_counter() - begin) * 1e3
            self.counters.latency("stop", stop_ms)
            self.counters.latency("quiet", length / self.info.sample_rate * 1e3)
        return Interruption(
            turn_id=turn.turn_id, cut_pts=cut, spoken_text=turn.before, unspoken_text=turn.after,
            dropped_chunks=dropped, stop_latency_ms=stop_ms, fade=fade.samples(),
            dropped_turns=tuple((other.turn_id, other.after) for other in turns[1:]),
        )  # fmt: skip

    def _cut_pts(self, heard: int | None) -> int:
        oldest = self._history.oldest_pts
        if heard is None:
            return max(self.playback.pts, oldest) if self.playback.reported else self.handed
        if isinstance(heard, bool) or not isinstance(heard, (int, np.integer)) or not oldest <= heard <= self.handed:
            raise ConfigError(
                f"heard_pts={heard!r} cannot be cut at", hint=f"a sample number from {oldest} to {self.handed}"
            )
        return int(heard)

    def replace_stream(self, stream: Stream) -> None:
        """Goes on with another stream after what was handed out. The lock is held."""
        stream.discontinuity = self._handed_index > 0
        if self.journal is not None:
            self.journal.end(None)
        self._replace(stream, self.handed)

    def _replace(self, stream: Stream, clock: int) -> None:
        self.epoch += 1
        self.cuts += 1
        self.stream = stream
        self.clock = self.handed = clock
        self.offset = clock - stream.pts
        self._index = self._handed_index
        self.ring.clear()
        self._history = History(clock, stream.mark())
        self.playback.cut(clock)
        self._starving = False
        self.touch()

    def _forget(self) -> None:
        """Keeps what an interrupt may still go back to: what playback has not passed."""
        reached = self.handed - self.reach * self.info.sample_rate
        self._history.forget(self.playback.pts if self.playback.reported else reached, self.marks)

    # ------------------------------------------------------------ streams
    def origin(self, stream: Stream) -> Origin:
        """What a fork goes on from; ``stream`` is a copy of this one's. The lock is held."""
        return Origin(stream, self.rest, self._index, self.clock, self.playback.pts)

    def _take_over(self, origin: Origin) -> None:
        self.stream, self.rest = origin.stream, origin.rest
        self.stream.speech.adopt(self.warn, self.stream.speech.next_turn)
        self.clock = self.handed = self._furthest = origin.clock
        self.offset = origin.clock - origin.stream.pts
        self._index = self._handed_index = origin.index
        self.playback.pts = origin.playback_pts

    def new_stream(self, seed: int, first_turn: int) -> Stream:
        engine, half_frames = self.engine, self.info.chunk_frames * 2
        return Stream(
            make_state=_StateMaker(engine, self.character, seed),
            speech=Speech(
                engine.transcripts(tags=self.config.markup == "tags"),
                limit=self._text_limit,
                warn=self.warn,
                is_known_cue=engine.emotions().__contains__,
                shared=engine.shared_text_tools,
                first_turn=first_turn,
            ),
            timeline=Timeline(self.info.chunk_samples // half_frames, carry=(0,) * engine.audio_lead),
            emotion=Emotion(),
        )

    def lift_limits(self, marks: int | None) -> None:
        """For a replay: takes all text, and cuts as far back as asked, to the states that were kept then.

        What was recorded was within the limits; but chunks that nobody took are handed out in a replay, and those
        that an interrupt stopped are not made.
        """
        with self.changed:
            self.reach, self.marks = math.inf, marks or self.marks
            self._text_limit = sys.maxsize
            self.stream.speech.lift_limit()

    @contextlib.contextmanager
    def settled(self) -> Iterator[Stream]:
        """The stream between two chunks; waits for the one under way, and no other begins meanwhile."""
        with self.changed:
            self.check_open()
            if self._job is not None and self._job.thread == threading.get_ident():
                raise StateError("a chunk is being made by this call's own thread", hint="call it between two chunks")
            self._settlers += 1
            try:
                self.changed.wait_for(lambda: self._job is None or self.closed)
                self.check_open()
                yield self.stream
            finally:
                self._settlers -= 1
                self.changed.notify_all()

    # ------------------------------------------------------------ the end
    def close(self) -> bool:
        """Stops everything. Returns whether it was open."""
        with self.changed:
            was_open, self.closed = not self.closed, True
            self.epoch += 1
            if self._job is None:
                self._release()
            self.changed.notify_all()
        return was_open

    def _release(self) -> None:
        self.ring.clear()
        self.stream.state = None
        self._history = History(self.clock, self.stream.mark())

    def summary(self) -> Mapping[str, float | int]:
        with self.changed:
            return {
                **self.counters.summary(self.info.chunk_seconds),
                "seconds_generated": self.clock / self.info.sample_rate,
                "lead_seconds": self.lead,
                "pending_characters": sum(len(turn.after) for turn in self.unspoken()),
            }


class _StateMaker:
    """Makes the model's state of a stream."""

    def __init__(self, engine: Engine, character: Character, seed: int) -> None:
        self.engine, self.character, self.seed = engine, character, seed

    def __call__(self) -> Any:
        return self.engine.new_state(self.character, self.seed)
