"""A chunk whose every stage runs on one device, from the language model to the pixels: what a GPU does.

The host draws the noise, hands over what the chunk starts from, queues the stages and waits once, for the results.
Between that it asks the device for nothing: the alignment is found on the device. Each stage but the vocoder is one CUDA
graph (``graphs``): condition head and alignment are one, a denoising step another. On a CPU the same
code runs as plain calls; on a GPU its chunks have been compared with the CPU's.

Streams take turns, since they share the denoiser's stage.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .codecs import mel as mel_codec
from .codecs.video import FRAMES, to_straight
from .denoiser.context import MOTION, SINK
from .denoiser.dit import Style
from .denoiser.sampler import followed
from .graphs import Graphs
from .holds import elapsed_along, with_holds
from .orchestrator.condition import LONGEST, alignment_features
from .orchestrator.model import States, TranscriptWindow
from .resync import JUMPED, STALLED, checked_path_on_device

if TYPE_CHECKING:
    from .models import Models
    from .pipeline import _Run

LATENTS_AT_ONCE = 3     # that the picture decoder takes together: enough to fill a GPU, few enough for its memory
_AHEAD = 2               # denoising steps that are queued at most when the host asks whether to stop


@dataclass(frozen=True)
class Placement:
    """Where and how the nets run when a chunk stays on one device.

    ``dtype``: of the language model, the denoiser and the picture decoder; the others stay float32. ``graphs``: as
    CUDA graphs. ``nvtx``: a range for each stage. ``tune``: convolutions chosen by trial, which may be faster; another
    process may choose others then, and differ in the last bits.
    """
    device: torch.device | str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    graphs: bool = True
    nvtx: bool = False
    tune: bool = False


class ResidentChain:
    """Makes chunks of streams whose states are on the models' device."""

    def __init__(self, models: "Models", placement: Placement) -> None:
        self.models, self.placement, self.device = models, placement, torch.device(placement.device)
        self.graphs = Graphs(self.device, placement.graphs, tune=placement.tune)

    def run(self, run: "_Run", steps: int) -> dict[str, float] | None:
        """Makes a run's chunk: sets what ``pipeline._advance`` moves the state by, and returns the stages' times in ms.

        None where the run is to stop, which is asked before every denoising step but known ``_AHEAD`` steps late at
        most; the state is as it was then.
        """
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return self._run(run, steps)

    def _run(self, run: "_Run", steps: int) -> dict[str, float] | None:
        models, state, plan = self.models, run.state, run.plan
        clock = _StageClock(self.device, self.placement.nvtx)
        put = partial(to_device, device=self.device)
        dtype = self.placement.dtype
        with clock.stage("orchestrator"):
            rows = put(plan.rows)
            style = Style(*(put(np.array([index])) for index in astuple(plan.style)))
            states = States(*self.graphs.run("language", self._read, rows, state.history.to(dtype), style.voice))
        run.draw_noise()                                          # while the language model runs
        with clock.stage("context"):
            live = models.denoiser.stage(state.cache)
        video, audio = put(run.video), put(run.audio)
        scalars = put(np.array([state.elapsed + 1]))
        fixed = (rows, *map(put, (plan.blocked, plan.minimum, plan.steady, plan.hold, plan.pushed())), scalars, put(state.past),
                 style.voice, *vars(states).values())
        before = torch.zeros_like(video), torch.zeros_like(audio)
        table = put(models.sampler.table(steps))
        pace = _Pace(self.device)
        for i, row in enumerate(table):
            pace.wait()
            if run.stopped():
                return None
            if i < models.plans:
                with clock.stage("orchestrator"):
                    c_v, c_a, *found = self.graphs.run("plan", self._plan, audio, row[:1], *fixed)
            with clock.stage("denoise"):
                video, audio, *before = self.graphs.run(
                    ("step", live), partial(self._step, live), video, audio, *before, row, *vars(style).values(), c_v, c_a)
            pace.mark()
        if run.stopped():
            return None
        run.audio = audio.clone()
        with clock.stage("audio_decode"):
            samples, run.vocoder = models.vocoder.stream(mel_codec.denormalize(run.mel), state.vocoder)
            samples = torch.cat([state.audio_rest, samples[0]]).clamp(-1.0, 1.0)
            run.audio_rest = samples[models.chunk_samples:].clone()
        with clock.stage("video_decode"):
            frames, last = self._decode(state, video, plan.moves)
        with clock.stage("context"):
            keys, values = self.graphs.run("context", models.denoiser.chunk_rows, video, audio)
            kept = keys.clone(), values.clone()
        host = [_to_host(x) for x in (samples[: models.chunk_samples], frames, *found)]
        times_ms = clock.result()                                 # the one wait
        if run.stopped():
            return None
        run.last_latent, run.rows = last.clone(), kept
        run.samples, run.frames, path, elapsed, half_frames, confidence, astray = (x.numpy() for x in host)
        plan.path, plan.elapsed, plan.half_frames, plan.confidence = path, elapsed, half_frames, float(confidence)
        plan.astray = (None, JUMPED, STALLED)[int(astray)]
        return times_ms

    def remember(self, run: "_Run") -> None:
        """Writes the finished chunk into the context of the next ones."""
        run.state.cache.put(MOTION, *run.rows)
        if run.state.chunk_index == 0:
            run.state.cache.put(SINK, *run.rows)

    # ------------------------------------------------------------ stages, of tensors alone
    def _read(self, rows: Tensor, history: Tensor, voice: Tensor) -> tuple[Tensor, ...]:
        net = self.models.orchestrator
        unit, stress, start = rows[None].unbind(-1)
        window = TranscriptWindow(unit, stress, start)
        history = history.reshape(1, net.config.history_tokens, -1)
        states = net.encode(window, history, voice, masked=True)
        return states.memory, states.keys, states.padding

    def _plan(self, audio: Tensor, t: Tensor, rows: Tensor, blocked: Tensor, minimum: Tensor, steady: Tensor, hold: Tensor,
              pushed: Tensor, elapsed: Tensor, past: Tensor, voice: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The conditions of picture and sound, and the alignment that they come from: units, half-frames since each
        began, what the condition saw of every half-frame, the mean probability of the chosen units, and whether the
        pointer had jumped (1) or was pushed on (2; ``pushed``: the path, or -1)."""
        models, config, dtype = self.models, self.models.orchestrator.config, self.placement.dtype
        mel = audio.reshape(1, -1, config.mel_bins)
        logits, _ = models.orchestrator.align(States(*states), mel.to(dtype), t)
        masked = logits[0].double().masked_fill(blocked, float("-inf"))
        at = config.window_before
        path, _, jumped = checked_path_on_device(masked, at, minimum=minimum, steady=steady, elapsed=elapsed[0])
        push = (pushed[0] >= 0) & ~jumped & (path[config.slots - 1] == at)
        path = torch.where(push, pushed, path)
        chosen = masked.softmax(-1).gather(1, path[:, None])[: config.slots, 0].mean()
        path = with_holds(path, at, hold)
        spent = elapsed_along(path, at, elapsed[0]).clamp(max=LONGEST)
        seen = torch.cat([past, torch.cat([rows[path], spent[:, None]], 1)])
        c_v, c_a = models.condition(alignment_features(*seen.T)[None], voice)
        return c_v, c_a, path, spent, seen, chosen, jumped.long() + 2 * push

    def _step(self, live: tuple[str, ...], video: Tensor, audio: Tensor, v_before: Tensor, a_before: Tensor, row: Tensor,
              voice: Tensor, emotion: Tensor, mode: Tensor, c_v: Tensor, c_a: Tensor) -> tuple[Tensor, ...]:
        """The tokens after a step, ``row`` of the sampler's table, and the velocities that led there."""
        t, length, picture, sound = row.split(1)
        v, a = self.models.denoiser.velocity(live, video, audio, Style(voice, emotion, mode), c_v, c_a, t)
        return followed(video, v, v_before, picture, length), followed(audio, a, a_before, sound, length), v, a

    def _decode(self, state: Any, video: Tensor, moves: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (frames, H, W, 4), straight alpha, and the last latent as it was drawn."""
        first = state.previous_latent is None
        before = video.new_zeros(0) if first else state.previous_latent
        picture, features, told = state.character.picture, state.character.features, []
        if moves is not None:
            moves, which = self.models.blinks(moves)
            told = [to_device(moves, self.device)]
            if self.models.lids is not None:
                told.append(to_device(np.array(which), self.device))
                picture = torch.cat(state.character.pictures)
        return self.graphs.run(
            ("pictures", first), partial(self._pictures, first), video, before, picture, *features, *told)

    def _pictures(self, first: bool, video: Tensor, before: Tensor, picture: Tensor, fine: Tensor, middle: Tensor,
                  coarse: Tensor, moves: Tensor | None = None, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``which``: of several pictures, the one that each frame moves."""
        models = self.models
        drawn = models.drawn_latents(models.denoiser.unpatchify(video), None if first else before, moves, coarse)
        latents = torch.cat(drawn)
        previous = torch.cat([drawn[0] if first else before, *drawn[:-1]])
        pieces = []
        for i, (some, ahead) in enumerate(
                zip(*(x.to(models.picture_dtype).split(LATENTS_AT_ONCE) for x in (latents, previous)))):
            at = FRAMES * LATENTS_AT_ONCE * i
            moved = picture if which is None else picture.index_select(0, which[at: at + FRAMES * len(some)])
            decoded = models.video_decoder(some, ahead, moved, (fine, middle, coarse))
            pieces.append(to_straight(decoded.frames.flatten(0, 1)))
        return torch.cat(pieces)[models.denoiser.layout.unseen:], drawn[-1]


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A copy on the device, for which a GPU's host does not wait."""
    tensor = torch.as_tensor(values).contiguous()
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, copy=True)


def _to_host(tensor: Tensor) -> Tensor:
    """A copy on the host, there when the device has done what was queued."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class _Pace:
    """Keeps the host from queueing further ahead than ``_AHEAD`` steps, so that a stop is soon known. The device never
    runs dry for that."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self._on_gpu:
            self._marks.append(torch.cuda.Event(blocking=True))
            self._marks[-1].record()

    def wait(self) -> None:
        if len(self._marks) >= _AHEAD:
            self._marks.pop(0).synchronize()


class _StageClock:
    """Milliseconds by stage: the device's on a GPU, the host's elsewhere. As NVTX ranges on request."""

    def __init__(self, device: torch.device, nvtx: bool) -> None:
        self._on_gpu, self._nvtx = device.type == "cuda", nvtx and device.type == "cuda"
        self._begin = self._now()
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._nvtx:
            torch.cuda.nvtx.range_push(name)
        begin = self._now()
        try:
            yield
        finally:
            self._spans.append((name, begin, self._now()))
            if self._nvtx:
                torch.cuda.nvtx.range_pop()

    def result(self) -> dict[str, float]:
        """Waits for the device."""
        end = self._now()
        if self._on_gpu:
            end.synchronize()
        stages = dict.fromkeys(("orchestrator", "context", "denoise", "audio_decode", "video_decode"), 0.0)
        for name, begin, after in self._spans:
            stages[name] += self._between(begin, after)
        return {**stages, "total": self._between(self._begin, end)}

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) if self._on_gpu else (end - begin) * 1e3
