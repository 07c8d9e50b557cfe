"""From what the model gave to a chunk: words, visemes, events, times."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .chunk import Chunk, StageTimings
from .config import Mode
from .drift import BOUND, Drift, drift_between, look_at, passes
from .pixels import convert
from .resync import JUMPED, STALLED

if TYPE_CHECKING:
    from .character import Character
    from .engine import Engine
    from .pipeline import RawChunk
    from .jobs import Event, Job
    from .live import Live
    from .stream import Stream

_STAGES = ("orchestrator", "context", "denoise", "audio_decode", "video_decode")
_HALF_FRAMES = 2  # a video frame; the pointer's resolution
_STUCK_CHUNKS = 4  # chunks without progress after which an event says so


def finish_chunk(live: Live, job: Job, raw: RawChunk) -> tuple[Chunk, list[Event]]:
    """The chunk, and what happens in it. Moves the stream's clock on."""
    stream, info, offset = job.stream, live.info, live.offset
    before = stream.timeline.place
    plan = stream.timeline.advance(stream.pts, raw.places, stream.speech.unit_at, raw.ahead)
    arrival = stream.speech.arrived(stream.pts, before, stream.timeline.place, plan.reached)
    events: list[Event] = []
    stalled = _stalled_seconds(stream, bool(plan.reached), info.chunk_seconds)
    if stalled:
        events.append(("warning", {"kind": STALLED, "turn_id": arrival.turn_id, "seconds": stalled}))
    if raw.astray == JUMPED:
        events.append(("warning", {"kind": JUMPED, "turn_id": arrival.turn_id, "pts": live.clock}))
    stream.state.stalled = bool(stalled) or raw.astray == STALLED
    audio = raw.audio
    if stream.fade is not None:
        lead = len(stream.timeline.carry) * info.chunk_samples // (info.chunk_frames * _HALF_FRAMES)
        audio = stream.fade.begin(audio, lead, info.sample_rate)
    stream.last_frame = raw.video[-1]
    drift = drift_between(look_at(raw.video), live.character.look)
    if _starts_to_drift(stream, drift):
        events.append(("drift", {**dataclasses.asdict(drift), "bound": BOUND, "pts": live.clock}))
    if stream.drifting and not stream.anchored and job.mode is not Mode.SPEAKING:  # where a jump is least seen
        stream.state.reanchor()
    stream.anchored = stream.drifting and (stream.anchored or job.mode is not Mode.SPEAKING)
    shift = _shifter(offset)
    chunk = Chunk(
        turn_id=arrival.turn_id,
        index=live.index,
        pts=live.clock,
        duration=info.chunk_seconds,
        audio=audio,
        video=convert(raw.video, live.config.pixel_format),
        words=tuple(map(shift, plan.words)),
        visemes=tuple(map(shift, plan.visemes)),
        mode=job.mode,
        end_of_turn=arrival.ended is not None,
        discontinuity=stream.discontinuity,
        timings=_timings(live, raw.timings, job),
        drift=drift,
    )
    stream.pts += info.chunk_samples
    if arrival.started is not None:
        events.append(("turn_started", {"turn_id": arrival.turn_id, "pts": arrival.started + offset}))
    for cue, turn_id, pts in arrival.cues:
        details = {"name": cue.name, "strength": cue.strength, "duration": cue.duration, "turn_id": turn_id}
        events.append(("cue", {**details, "text_offset": cue.text_offset, "pts": pts + offset}))
    if arrival.ended is not None:
        events.append(("turn_ended", {"turn_id": arrival.turn_id, "pts": arrival.ended + offset}))
    return chunk, events


def held_chunk(engine: Engine, character: Character, stream: Stream) -> RawChunk:
    """The last picture, and silence: nothing is computed, and the model's state does not move."""
    info = engine.info
    frame = character.picture if stream.last_frame is None else stream.last_frame
    half_frames = info.chunk_frames * _HALF_FRAMES
    return engine.pipeline.RawChunk(
        audio=np.zeros(info.chunk_samples, np.float32),
        video=np.repeat(frame[None], info.chunk_frames, 0),
        places=np.full(half_frames, stream.state.pointer),
        elapsed=np.zeros(half_frames, np.int64),
        confidence=1.0,
    )


def _timings(live: Live, stages: Mapping[str, float], job: Job) -> StageTimings:
    total_ms = (time.perf_counter() - job.begin) * 1e3
    return StageTimings(
        *(stages.get(name, 0.0) for name in _STAGES),
        total_ms=total_ms,
        real_time_factor=total_ms / 1e3 / live.info.chunk_seconds,
        denoise_steps=job.steps if stages else 0,
        deadline_slack_ms=_slack_ms(live, total_ms),
    )


def _slack_ms(live: Live, total_ms: float) -> float:
    """Time left until the chunk under way is played; where nothing is known of playback, of its own length."""
    if live.playback.running:
        return (live.playback.due(live.clock) - time.monotonic()) * 1e3
    return live.info.chunk_seconds * 1e3 - total_ms


def _stalled_seconds(stream: Stream, moved: bool, chunk_seconds: float) -> float:
    """Seconds for which the pointer has stood still though units lie ahead of it; said once, else 0."""
    state = stream.state
    waits = state.pointer in state.holds or not stream.speech.speaking(state)  # a told pause, or for text
    stream.stuck = 0 if moved or waits else stream.stuck + 1
    return stream.stuck * chunk_seconds if stream.stuck == _STUCK_CHUNKS else 0.0


def _starts_to_drift(stream: Stream, drift: Drift) -> bool:
    """Whether the picture passes the bound; said once until it has come back."""
    before, stream.drifting = stream.drifting, passes(drift, stream.drifting)
    return stream.drifting and not before


def _shifter(offset: int) -> Callable[[Any], Any]:
    """Moves words and visemes from the stream's clock to the session's."""

    def shift(item: Any) -> Any:
        return dataclasses.replace(item, begin_pts=item.begin_pts + offset, end_pts=item.end_pts + offset)

    return shift if offset else lambda item: item
