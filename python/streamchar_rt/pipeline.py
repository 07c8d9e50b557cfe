"""One chunk of one stream: orchestrate, denoise, decode. The hot path is ``generate_chunks``."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from . import ops
from .codecs import mel as mel_codec
from .codecs.video import FRAMES
from .codecs.vocoder import VocoderState
from .denoiser import noise as random
from .denoiser.context import MOTION, SINK
from .denoiser.dit import Style as StyleTensors
from .denoiser.sampler import followed
from .large_memory import empty
from .model_state import StreamState
from .models import CharacterFeatures, Models, Style, encode_character
from .planner import Plan, align, read

__all__ = ["CharacterFeatures", "Models", "RawChunk", "StreamState", "Style", "encode_character", "generate_chunk",
           "generate_chunks"]


@dataclass
class RawChunk:
    """A finished chunk before words, captions and formats."""
    audio: np.ndarray                  # float32 (chunk_samples,)
    video: np.ndarray                  # uint8 (chunk_frames, H, W, 4) straight alpha
    places: np.ndarray                 # int64 (half-frames,): the unit of each half-frame of the mel
    elapsed: np.ndarray                # int64 (half-frames,): half-frames since that unit began
    confidence: float                  # mean probability of the chosen alignment
    timings: dict[str, float] = field(default_factory=dict)      # ms
    ahead: Sequence[int] = ()          # places of half-frames planned behind the chunk; the next one may change them
    astray: str | None = None          # how the pointer had left the speech, and the chunk went on steadily: see ``resync``


class _Stopped(Exception):
    """Ends a latent's decoding."""


class _Run:
    """One stream's chunk under way."""

    def __init__(self, models: Models, state: StreamState, style: Style, should_stop: Callable[[], bool] | None):
        self.models, self.state, self.plan = models, state, Plan(state, style)
        self.style = StyleTensors(*(torch.tensor([index]) for index in (style.voice, style.emotion, style.mode)))
        self.stopped = should_stop or (lambda: False)
        self.before: tuple[torch.Tensor | None, torch.Tensor | None] = None, None    # the last step's velocities
        self.plan.look()

    def draw_noise(self) -> None:
        layout, config = self.models.denoiser.layout, self.models.denoiser.dit.config
        draw = lambda shape, stream: random.noise(
            shape, seed=self.state.seed, chunk=self.state.chunk_index, step=0, stream=stream)
        self.video = draw((1, layout.video_tokens, config.video_features), random.VIDEO)
        self.audio = draw((1, layout.audio_tokens, config.audio_features), random.AUDIO)

    @property
    def mel(self) -> torch.Tensor:
        return self.audio.reshape(1, -1, self.models.orchestrator.config.mel_bins)


def generate_chunk(models: Models, state: StreamState, style: Style, *, steps: int | None = None,
                   should_stop: Callable[[], bool] | None = None) -> RawChunk | None:
    """``generate_chunks`` for one stream."""
    return generate_chunks(models, [state], [style], steps=steps, should_stop=[should_stop])[0]


