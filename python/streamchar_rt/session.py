"""Sessions: one live character each."""
from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from . import machine
from .background import Worker
from .character import Character
from .chunk import Chunk, Interruption
from .config import Mode, SessionConfig, StreamInfo, check_number
from .cutting import interrupt
from .errors import ConfigError, SessionClosedError, StateError, UnsupportedError
from .events import Callback, Events
from .inputs import Inputs
from .jobs import Event, Origin, Ready
from .live import Live
from .outlet import Outlet
from .producer import Producer
from .snapshot import Snapshot
from .speech import CueCall

if TYPE_CHECKING:
    from .engine import Engine
    from .stream import Stream


class Session:
    """One live character: pushed text becomes chunks of speech and picture. Made by ``Engine.session``.

    Text, cues and modes may be given from any thread and never wait for computation. What is given takes effect
    with the next chunk that begins. Chunks are taken by one consumer, by ``step()`` or one of the iterators over
    it; with ``threading="background"`` a thread of the session's own makes them ahead of time.

    Events (see ``on_event``) come with the chunk that they belong to, in the consumer's thread: ``turn_started``
    and ``turn_ended`` (turn_id, pts), ``cue`` (name, strength, duration, turn_id, text_offset, pts) when speech
    comes to it, ``underrun`` (pts, late_ms) where playback has come to the end of what there was, ``drift``
    (distance, colour, structure, bound, pts) where the picture is further from the reference than it should be, once
    until it has come back, and ``warning`` (kind: "script", "cue", "stalled" or "jumped", and what it is about).
    ``interrupted`` (turn_id, cut_pts, spoken_text, unspoken_text, dropped_chunks) comes in the thread that interrupts.
    """

    info: StreamInfo

    def __init__(
        self, engine: Engine, character: Character, config: SessionConfig, *, origin: Origin | None = None
    ) -> None:
        self.info = engine.info
        self.config = config
        self._engine = engine
        self._character = character
        self._events = Events()
        self._consumer = threading.Lock()
        self._live = Live(engine, character, config, origin)
        self._inputs = Inputs(self._live)
        self._outlet = Outlet(self._live)
        self._producer = Producer(engine, self._live, self._outlet)
        self._worker = None
        if config.threading == "background":
            self._worker = Worker(self._live, self._producer, self._outlet, engine.config.slots_per_session)
        self._finalizer = weakref.finalize(self, Live.close, self._live)  # the worker holds no session

    # ------------------------------------------------------------ input
    @property
    def mode(self) -> Mode:
        """Speaking while text waits or is being spoken, else what ``listen()`` or ``rest()`` asked for."""
        return self._outlet.mode

    @property
    def pending_text(self) -> str:
        """What was pushed and has not been spoken in the chunks handed out, to the word.

        Of a ``push_stream()`` that is being drawn, what was drawn.
        """
        with self._live.changed:
            return "".join(turn.after for turn in self._live.unspoken())

    def push_text(self, text: str) -> None:
        """Adds text to the open turn, or opens one. Words may be split between calls.

        Raises:
            StateError: if more than ``max_pending_text`` characters would wait; nothing is added then.
        """
        if not isinstance(text, str):
            self._live.check_open()
            raise ConfigError(f"text is {type(text).__name__}", hint="push a str")
        self._inputs.push(text)

    def push_stream(self, pieces: Iterable[str]) -> int:
        """Pushes pieces as they come, without limit on their total length.

        What does not fit into ``max_pending_text`` is held, and drawn by the thread that makes chunks as the text
        is spoken. What drops the text (an interrupt, a reset) ends the stream: no more of it is taken.

        Returns:
            How many characters were taken by now.
        """
        self._live.check_open()
        source, taken, cuts = _texts(pieces), 0, self._live.cuts
        for piece in source:
            with self._live.changed:
                if self._live.cuts != cuts:
                    break
                with self._inputs.call() as speech:
                    fits = min(len(piece), speech.room)
                if fits:
                    self.push_text(piece[:fits])
                taken += fits
                if fits < len(piece):
                    self._hold(_chain(piece[fits:], source))
                    break
        return taken

    def _recall(self, pts: int) -> None:
        """Takes back what was made from ``pts`` on, as background threading does for text that comes."""
        with self._live.changed:
            self._live.recall(pts)

    def _hold(self, source: Iterator[str]) -> None:
        """A stream that is drawn as it is spoken."""
        self._inputs.hold(source)

    def cue(self, name: str, *, strength: float = 1.0, duration: float | None = None) -> None:
        """Places a cue where the text stands now; it takes effect when speech comes there.

        Emotions of the model show in the picture. Any other name is a marker: it comes back as a ``cue`` event
        with its time.

        Args:
            strength: 0 to 1; the ``mini`` model shows an emotion from 0.5 on.
            duration: seconds until the emotion ends; None: until the next one.
        """
        self._live.check_open()
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"cue name {name!r} is empty", hint="for example " + ", ".join(self._engine.emotions()))
        strength = check_number("strength", strength, 0.0, 1.0)
        if duration is not None:
            duration = check_number("duration", duration, 0.0, 86_400.0)
        with self._inputs.call("cue", name=name, strength=strength, duration=duration) as speech:
            speech.cue(CueCall(name.strip().lower(), strength, duration))

    def flush(self) -> None:
        """No more text is coming soon: speak what is there, an unfinished word included."""
        with self._inputs.call("flush") as speech:
            speech.flush()

    def end_turn(self) -> int:
        """Ends the open turn and returns its id. Without text since the last turn, the turn is an empty one."""
        with self._inputs.call("end_turn") as speech:
            return speech.end_turn()

    def say(self, text: str) -> int:
        """``push_text`` and ``end_turn``, with nothing of other threads between them."""
        with self._live.changed:
            self.push_text(text)
            return self.end_turn()

    def listen(self) -> None:
        """While nothing is spoken: listen, with eyes on the speaker and small nods."""
        with self._inputs.call("listen"):
            self._live.rest = Mode.LISTENING

    def rest(self) -> None:
        """While nothing is spoken: idle."""
        with self._inputs.call("rest"):
            self._live.rest = Mode.IDLE

    def interrupt(self, heard_pts: int | None = None) -> Interruption:
        """Cuts the character off, now. Callable from any thread, also while a chunk is being made.

        Generation stops before the next denoising step. The character is taken back to the last chunk boundary
        that was heard; all text that waits is dropped (the receipt has it), and what is pushed next opens a new
        turn. The clock is cut as well: the next chunk begins at ``cut_pts`` and is marked as a discontinuity, and
        chunks that begin there or later, handed out or not, are void.

        No click is heard: the first ``interrupt_fade`` seconds of the next chunk are the cut sound dying away, and
        nothing more of the old speech follows. They are in the receipt too (``fade``), so that a player can drop
        its queue, play them at once, and go on with ``chunk.audio[len(fade):]``.

        Between turns nothing is being said: the texts are empty, and the rest holds. So it does for a second
        interrupt, and while paused.

        Args:
            heard_pts: the sample up to which the listener has heard; None: what ``report_playback`` said last,
                and where it was never called, the end of what was handed out.

        Raises:
            ConfigError: for a time that was not handed out, or lies further back than ``max_lead`` reaches.
        """
        receipt = interrupt(self._live, heard_pts)
        details = {
            "turn_id": receipt.turn_id, "cut_pts": receipt.cut_pts, "spoken_text": receipt.spoken_text,
            "unspoken_text": receipt.unspoken_text, "dropped_chunks": receipt.dropped_chunks,
        }  # fmt: skip
        self._events.emit("interrupted", details)
        return receipt

    def pause(self) -> None:
        """Stops generating: ``step()`` gives no chunk until ``resume()``. The clock stands still meanwhile."""
        self._outlet.pause()

    def resume(self) -> None:
        """Goes on after ``pause()``."""
        self._outlet.resume()
        self._wake()

    def reset(self, *, seed: int | None = None) -> None:
        """Drops all text and begins anew with the next chunk, which is marked as a discontinuity.

        The clock and the turns' numbers go on. With the same seed and calls, the same pictures and sound follow
        as after the session's beginning.
        """
        seed = self.config.seed if seed is None else SessionConfig(seed=seed).seed
        live = self._live
        with live.changed:
            live.check_open()
            live.go_on_with(live.streams.new(seed, first_turn=live.stream.speech.next_turn))
            live.journalled("reset", seed=seed, pts=live.clock)

    def report_playback(self, pts: int) -> None:
        """Says which sample is being played.

        From then on chunks have deadlines, an underrun is noticed, and background threading keeps to
        ``max_lead``. Report often: with every chunk at least.

        Raises:
            ConfigError: for a time that has not been handed out.
        """
        self._outlet.report_playback(pts)

    # ------------------------------------------------------------ output
    def step(self, timeout: float | None = None) -> Chunk | None:
        """The next chunk: generated in the caller's thread, or, with background threading, taken when it is ready.

        Args:
            timeout: seconds to wait in background threading; None: as long as it takes.

        Returns:
            The chunk. None while paused, or where nothing is to be said and ``idle="stop"``; in background
            threading None only where the time is up.

        Raises:
            StateError: if another thread is in ``step()``.
        """
        if timeout is not None:
            timeout = check_number("timeout", timeout, 0.0, 1e6)
        with self._consuming() as deliver:
            if self._worker is not None:
                ready, events = self._worker.take(timeout)
            else:
                ready, events = self._producer.produce(hand_out=True), []
            return deliver(ready, events)

    def _step_with(self, steps: int) -> Chunk | None:
        """One chunk with a recorded number of denoising steps; 0: the recorded try gave none."""
        with self._consuming() as deliver:
            return deliver(self._producer.produce(steps=steps or None, hand_out=True), [])

    @contextlib.contextmanager
    def _consuming(self) -> Iterator[Callable[[Ready | None, list[Event]], Chunk | None]]:
        """Keeps other consumers out; events go out at the end, with no lock held: a callback may call anything."""
        self._live.check_open()
        if not self._consumer.acquire(blocking=False):
            raise StateError("another consumer is taking a chunk", hint="one session has one consumer")
        told: list[Event] = []

        def deliver(ready: Ready | None, events: list[Event]) -> Chunk | None:
            told.extend(events)
            if ready is None:
                return None
            told.extend(ready.events)
            return ready.chunk

        try:
            yield deliver
        finally:
            self._consumer.release()
            for event, details in told:
                self._events.emit(event, details)

    def turn(self) -> Iterator[Chunk]:
        """Chunks up to the end of the current turn; none where no text was pushed.

        An open turn goes on until ``end_turn()``, with picture and silence while it has no text. An interrupt
        ends the turn.
        """
        cuts = self._live.cuts
        while self._outlet.has_turn and self._live.cuts == cuts:
            chunk = self._next()
            if chunk is None:
                return
            yield chunk
            if chunk.end_of_turn:
                return

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until the session is closed, those between turns included; ends where ``step()`` gives None."""
        while (chunk := self._next()) is not None:
            yield chunk

    def _next(self) -> Chunk | None:
        """A step; None if the session is closed before or meanwhile."""
        try:
            return self.step()
        except SessionClosedError:
            return None

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The same for ``async for``. In manual threading a chunk is generated in a thread of the loop's pool; in
        background threading the session's own thread tells the loop when a chunk is ready.
        """
        while True:
            try:
                chunk = await (asyncio.to_thread(self.step) if self._worker is None else self._await_chunk())
            except SessionClosedError:
                return
            if chunk is None:
                return
            yield chunk

    async def _await_chunk(self) -> Chunk:
        loop, come, waited = asyncio.get_running_loop(), asyncio.Event(), False

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(come.set)

        forget = self._worker.on_chunk(wake)
        try:
            with self._consuming() as deliver:
                while True:
                    come.clear()
                    ready, events = self._worker.take(0.0, waited=waited)
                    for event, details in events:  # an underrun is told while it lasts
                        self._events.emit(event, details)
                    chunk, waited = deliver(ready, []), True
                    if chunk is not None:
                        return chunk
                    await come.wait()
        finally:
            forget()

    def is_valid(self, chunk: Chunk) -> bool:
        """Whether a chunk that was handed out is to be played: False if an interrupt has cut all of it away."""
        with self._live.changed:
            return self._live.is_valid(chunk)

    def wait_while_valid(self, chunk: Chunk, seconds: float) -> bool:
        """Waits; no longer than the chunk is valid and the session open. Returns whether the time has passed so."""
        live = self._live
        with live.changed:
            return not live.changed.wait_for(
                lambda: live.closed or not live.is_valid(chunk), check_number("seconds", seconds, 0.0, 1e6)
            )

    # ------------------------------------------------------------ state
    def snapshot(self, *, memory: Literal["host", "cuda"] = "host") -> Snapshot:
        """The stream as it is between two chunks, waiting text included. Waits for a chunk that is being made.

        In background threading it is the stream behind the newest chunk that is ready.

        Raises:
            StateError: while a long ``push_stream()`` is being drawn.
        """
        self._live.check_open()
        if memory != "host":
            raise UnsupportedError(f"memory={memory!r} needs a CUDA engine", hint='use memory="host"')
        with self._live.settled() as stream:
            stream = stream.clone()
        self._make_ready(stream)
        return Snapshot(
            stream, self._engine.session_bytes, self._engine, self._character, self.config, self._live.rest
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of a session with the same character. The clock goes on.

        The next chunk is marked as a discontinuity. The snapshot stays valid.

        Raises:
            SnapshotError: where it is of another model, character or version.
        """
        live = self._live
        live.check_open()
        if not isinstance(snapshot, Snapshot):
            raise ConfigError(f"{type(snapshot).__name__} is not a snapshot", hint="take one with snapshot()")
        with self._engine.computing():
            stream = snapshot.open(
                self._engine, self._character, lambda: live.streams.new(self.config.seed, first_turn=1)
            )
        with live.changed:
            live.check_open()
            live.adopt(stream, live.stream.speech.next_turn)
            live.go_on_with(stream)
            live.rest = snapshot.mode
            live.journalled("restore")
        machine.return_free_memory()  # the stream that was left, and what was needed to read the snapshot

    def fork(self, *, seed: int | None = None) -> Session:
        """A second session that goes on from here on its own, with the same clock."""
        seed = None if seed is None else SessionConfig(seed=seed).seed
        engine, character, config = self._engine, self._character, dataclasses.replace(self.config, record=None)
        with self._live.settled() as stream:
            origin = self._live.origin(stream.clone())
        self._make_ready(origin.stream)
        if seed is not None:
            origin.stream.state.seed = seed
        return engine.admit(lambda: Session(engine, character, config, origin=origin))

    def _make_ready(self, stream: Stream) -> None:
        with self._engine.computing():
            stream.ready()

    # ------------------------------------------------------------ telemetry
    def stats(self) -> Mapping[str, float | int]:
        """Counters and times since the session began.

        ``interrupt_stop_ms``, ``interrupt_quiet_ms`` and ``interrupt_turnaround_ms`` are of the last interrupt, and
        with ``_worst_`` of the worst: from the call until nothing more is computed; old sound after the cut; from
        the call, or the first text after it, until the first chunk that speaks is handed out. ``reduced_chunks``
        had fewer denoising steps than configured.
        """
        return self._outlet.summary()

    def on_event(self, callback: Callback) -> Callable[[], None]:
        """Calls ``callback(name, details)`` on every event; returns the function that ends this."""
        self._live.check_open()
        return self._events.subscribe(callback)

    def close(self) -> None:
        """Gives the session's memory back; a chunk that is being made is given up. Any thread may close.

        Calling it twice is harmless. Who waits for a chunk gets a ``SessionClosedError``; iterators end.
        """
        if self._live.close():
            self._engine.forget(self)
            self._wake()
            if self._worker is not None:
                self._worker.join()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._live.closed else self.mode.value
        return f"<Session {self._character.name!r} {state} chunks={self._live.index}>"


def _texts(pieces: Iterable[str]) -> Iterator[str]:
    if isinstance(pieces, str):
        pieces = (pieces,)
    for piece in pieces:
        if not isinstance(piece, str):
            raise ConfigError(f"a text stream gave {type(piece).__name__}", hint="push_stream() takes strings")
        yield piece


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
