"""Sessions: one live character each."""
from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from .character import Character
from .chunk import Chunk, Interruption, StageTimings
from .config import Mode, SessionConfig, StreamInfo, check_number
from .errors import ConfigError, SessionClosedError, StateError, UnsupportedError
from .events import Callback, Events
from .pixels import convert
from .snapshot import Snapshot
from .speech import CueCall, Speech
from .stream import Emotion, Stream
from .timeline import Timeline

if TYPE_CHECKING:
    from .engine import Engine
    from .pipeline import RawChunk

_MODES = (Mode.IDLE, Mode.LISTENING, Mode.SPEAKING)  # in the order of the model's mode indices
_HALF_FRAMES = 2  # a video frame; the pointer's resolution
_EMOTION_REACH = 4  # units before its place at which an emotion begins to show: about half a chunk
_STUCK_CHUNKS = 4  # chunks without progress after which an event says so


class Session:
    """One live character: pushed text becomes chunks of speech and picture. Made by ``Engine.session``.

    Text, cues and modes may be given from any thread and never wait for computation. Chunks are taken by one
    consumer, by ``step()`` or one of the iterators over it.

    Events (see ``on_event``): ``turn_started`` and ``turn_ended`` (turn_id, pts), ``cue`` (name, strength,
    duration, turn_id, text_offset, pts) when speech comes to it, and ``warning`` (kind: "script", "cue" or
    "stalled", and what it is about).
    """

    info: StreamInfo

    def __init__(self, engine: Engine, character: Character, config: SessionConfig) -> None:
        self.info = engine.info
        self.config = config
        self._engine = engine
        self._character = character
        self._voice = engine.voices().index(character.voice)
        self._steps = config.steps or engine.default_steps
        self._events = Events()
        self._consumer = threading.Lock()
        self._rest = Mode.IDLE
        self._closed = False
        self._paused = False
        self._index = 0
        self._clock = 0  # time of the next chunk
        self._playback = 0
        self._stats = _Stats()
        self._outbox: list[tuple[str, dict[str, Any]]] = []  # events of the running step
        self._stream = self._new_stream(config.seed, first_turn=1)
        with engine.computing():
            self._stream.ready()

    # ------------------------------------------------------------ input
    @property
    def mode(self) -> Mode:
        """Speaking while text waits or is being spoken, else what ``listen()`` or ``rest()`` asked for."""
        stream = self._stream
        speaks = stream.state is not None and stream.speech.speaking(stream.state)
        return Mode.SPEAKING if speaks or stream.speech.pending_text.strip() else self._rest

    @property
    def pending_text(self) -> str:
        """What was pushed and has not been spoken; of a ``push_stream()`` that is being drawn, what was drawn."""
        return self._stream.speech.pending_text

    def push_text(self, text: str) -> None:
        """Adds text to the open turn, or opens one. Words may be split between calls.

        Raises:
            StateError: if more than ``max_pending_text`` characters would wait; nothing is added then.
        """
        self._check_open()
        if not isinstance(text, str):
            raise ConfigError(f"text is {type(text).__name__}", hint="push a str")
        self._stream.speech.push(text)

    def push_stream(self, pieces: Iterable[str]) -> int:
        """Pushes pieces as they come, without limit on their total length.

        What does not fit into ``max_pending_text`` is held, and drawn by ``step()`` as the text is spoken.

        Returns:
            How many characters were taken by now.
        """
        self._check_open()
        return self._stream.speech.push_stream(pieces)

    def cue(self, name: str, *, strength: float = 1.0, duration: float | None = None) -> None:
        """Places a cue where the text stands now; it takes effect when speech comes there.

        Emotions of the model show in the picture. Any other name is a marker: it comes back as a ``cue`` event
        with its time.

        Args:
            strength: 0 to 1; the ``mini`` model shows an emotion from 0.5 on.
            duration: seconds until the emotion ends; None: until the next one.
        """
        self._check_open()
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"cue name {name!r} is empty", hint="for example " + ", ".join(self._engine.emotions()))
        strength = check_number("strength", strength, 0.0, 1.0)
        if duration is not None:
            duration = check_number("duration", duration, 0.0, 86_400.0)
        self._stream.speech.cue(CueCall(name.strip().lower(), strength, duration))

    def flush(self) -> None:
        """No more text is coming soon: speak what is there, an unfinished word included."""
        self._check_open()
        self._stream.speech.flush()

    def end_turn(self) -> int:
        """Ends the open turn and returns its id. Without text since the last turn, the turn is an empty one."""
        self._check_open()
        return self._stream.speech.end_turn()

    def say(self, text: str) -> int:
        """``push_text`` and ``end_turn``."""
        self.push_text(text)
        return self.end_turn()

    def listen(self) -> None:
        """While nothing is spoken: listen, with eyes on the speaker and small nods."""
        self._check_open()
        self._rest = Mode.LISTENING

    def rest(self) -> None:
        """While nothing is spoken: idle."""
        self._check_open()
        self._rest = Mode.IDLE

    def interrupt(self, heard_pts: int | None = None) -> Interruption:
        """Not available yet."""
        raise UnsupportedError(
            "interrupt() is not part of this version", hint="reset() drops all text at the next chunk boundary"
        )

    def pause(self) -> None:
        """Stops generating: ``step()`` returns None until ``resume()``. The clock stands still meanwhile."""
        self._check_open()
        self._paused = True

    def resume(self) -> None:
        """Goes on after ``pause()``."""
        self._check_open()
        self._paused = False

    def reset(self, *, seed: int | None = None) -> None:
        """Drops all text and begins anew with the next chunk, which is marked as a discontinuity.

        The clock and the turns' numbers go on. With the same seed and calls, the same pictures and sound follow
        as after the session's beginning.
        """
        self._check_open()
        seed = self.config.seed if seed is None else SessionConfig(seed=seed).seed
        stream = self._new_stream(seed, first_turn=self._stream.speech.next_turn)
        stream.discontinuity = self._index > 0
        self._stream = stream

    def report_playback(self, pts: int) -> None:
        """Says which sample is being played.

        Raises:
            ConfigError: for a time that has not been generated.
        """
        self._check_open()
        if isinstance(pts, bool) or not isinstance(pts, (int, np.integer)) or not 0 <= pts <= self._clock:
            raise ConfigError(f"playback cannot be at {pts!r}", hint=f"a sample number from 0 to {self._clock}")
        self._playback = max(self._playback, int(pts))

    # ------------------------------------------------------------ output
    def step(self, timeout: float | None = None) -> Chunk | None:
        """Generates the next chunk in the caller's thread.

        Args:
            timeout: only for background threading, which is not part of this version.

        Returns:
            The chunk; None while paused, or where nothing is to be said and ``idle="stop"``.

        Raises:
            StateError: if another thread is in ``step()``.
        """
        self._check_open()
        if not self._consumer.acquire(blocking=False):
            raise StateError("another consumer is taking a chunk", hint="one session has one consumer")
        try:
            if self._paused:
                return None
            chunk = self._step()
        finally:
            outbox, self._outbox = self._outbox, []
            self._consumer.release()
            for event, details in outbox:  # with no lock held, so that a callback may call anything
                self._events.emit(event, details)
        return chunk

    def turn(self) -> Iterator[Chunk]:
        """Chunks up to the end of the current turn; none where no text was pushed.

        An open turn goes on until ``end_turn()``, with picture and silence while it has no text.
        """
        while self._stream.speech.has_turn:
            chunk = self.step()
            if chunk is None:
                return
            yield chunk
            if chunk.end_of_turn:
                return

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until the session is closed, those between turns included; ends where ``step()`` gives None."""
        while not self._closed:
            chunk = self.step()
            if chunk is None:
                return
            yield chunk

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The same for ``async for``; chunks are generated in a worker thread."""
        while not self._closed:
            chunk = await asyncio.to_thread(self.step)
            if chunk is None:
                return
            yield chunk

    # ------------------------------------------------------------ state
    def snapshot(self, *, memory: Literal["host", "cuda"] = "host") -> Snapshot:
        """The stream as it is between two chunks, waiting text included. Waits for a running ``step()``.

        Raises:
            StateError: while a long ``push_stream()`` is being drawn.
        """
        self._check_open()
        if memory != "host":
            raise UnsupportedError(f"memory={memory!r} needs a CUDA engine", hint='use memory="host"')
        with self._consumer:
            stream = self._stream.clone()
        return Snapshot(
            stream, self._engine.session_bytes, self._engine, self._character, self.config, self._rest
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of a session with the same character. The clock goes on.

        The next chunk is marked as a discontinuity. The snapshot stays valid.

        Raises:
            SnapshotError: where it is of another model, character or version.
        """
        self._check_open()
        if not isinstance(snapshot, Snapshot):
            raise ConfigError(f"{type(snapshot).__name__} is not a snapshot", hint="take one with snapshot()")
        blank = lambda: self._new_stream(self.config.seed, first_turn=1)
        stream = snapshot.open(self._engine, self._character, blank)
        with self._consumer:
            stream.discontinuity = True
            stream.speech.adopt(self._warn, self._stream.speech.next_turn)
            self._stream = stream
            self._rest = snapshot.mode

    def fork(self, *, seed: int | None = None) -> Session:
        """A second session that goes on from here on its own, with the same clock."""
        self._check_open()
        with self._consumer:
            stream = self._stream.clone()
        child = self._engine.session(self._character, self.config)
        if seed is not None:
            stream.state.seed = SessionConfig(seed=seed).seed
        stream.speech.adopt(child._warn, stream.speech.next_turn)
        child._stream = stream
        child._rest, child._index, child._clock, child._playback = self._rest, self._index, self._clock, self._playback
        return child

    # ------------------------------------------------------------ telemetry
    def stats(self) -> Mapping[str, float | int]:
        """Counters and times since the session began."""
        return {
            **self._stats.summary(self.info.chunk_seconds),
            "seconds_generated": self._clock / self.info.sample_rate,
            "lead_seconds": (self._clock - self._playback) / self.info.sample_rate,
            "pending_characters": len(self.pending_text),
        }

    def on_event(self, callback: Callback) -> Callable[[], None]:
        """Calls ``callback(name, details)`` on every event; returns the function that ends this."""
        self._check_open()
        return self._events.subscribe(callback)

    def close(self) -> None:
        """Gives the session's memory back. Calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._engine.forget(self)
            if self._consumer.acquire(blocking=False):  # else a running step() still needs it
                self._stream.state = None
                self._consumer.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.mode.value
        return f"<Session {self._character.name!r} {state} chunks={self._index}>"

    # ------------------------------------------------------------ one chunk
    def _step(self) -> Chunk | None:
        begin = time.perf_counter()
        stream, rate = self._stream, self.info.sample_rate
        if stream.state is None:
            with self._engine.computing():
                stream.ready()
        state, speech = stream.state, stream.speech
        speech.feed(state, stream.pts, rate)
        speaking = speech.speaking(state)
        for cue in speech.acting_cues(state.pointer, _EMOTION_REACH):
            stream.emotion.act(cue, self._engine.emotions(), stream.pts, rate)
        mode = Mode.SPEAKING if speaking else self._rest
        if speaking or speech.ending or self.config.idle == "generate":
            style = (self._voice, stream.emotion.at(stream.pts), _MODES.index(mode))
            with self._engine.computing():
                raw = self._engine.generate(state, style, self._steps)
        elif self.config.idle == "hold":
            raw = self._held(stream)
        else:
            return None
        chunk = self._finish(stream, raw, mode, begin)
        self._stats.add(chunk)
        return chunk

    def _held(self, stream: Stream) -> RawChunk:
        """The last picture, and silence: nothing is computed, and the model's state does not move."""
        frame = self._character.picture if stream.last_frame is None else stream.last_frame
        half_frames = self.info.chunk_frames * _HALF_FRAMES
        return self._engine.pipeline.RawChunk(
            audio=np.zeros(self.info.chunk_samples, np.float32),
            video=np.repeat(frame[None], self.info.chunk_frames, 0),
            places=np.full(half_frames, stream.state.pointer),
            elapsed=np.zeros(half_frames, np.int64),
            confidence=1.0,
        )

    def _finish(self, stream: Stream, raw: RawChunk, mode: Mode, begin: float) -> Chunk:
        speech, offset = stream.speech, self._clock - stream.pts
        plan = stream.timeline.advance(stream.pts, raw.places, speech.unit_at)
        arrival = speech.arrived(stream.pts, stream.timeline.place, plan.reached)
        self._watch_progress(stream, arrival.turn_id, bool(plan.reached))
        speech.forget_before(stream.timeline.oldest_place)
        stream.last_frame = raw.video[-1]
        shift = _shifter(offset)
        chunk = Chunk(
            turn_id=arrival.turn_id,
            index=self._index,
            pts=self._clock,
            duration=self.info.chunk_seconds,
            audio=raw.audio,
            video=convert(raw.video, self.config.pixel_format),
            words=tuple(map(shift, plan.words)),
            visemes=tuple(map(shift, plan.visemes)),
            mode=mode,
            end_of_turn=arrival.ended is not None,
            discontinuity=stream.discontinuity,
            timings=self._timings(raw.timings, (time.perf_counter() - begin) * 1e3),
        )
        stream.discontinuity = False
        stream.pts += self.info.chunk_samples
        self._clock += self.info.chunk_samples
        self._index += 1
        if arrival.started is not None:
            self._post("turn_started", turn_id=arrival.turn_id, pts=arrival.started + offset)
        for cue, turn_id, pts in arrival.cues:
            self._post(
                "cue", name=cue.name, strength=cue.strength, duration=cue.duration, turn_id=turn_id,
                text_offset=cue.text_offset, pts=pts + offset,
            )  # fmt: skip
        if arrival.ended is not None:
            self._post("turn_ended", turn_id=arrival.turn_id, pts=arrival.ended + offset)
        return chunk

    def _timings(self, stages: Mapping[str, float], total_ms: float) -> StageTimings:
        playback_ms = self.info.chunk_seconds * 1e3
        names = ("orchestrator", "context", "denoise", "audio_decode", "video_decode")
        return StageTimings(
            *(stages.get(name, 0.0) for name in names),
            total_ms=total_ms,
            real_time_factor=total_ms / playback_ms,
            denoise_steps=self._steps if stages else 0,
            deadline_slack_ms=playback_ms - total_ms,
        )

    def _watch_progress(self, stream: Stream, turn_id: int, moved: bool) -> None:
        """The pointer must not stand still while units lie ahead of it."""
        stream.stuck = 0 if moved or not stream.speech.speaking(stream.state) else stream.stuck + 1
        if stream.stuck == _STUCK_CHUNKS:
            self._warn(kind="stalled", turn_id=turn_id, seconds=stream.stuck * self.info.chunk_seconds)

    def _new_stream(self, seed: int, first_turn: int) -> Stream:
        engine, half_frames = self._engine, self.info.chunk_frames * _HALF_FRAMES
        return Stream(
            make_state=_StateMaker(engine, self._character, seed),
            speech=Speech(
                engine.transcripts(tags=self.config.markup == "tags"),
                limit=self.config.max_pending_text,
                warn=self._warn,
                is_known_cue=engine.emotions().__contains__,
                shared=engine.shared_text_tools,
                first_turn=first_turn,
            ),
            timeline=Timeline(self.info.chunk_samples // half_frames, carry=(0,) * engine.audio_lead),
            emotion=Emotion(),
        )

    def _post(self, event: str, /, **details: Any) -> None:
        self._outbox.append((event, details))

    def _warn(self, **details: Any) -> None:
        self._post("warning", **details)

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the session is closed", hint="make a new one with Engine.session()")


class _StateMaker:
    """Makes the model's state of a stream."""

    def __init__(self, engine: Engine, character: Character, seed: int) -> None:
        self.engine, self.character, self.seed = engine, character, seed

    def __call__(self) -> Any:
        return self.engine.new_state(self.character, self.seed)


def _shifter(offset: int) -> Callable[[Any], Any]:
    """Moves words and visemes from the stream's clock to the session's."""

    def shift(item: Any) -> Any:
        return dataclasses.replace(item, begin_pts=item.begin_pts + offset, end_pts=item.end_pts + offset)

    return shift if offset else lambda item: item


class _Stats:
    """Counters of a session."""

    def __init__(self) -> None:
        self.chunks = self.turns = self.words = self.late = 0
        self.first_ms = self.total_ms = self.worst_ms = 0.0
        self.stages = dict.fromkeys(
            ("orchestrator_ms", "context_ms", "denoise_ms", "audio_decode_ms", "video_decode_ms"), 0.0
        )

    def add(self, chunk: Chunk) -> None:
        timings = chunk.timings
        if not self.chunks:
            self.first_ms = timings.total_ms
        self.chunks += 1
        self.turns += chunk.end_of_turn
        self.words += len(chunk.words)
        self.late += timings.deadline_slack_ms < 0
        self.total_ms += timings.total_ms
        self.worst_ms = max(self.worst_ms, timings.total_ms)
        for name in self.stages:
            self.stages[name] += getattr(timings, name)

    def summary(self, chunk_seconds: float) -> dict[str, float | int]:
        count = max(1, self.chunks)
        return {
            "chunks": self.chunks,
            "turns": self.turns,
            "words": self.words,
            "late_chunks": self.late,
            "first_chunk_ms": self.first_ms,
            "mean_chunk_ms": self.total_ms / count,
            "worst_chunk_ms": self.worst_ms,
            "real_time_factor": self.total_ms / count / 1e3 / chunk_seconds,
            **{name: total / count for name, total in self.stages.items()},
        }