@torch.inference_mode()
def generate_chunks(models: Models, states: Sequence[StreamState], styles: Sequence[Style], *, steps: int | None = None,
                    should_stop: Sequence[Callable[[], bool] | None] | None = None,
                    finish: Callable[[int, RawChunk | None], Any] = lambda i, raw: raw) -> list[Any]:
    """Generate the next chunk of several streams together and advance their states.

    Each of the models' lanes takes a share of the streams; a stream alone has them all for its pictures. A stream's
    ``should_stop`` is asked, by any lane, before every denoising step and several times in a latent's decoding; if it
    says so, that stream's chunk is None and its state is as it was. ``finish`` makes stream i's result of its chunk,
    in whatever lane that was made. Deterministic: a result depends on its state,
    its style and the number of steps only, not on the company (see ``batching``) nor on the lanes. Timings are of the
    share.
    """
    steps = steps or models.default_steps
    runs = [_Run(models, *one) for one in zip(states, styles, should_stop or [None] * len(states), strict=True)]
    if models.chain is not None:
        return [finish(i, _generate_resident(models, run, steps)) for i, run in enumerate(runs)]
    lanes = min(models.lanes.count, len(runs))
    if lanes == 1:
        return [finish(i, raw) for i, raw in enumerate(_generate(models, runs, steps))]

    def lane(first: int) -> list[Any]:
        some = range(first, len(runs), lanes)
        with ops.threads(1):                           # the cores are busy with a lane each
            return [finish(i, raw) for i, raw in zip(some, _generate(models, runs[first::lanes], steps))]

    done = models.lanes.map(lane, range(lanes))
    return [done[i % lanes][i // lanes] for i in range(len(runs))]


def _generate_resident(models: Models, run: _Run, steps: int) -> RawChunk | None:
    """A stream's chunk, whole on the models' device."""
    timings = models.chain.run(run, steps)
    if timings is None:
        return None
    models.chain.remember(run)
    return _advance(models, run, timings)


def _generate(models: Models, every: Sequence[_Run], steps: int) -> list[RawChunk | None]:
    """The chunks of a company that shares a lane, or of one stream with all lanes for itself."""
    clock, runs = _Clock(), every
    for run in runs:
        run.draw_noise()
    for run, states_read in zip(runs, models.batching.run("language", partial(read, models), [r.plan for r in runs])):
        run.plan.states = states_read
    clock.mark("orchestrator")
    for i in range(steps):                             # from noise (t = 0) to data (t = 1)
        runs = [run for run in runs if not run.stopped()]
        if runs:
            _denoise(models, runs, i, steps, clock)
    runs = [run for run in runs if not run.stopped()]
    for run in runs:
        run.samples, run.vocoder, run.audio_rest = _decode_audio(models, run.state, run.mel)
    clock.mark("audio_decode")
    for run in runs:
        run.frames, run.last_latent = _decode_video(
            models, run.state, models.denoiser.unpatchify(run.video), run.plan.moves, run.stopped)
    clock.mark("video_decode")
    runs = [run for run in runs if run.frames is not None and not run.stopped()]
    _remember(models, runs)
    clock.mark("context")
    timings = clock.result()
    return [_advance(models, run, timings) if run in runs else None for run in every]


def _denoise(models: Models, runs: Sequence[_Run], step: int, steps: int, clock: "_Clock") -> None:
    """One step of every run's flow."""
    t = step / steps
    if step < models.plans:
        align_all = lambda some: align(models, [run.plan.states for run in some], [run.mel for run in some], t)
        for run, logits in zip(runs, models.batching.run("alignment", align_all, runs)):
            run.conditions = run.plan.follow(logits)
        clock.mark("orchestrator")
        if all([run.stopped() for run in runs]):
            return                                     # the next look ends them
    velocity = lambda some: models.denoiser.velocities(*_columns((
        (run.state.cache, run.video, run.audio, run.style, *run.conditions) for run in some)), t)
    sampler = models.sampler
    for run, (v, a) in zip(runs, models.batching.run("denoiser", velocity, runs)):
        run.video = followed(run.video, v, run.before[0], sampler.picture, 1 / steps)
        run.audio = followed(run.audio, a, run.before[1], sampler.sound, 1 / steps)
        run.before = v, a
    clock.mark("denoise")


def _remember(models: Models, runs: Sequence[_Run]) -> None:
    """Write the finished chunks into the context of the next ones."""
    groups = [runs] if models.batching.exact.get(("denoiser", len(runs))) else [[run] for run in runs]
    for segment, of_these in ((MOTION, lambda run: True), (SINK, lambda run: run.state.chunk_index == 0)):
        for group in groups:
            some = [run for run in group if of_these(run)]
            if some:
                columns = _columns((run.state.cache, run.video, run.audio) for run in some)
                models.denoiser.write_chunks(segment, *columns)


def _advance(models: Models, run: _Run, timings: dict[str, float]) -> RawChunk:
    """Move the state behind the chunk."""
    state, plan, slots = run.state, run.plan, models.orchestrator.config.slots
    path, elapsed = plan.path[:slots], plan.elapsed[:slots]
    state.vocoder, state.audio_rest = run.vocoder, run.audio_rest
    state.history = torch.cat([state.history, run.mel[0]])[-len(state.history):]
    state.past = plan.half_frames[slots: slots + len(state.past)]
    state.elapsed = int(elapsed[-1])
    if plan.moves is not None:
        state.eyes = list(plan.eyes_after)
    state.previous_latent = run.last_latent
    state.come_to(plan.first + int(path[-1]), int((path == path[-1]).sum()))
    state.units.forget_before(state.pointer - 2 * models.orchestrator.config.window_before)
    state.chunk_index += 1
    return RawChunk(run.samples, run.frames, plan.first + path, elapsed, plan.confidence, dict(timings),
                    plan.first + plan.path[slots:], plan.astray)


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows)]


def _decode_audio(models: Models, state: StreamState, mel: torch.Tensor) -> tuple[np.ndarray, VocoderState, torch.Tensor]:
    """The chunk's samples, and the vocoder's state and the samples left over after it."""
    samples, vocoder = models.vocoder.stream(mel_codec.denormalize(mel), state.vocoder)
    samples = torch.cat([state.audio_rest, samples[0]])
    rest = samples[models.chunk_samples:]
    return samples[: models.chunk_samples].clamp(-1.0, 1.0).numpy().copy(), vocoder, rest


def _decode_video(models: Models, state: StreamState, latents: torch.Tensor, moves: np.ndarray | None,
                  stopped: Callable[[], bool]) -> tuple[np.ndarray | None, torch.Tensor]:
    """The chunk's pictures, latent by latent, so that it can be stopped as soon as a denoising step can; and the
    last latent as it was drawn, (1, C, h, w) in the decoder's scale."""
    told, which = None, ()
    if moves is not None:
        latent_moves, which = models.blinks(moves)
        told = torch.from_numpy(latent_moves)
    drawn = models.drawn_latents(latents, state.previous_latent, told, state.character.features[-1])
    before = drawn[0] if state.previous_latent is None else state.previous_latent
    both = [before, *drawn]
    frames = empty(len(drawn), FRAMES, models.height, models.width, 4)

    def go_on() -> None:
        if stopped():
            raise _Stopped

    def decode(i: int) -> bool:
        try:
            go_on()
            with ops.threads(1) if alone else nullcontext():
                models.draw(both[i], both[i - 1], state.character, go_on, which=which[FRAMES * (i - 1): FRAMES * i],
                            out=frames[i - 1])
            return True
        except _Stopped:
            return False

    # Where each core has a lane, kernels have no use for threads of their own.
    alone = models.packed_decoder is not None and models.lanes.count > 1
    done = models.lanes.map(decode, range(1, len(both)))
    if not all(done):
        return None, drawn[-1]
    return frames.flatten(0, 1)[models.denoiser.layout.unseen:].numpy(), drawn[-1]


class _Clock:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.stages = dict.fromkeys(("orchestrator", "context", "denoise", "audio_decode", "video_decode"), 0.0)

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] += (now - self.last) * 1e3
        self.last = now

    def result(self) -> dict[str, float]:
        return {**self.stages, "total": (self.last - self.begin) * 1e3}
