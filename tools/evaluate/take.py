"""One performance under all judges at once, chunk by chunk, so that no more than a chunk of pictures is held.

A take is the product's (``perform_text``) or the truth: the studio's drawing of flite's own phones under flite's
voice (``true_take``). Both go through the same judges in the same pieces.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from streamchar_rt import pipeline
from streamchar_rt.chunk import Chunk
from streamchar_rt.denoiser.context import SINK
from streamchar_rt.drift import Drift, Look, drift_between, look_at
from streamchar_rt.planner import Plan
from streamchar_rt.resync import steady_lengths, steady_path
from tools.evaluate.lip_sync import FPS, AlignedEngine, Segment, segments_of
from tools.evaluate.mouth_reader import MouthReader, load_reader
from tools.evaluate.phone_judge import PhoneJudge, load_judge
from tools.evaluate.picture_distance import PictureFeatures
from tools.evaluate.similarity import stranger_distance
from tools.evaluate.sync_expert import SyncExpert, load_expert
from tools.evaluate.video_distance import WIDTH as VIDEO_WIDTH, VideoFeatures
from tools.studio.cast import CAST

RATE = 16_000
CHUNK_FRAMES = 16
LATENT_FRAMES = 4
FEATURE_EVERY = 8  # frames; one of so many is kept as numbers
POINTERS = ("model", "paced")
JUDGES = 2  # counts up where what is kept of a take changes: results of other judges are not mixed


class TakeWord(NamedTuple):
    text: str
    offset: int  # in the text
    begin: float  # seconds
    end: float


@dataclass
class Judges:
    """What looks at every frame and hears every sample; made once."""

    reader: MouthReader = field(default_factory=load_reader)
    phones: PhoneJudge = field(default_factory=load_judge)
    expert: SyncExpert = field(default_factory=load_expert)
    features: PictureFeatures = field(default_factory=PictureFeatures)
    video: VideoFeatures | None = None  # not asked by every protocol


@dataclass
class Take:
    """What the judges saw.

    Attributes:
        opening: float32 (T,), of the mouth, read from the pictures.
        jumps: float32 (T,), mean absolute change from the frame before, in 1/255 over grey; the first is 0.
        drifts: one a chunk.
        features: float32 (T / 8, 64), see ``picture_distance``.
        video_features: float32 (T // 16, 64), see ``video_distance``; empty unless the judges have it.
        seen: float32 (T, 48), what the sync expert needs of the pictures.
        stills: (second, picture) of one frame in ``still_every``; none where that is 0.
    """

    judges: Judges
    look: Look
    still_every: int = 0  # frames
    samples: list[np.ndarray] = field(default_factory=list)
    openings: list[np.ndarray] = field(default_factory=list)
    all_jumps: list[np.ndarray] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    all_features: list[np.ndarray] = field(default_factory=list)
    all_video_features: list[np.ndarray] = field(default_factory=list)
    all_seen: list[np.ndarray] = field(default_factory=list)
    stills: list[tuple[float, np.ndarray]] = field(default_factory=list)
    words: list[TakeWord] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    real_time_factors: list[float] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _before: np.ndarray | None = None

    def see(self, frames: np.ndarray, drift: Drift | None = None) -> None:
        """A chunk of pictures, uint8 (T, 256, 256, 4) straight alpha."""
        first = self.frames
        self.openings.append(self.judges.reader.read(frames))
        self.drifts.append(drift or drift_between(look_at(frames), self.look))
        self.all_features.append(self.judges.features(frames[-first % FEATURE_EVERY:: FEATURE_EVERY]))
        if self.judges.video is not None:
            self.all_video_features.append(self.judges.video(frames))
        self.all_seen.append(self.judges.expert.see(frames))
        seen = _over_grey(frames)
        before = np.concatenate([seen[:1] if self._before is None else self._before, seen[:-1]])
        self.all_jumps.append(np.abs(seen - before).mean((1, 2, 3)))
        self._before = seen[-1:]
        if self.still_every:
            self.stills += [((first + i) / FPS, frames[i].copy())
                            for i in range(-first % self.still_every, len(frames), self.still_every)]

    @property
    def frames(self) -> int:
        return sum(map(len, self.openings))

    @property
    def audio(self) -> np.ndarray:
        return np.concatenate(self.samples)

    @property
    def opening(self) -> np.ndarray:
        return np.concatenate(self.openings)

    @property
    def jumps(self) -> np.ndarray:
        return np.concatenate(self.all_jumps)

    @property
    def features(self) -> np.ndarray:
        return np.concatenate(self.all_features)

    @property
    def video_features(self) -> np.ndarray:
        return np.concatenate(self.all_video_features or [np.zeros((0, VIDEO_WIDTH), np.float32)])

    @property
    def seen(self) -> np.ndarray:
        return np.concatenate(self.all_seen)

    @property
    def said(self) -> list[str]:
        """The phones of ``segments``."""
        return [segment[0] for segment in self.segments if segment[0] != "pau"]


def _over_grey(frames: np.ndarray) -> np.ndarray:
    """Every second pixel of every second row over mid grey, float32 (T, H / 2, W / 2, 3) in 0..255."""
    part = frames[:, ::2, ::2].astype(np.float32)
    return part[..., :3] * (part[..., 3:] / 255) + 128 * (1 - part[..., 3:] / 255)


# ------------------------------------------------------------------ the product
class PacedPlan(Plan):
    """The pointer left out: the text goes on at a fixed pace, whatever the sound says."""

    def follow(self, logits: Any) -> Any:
        at, spent = self.state.models.orchestrator.config.window_before, self.state.elapsed + 1
        path = steady_path(steady_lengths(self.rows[:, 0]), self.blocked, at, spent, len(logits))
        forced = logits.new_full(logits.shape, -50.0)
        forced[range(len(forced)), path] = 50.0
        return super().follow(forced)


class AblatedEngine(AlignedEngine):
    """The product's engine, for ``variant`` to change."""

    _most_sinks = 1

    def add_sinks(self, count: int) -> None:
        """Sessions opened from now on have room for ``count`` sink chunks, all at the sink's distance."""
        for i in range(self._most_sinks, count):
            self.models.denoiser.add_segment(_sink(i), self.models.denoiser.layout.sink_distance)
        self._most_sinks = max(self._most_sinks, count)


def _sink(chunk: int) -> str:
    return SINK if chunk == 0 else f"{SINK} {chunk + 1}"


@contextmanager
def variant(engine: AblatedEngine, sinks: int, pointer: str) -> Iterator[None]:
    """Keeps the first ``sinks`` chunks of a stream in its context (the product: one); ``pointer`` "paced": without pointer."""
    engine.add_sinks(sinks)

    def remember(models: Any, runs: Sequence[Any]) -> None:
        as_shipped(models, runs)
        for run in runs:
            chunk = run.state.chunk_index
            if chunk == 0 and sinks == 0:
                run.state.cache.clear(SINK)
            elif 0 < chunk < sinks:
                models.denoiser.write_chunks(_sink(chunk), [run.state.cache], [run.video], [run.audio])

    as_shipped = pipeline._remember
    with patch.object(pipeline, "_remember", remember), \
            patch.object(pipeline, "Plan", PacedPlan if pointer == "paced" else Plan):
        yield


def played_characters(engine: AblatedEngine) -> tuple[list[str], float]:
    """The shipped characters that the studio can draw, and ``stranger_distance`` between them."""
    names = [name for name in engine.characters() if name in CAST]
    if len(names) < 2:
        raise SystemExit("the bundle lacks the studio's characters (tools/studio/cast.py), so there is no truth")
    return names, stranger_distance([engine.character(name).look for name in names])


def perform_text(engine: AblatedEngine, judges: Judges, name: str, text: str, *, seed: int,
                 seconds: float | None = None, still_every: int = 0, steps: int | None = None,
                 each: Callable[[Chunk], None] = lambda chunk: None) -> Take:
    """The product says a text as one turn, to its end or for ``seconds``; ``each`` is called with every chunk.

    ``steps``: of denoising; None: the bundle's.
    """
    character = engine.character(name)
    take = Take(judges, character.look, still_every)
    engine.spoken.clear()
    with engine.session(character, seed=seed, steps=steps, max_pending_text=len(text) + 1) as session:
        session.on_event(lambda event, details: take.events.append((event, dict(details))))
        session.say(text)
        for chunk in session.turn():
            take.samples.append(chunk.audio)
            take.see(chunk.video, chunk.drift)
            take.words += [TakeWord(w.text, w.text_offset, w.begin_pts / RATE, w.end_pts / RATE) for w in chunk.words]
            take.real_time_factors.append(chunk.timings.real_time_factor)
            each(chunk)
            if seconds is not None and chunk.pts / RATE + 2 * chunk.duration > seconds:
                break
    step = engine.info.chunk_samples / RATE / (2 * engine.info.chunk_frames)
    take.segments = segments_of(engine.spoken, engine.audio_lead * step, step)
    return take


# ------------------------------------------------------------------ the truth
def true_take(judges: Judges, identity: int, voice: str, text: str, *, seed: int, seconds: float | None = None,
              still_every: int = 0) -> Take:
    """flite says the text in its own voice, and the studio draws it; cut off at ``seconds``."""
    from tools.studio.behaviour import perform
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import REST
    from tools.studio.speech import synthesize

    speech = synthesize(text, voice)
    samples = speech.samples.astype(np.float32) / 32768
    length = len(samples) if seconds is None else min(len(samples), round(seconds * RATE))
    count = length * FPS // RATE
    renderer = Renderer(Identity.from_seed(identity))
    take = Take(judges, look_at(renderer.draw(REST)[None]), still_every)
    take.samples.append(samples[:length])
    take.segments = [(p.name, p.begin, p.end, p.stress) for p in speech.phones if p.begin < count / FPS]
    track = perform(take.segments, count, seed=seed)
    for i in range(0, count, CHUNK_FRAMES):
        take.see(np.stack([renderer.draw(pose) for pose in track[i: i + CHUNK_FRAMES]]))
    spans: dict[int, tuple[float, float]] = {}
    for phone in speech.phones:
        if phone.word_index >= 0:
            begin, _ = spans.get(phone.word_index, (phone.begin, 0.0))
            spans[phone.word_index] = begin, phone.end
    take.words = [TakeWord(speech.words[i], i, *span) for i, span in sorted(spans.items()) if span[0] < length / RATE]
    return take


def another_performance(judges: Judges, identity: int, segments: list[Segment], frames: int,
                        seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of pictures and of clips, as a take has them, of the truth acted once more: how far truth is from truth."""
    from tools.studio.behaviour import perform
    from tools.studio.character import Identity, Renderer

    renderer = Renderer(Identity.from_seed(identity))
    drawn = np.stack([renderer.draw(pose) for pose in perform(segments, frames, seed=seed)])
    return judges.features(drawn[::FEATURE_EVERY]), judges.video(drawn)
