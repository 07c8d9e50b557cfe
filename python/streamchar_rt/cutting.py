"""Interrupts of a session: see ``Session.interrupt``."""
from __future__ import annotations

import threading
import time

import numpy as np

from .chunk import Interruption
from .errors import ConfigError
from .heard import TurnText
from .live import Live


def interrupt(live: Live, heard_pts: int | None) -> Interruption:
    """Cuts the stream at ``heard_pts``, and waits for the step that another thread is computing to stop."""
    begin = time.perf_counter()
    length = min(round(live.config.interrupt_fade * live.info.sample_rate), live.info.chunk_samples)
    with live.changed:
        live.check_open()
        cut = _cut_pts(live, heard_pts)
        turns = live.stream.speech.unheard(cut - live.offset)
        turn = turns[0] if turns else TurnText(live.stream.speech.turn_id, "", "")
        dropped = live.history.chunks_from(cut)
        fade = live.history.fade(cut, length)
        if live.journal is not None:
            live.journal.end(None)
            live.journal.call("interrupt", heard_pts=cut)
        stopped = live.job
        live.cut(live.stream.cut(live.history.mark_at(cut), turn.turn_id, fade), cut)
        live.counters.interrupts += 1
        live.counters.dropped += dropped
        live.turnaround.begin(begin)
        if stopped is not None and stopped.thread != threading.get_ident():
            live.changed.wait_for(lambda: not stopped.computing)
        stop_ms = (time.perf_counter() - begin) * 1e3
        live.counters.latency("stop", stop_ms)
        live.counters.latency("quiet", length / live.info.sample_rate * 1e3)
    return Interruption(
        turn_id=turn.turn_id, cut_pts=cut, spoken_text=turn.before, unspoken_text=turn.after,
        dropped_chunks=dropped, stop_latency_ms=stop_ms, fade=fade.samples(),
        dropped_turns=tuple((other.turn_id, other.after) for other in turns[1:]),
    )  # fmt: skip


def _cut_pts(live: Live, heard: int | None) -> int:
    oldest = live.history.oldest_pts
    if heard is None:
        return max(live.playback.pts, oldest) if live.playback.reported else live.handed
    if isinstance(heard, bool) or not isinstance(heard, (int, np.integer)) or not oldest <= heard <= live.handed:
        raise ConfigError(
            f"heard_pts={heard!r} cannot be cut at", hint=f"a sample number from {oldest} to {live.handed}"
        )
    return int(heard)
