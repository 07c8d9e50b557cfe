"""Makes a session's chunks: the life of a job, from what is to be done to the finished chunk.

``begin``, ``start``, the computation (with no lock held), ``finish``; or ``give_up``. See ``live`` for what may come
between.
"""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .config import Mode
from .finish import finish_chunk, held_chunk
from .gathering import Request
from .jobs import Job, Ready
from .journal import chunk_digest
from .live import Live
from .outlet import Outlet
from .pacing import StepChooser
from .rest import void_if_outdated

if TYPE_CHECKING:
    from .engine import Engine
    from .pipeline import RawChunk

_MODES = (Mode.IDLE, Mode.LISTENING, Mode.SPEAKING)  # in the order of the model's mode indices
_EMOTION_REACH = 4  # units before its place at which an emotion begins to show: about half a chunk


class Producer:
    """Makes one chunk at a time, in any thread."""

    def __init__(self, engine: Engine, live: Live, outlet: Outlet) -> None:
        self._engine, self._live, self._outlet = engine, live, outlet
        self._voice = engine.voices().index(live.character.voice)
        self._chooser = StepChooser(live.steps)

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
            with self._live.changed:
                self._live.check_open()

    # ------------------------------------------------------------ what it is to be
    def begin(self, steps: int | None = None) -> Job | None:
        """Reads text and decides what the next chunk is to be. None while paused, or where there is nothing to do."""
        live = self._live
        with live.changed:
            live.wait_settled()
            live.check_open()
            if live.paused:
                return None
            stream = live.stream
            job = Job(live.epoch, stream, live.rest, steps or self._choose_steps(), time.perf_counter())
            live.job, live.warnings = job, job.events
            job.at_rest = stream.state is not None and stream.speech.at_rest(stream.state)
            job.waited = stream.speech.waited
            stream.speech.seal()
            if live.journal is not None:
                live.journal.begin()
        try:
            if stream.state is None:
                with self._engine.computing():
                    stream.ready()
            if not self._plan(job):
                with live.changed:
                    void = live.is_void(job)
                    if not void and live.journal is not None:
                        live.journal.end(0)
                    live.end_job(job)
                return self.begin(steps) if void else None
        except BaseException:
            self.give_up(job)
            raise
        return job

    def _plan(self, job: Job) -> bool:
        stream, rate, idle = job.stream, self._live.info.sample_rate, self._live.config.idle
        state, speech = stream.state, stream.speech
        step = stream.timeline.step
        lead = stream.pts + step * self._engine.audio_lead
        speech.feed(state, range(lead, lead + self._live.info.chunk_samples, step), rate)
        speaking = speech.speaking(state)
        job.at_rest = job.at_rest and speech.at_rest(state)
        for cue in speech.acting_cues(state.pointer, _EMOTION_REACH):
            stream.emotion.act(cue, self._engine.emotions(), stream.pts, rate)
        job.mode = Mode.SPEAKING if speaking else job.rest
        job.style = (self._voice, stream.emotion.at(stream.pts), _MODES.index(job.mode))
        job.generates = speaking or speech.ending or idle == "generate" or stream.fade is not None
        return job.generates or idle == "hold"

    def _choose_steps(self) -> int:
        """Fewer steps only where a worker keeps a deadline: a stream stepped by hand repeats byte for byte."""
        live = self._live
        if live.background and live.config.adaptive_steps and live.playback.running:
            return self._chooser.choose(live.playback.due(live.clock) - time.monotonic())
        return live.steps

    # ------------------------------------------------------------ the computation
    def _compute(self, job: Job) -> RawChunk | None:
        if not job.generates:
            return self.held(job)
        if self._live.background:
            with self._live.changed:
                ahead, plays = self._live.ahead(time.monotonic()), self._live.playback.running
            return self._engine.gathering.generate(Request(self, job, ahead, plays))
        with self._engine.computing():
            if not self.start(job):
                return None
            return self._engine.generate(job.stream.state, job.style, job.steps, self.stopper(job, alone=True))

    def leave(self) -> None:
        """Makes no chunk for now."""
        self._engine.gathering.leave(self)

    def held(self, job: Job) -> RawChunk:
        """The raw chunk of a job that generates nothing."""
        return held_chunk(self._engine, self._live.character, job.stream)

    def start(self, job: Job) -> bool:
        """Notes that the job is being computed; False where it has become worthless."""
        with self._live.changed:
            void_if_outdated(self._live, job)
            job.computing = not self._live.is_void(job)
            return job.computing

    def is_void(self, job: Job) -> bool:
        return self._live.is_void(job)

    def set_aside(self, job: Job, state: Any) -> None:
        """A computation was given up; another one will begin, from ``state``."""
        with self._live.changed:
            job.stream.state, job.computing = state, False
            self._live.changed.notify_all()

    def stopper(self, job: Job, *, alone: bool) -> Callable[[], bool]:
        """Tells the computation whether to stop. In company, who waits for that learns here that the job has."""
        live = self._live
        if alone:  # it has where the computation comes to its end: several lanes may work at it
            return lambda: live.is_void(job)

        def should_stop() -> bool:
            if not live.is_void(job):
                return False
            with live.changed:
                job.computing = False  # others of its company may go on
                live.changed.notify_all()
            return True

        return should_stop

    # ------------------------------------------------------------ the chunk
    def finish(self, job: Job, raw: RawChunk | None, *, hand_out: bool) -> Ready | None:
        """Makes the chunk of what was generated. None where the job has become worthless."""
        if raw is None:
            return None
        live = self._live
        chunk, events = finish_chunk(live, job, raw)
        mark = dataclasses.replace(job.stream.mark(), discontinuity=False, fade=None)
        digest = None if live.journal is None else chunk_digest(chunk)
        ready = Ready(chunk, (*job.events, *events), job.rests and not events and not chunk.end_of_turn)
        with live.changed:
            if ready.rests:
                void_if_outdated(live, job)
            if live.is_void(job):
                return None
            job.stream.discontinuity, job.stream.fade = False, None
            self._chooser.learn(chunk.timings)
            live.add(chunk, mark)
            if live.journal is not None:
                live.journal.end(job.steps, digest)
            if hand_out:
                self._outlet.hand_out(ready)
            else:
                live.ring.append(ready)
            live.end_job(job)
            return ready

    def give_up(self, job: Job) -> None:
        """Ends a job that gives no chunk. Harmless once it has ended."""
        live = self._live
        with live.changed:
            if live.job is job and not live.is_void(job) and live.journal is not None:
                live.journal.end(None)
            live.end_job(job)
