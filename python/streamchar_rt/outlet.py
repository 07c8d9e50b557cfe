"""What goes out of a session: chunks to its one consumer, where playback stands, and what has been said by then."""
from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from .config import Mode
from .errors import ConfigError
from .jobs import Ready
from .live import Live


class Outlet:
    """Hands chunks out and follows their playback. Any thread may call."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def hand_out(self, ready: Ready) -> None:
        """Counts a chunk as given to the consumer. The lock is held."""
        live, chunk = self._live, ready.chunk
        live.handed = chunk.pts + live.info.chunk_samples
        live.furthest = max(live.furthest, live.handed)
        live.handed_index = chunk.index + 1
        late = live.playback.handed(chunk.pts, time.monotonic())
        if live.background:
            live.counters.underrun_ms += late * 1e3
        turnaround = live.turnaround.spoken(time.perf_counter()) if chunk.mode is Mode.SPEAKING else None
        if turnaround is not None:
            live.counters.latency("turnaround", turnaround * 1e3)
        live.counters.add(
            chunk.timings, words=len(chunk.words), turn_ends=chunk.end_of_turn, full_steps=live.steps,
            drift=chunk.drift,
        )  # fmt: skip

    def starves(self) -> float | None:
        """Seconds for which the player has had nothing to play though it should; told once. The lock is held."""
        live = self._live
        return None if live.paused else live.playback.starves(live.handed, time.monotonic())

    # ------------------------------------------------------------ what is said
    @property
    def has_turn(self) -> bool:
        """Whether a turn is open, waits, is being spoken, or ends in a chunk that was not handed out."""
        with self._live.changed:
            return bool(self._live.unspoken())

    @property
    def mode(self) -> Mode:
        live = self._live
        with live.changed:
            stream = live.stream
            speaks = stream.state is not None and stream.speech.speaking(stream.state)
            speaks = speaks or any(ready.chunk.mode is Mode.SPEAKING for ready in live.ring)
            return Mode.SPEAKING if speaks or any(turn.after.strip() for turn in live.unspoken()) else live.rest

    # ------------------------------------------------------------ playback
    def report_playback(self, pts: int) -> None:
        live = self._live
        with live.changed:
            live.check_open()
            # A report that was on its way while the stream was cut tells of what was heard before.
            if isinstance(pts, bool) or not isinstance(pts, (int, np.integer)) or not 0 <= pts <= live.furthest:
                raise ConfigError(f"playback cannot be at {pts!r}", hint=f"a sample number from 0 to {live.furthest}")
            live.playback.report(min(int(pts), live.handed), time.monotonic(), live.handed)
            live.forget()
            live.changed.notify_all()

    def pause(self) -> None:
        live = self._live
        with live.changed:
            live.check_open()
            live.paused = True
            live.playback.halt()

    def resume(self) -> None:
        live = self._live
        with live.changed:
            live.check_open()
            live.paused = False
            live.touch()

    def summary(self) -> Mapping[str, float | int]:
        live = self._live
        with live.changed:
            return {
                **live.counters.summary(live.info.chunk_seconds),
                "seconds_generated": live.clock / live.info.sample_rate,
                "lead_seconds": live.lead,
                "pending_characters": sum(len(turn.after) for turn in live.unspoken()),
            }
