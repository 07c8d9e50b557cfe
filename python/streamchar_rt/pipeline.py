"""One chunk of one stream: orchestrate, denoise, decode. The hot path is ``generate_chunks``."""
from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch

from .batching import Batching
from .codecs import mel as mel_codec
from .codecs.video import ReferenceEncoder, VideoCodecConfig, VideoDecoder
from .codecs.vocoder import LOOKAHEAD, Vocoder, VocoderConfig, VocoderState
from .denoiser import noise as random
from .denoiser.context import MOTION, SINK, CachedDenoiser
from .denoiser.dit import DiTConfig, JointDiT
from .denoiser.dit import Style as StyleTensors
from .ops import Storage
from .orchestrator.condition import LONGEST, ConditionConfig, ConditionEncoder
from .orchestrator.model import Orchestrator, OrchestratorConfig
from .orchestrator.units import END, PAD
from .planner import Plan, align, read

#: What of a state is plain values, arrays and tensors.
_VALUES = ("seed", "chunk_index", "pointer", "elapsed", "history", "past", "previous_latent", "audio_rest")

__all__ = ["CharacterFeatures", "Models", "RawChunk", "StreamState", "Style", "encode_character", "generate_chunk",
           "generate_chunks"]


@dataclass(frozen=True)
class Style:
    """What a chunk is to be like. ``emotion``: neutral, happy, sad, angry, surprised; ``mode``: idle, listening, speaking."""
    voice: int = 0
    emotion: int = 0
    mode: int = 0


@dataclass(frozen=True)
class CharacterFeatures:
    """A reference picture, encoded once."""
    picture: torch.Tensor                       # (1, 4, H, W) premultiplied [0, 1], float32
    features: tuple[torch.Tensor, ...]          # at 1/4, 1/8 and 1/16; the denoiser sees the last

    def to_tensors(self) -> dict[str, torch.Tensor]:
        return {"picture": self.picture, **{f"features.{i}": f.float() for i, f in enumerate(self.features)}}

    @classmethod
    def from_tensors(cls, models: "Models", tensors: Mapping[str, torch.Tensor]) -> "CharacterFeatures":
        layout = dict(dtype=models.picture_dtype, memory_format=torch.channels_last)
        return cls(tensors["picture"], tuple(tensors[f"features.{i}"].to(**layout) for i in range(3)))


class Models:
    """All networks of a bundle, ready to run. Immutable; shared by sessions."""

    sample_rate = mel_codec.SAMPLE_RATE
    fps = Fraction(25)

    def __init__(self, *, orchestrator: Orchestrator, condition: ConditionEncoder, dit: JointDiT, vocoder: Vocoder,
                 reference_encoder: ReferenceEncoder, video_decoder: VideoDecoder, latent_mean: torch.Tensor, latent_std: torch.Tensor, default_steps: int = 4,
                 picture_dtype: torch.dtype = torch.float32, kernels: str = "auto", storage: Storage | None = None):
        freeze = lambda m: m.eval().requires_grad_(False)
        picture = lambda m: freeze(m).to(dtype=picture_dtype, memory_format=torch.channels_last)
        self.picture_dtype, self.default_steps = picture_dtype, default_steps
        self.orchestrator, self.condition, self.vocoder = freeze(orchestrator), freeze(condition), freeze(vocoder)
        self.denoiser = CachedDenoiser(freeze(dit), kernels, storage)
        self.reference_encoder, self.video_decoder = picture(reference_encoder), picture(video_decoder)
        self.latent_mean = latent_mean.float().reshape(1, 1, -1, 1, 1)
        self.latent_std = latent_std.float().reshape(1, 1, -1, 1, 1)
        self.batching = Batching()
        layout = dit.config.layout
        self.chunk_frames = layout.frames
        self.chunk_samples = int(self.chunk_frames * self.sample_rate / self.fps)
        self.width = self.height = video_decoder.config.size

    @classmethod
    def from_parts(cls, manifest: Mapping, tensors: Mapping[str, torch.Tensor], *,
                   picture_dtype: torch.dtype = torch.float32, threads: int | None = None, kernels: str = "auto",
                   storage: Storage | None = None) -> "Models":
        """From a bundle's manifest and tensors; raises KeyError or RuntimeError where they do not fit together.

        ``picture_dtype``: of the reference encoder and the video decoder. ``storage``: pack the denoiser's weights as
        "bf16" or "int8"; its blocks can then only be run through it.
        """
        config = manifest["model"]
        codec = VideoCodecConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["video_codec"].items()})
        nets = {"orchestrator": Orchestrator(OrchestratorConfig(**config["orchestrator"])),
                "condition": ConditionEncoder(ConditionConfig(**config["condition"])),
                "dit": JointDiT(DiTConfig.from_dict(config["dit"])), "vocoder": Vocoder(VocoderConfig(**config["vocoder"])),
                "reference_encoder": ReferenceEncoder(codec), "video_decoder": VideoDecoder(codec)}
        for name, net in nets.items():
            own = {k[len(name) + 1:]: v.float() for k, v in tensors.items() if k.startswith(name + ".")}
            net.load_state_dict(own)
        return cls(**nets, latent_mean=tensors["latent.mean"], latent_std=tensors["latent.std"],
                   default_steps=int(config.get("steps", 4)), picture_dtype=picture_dtype, kernels=kernels, storage=storage)

    def memory_per_session(self) -> int:
        """Bytes of a session's context cache and decoder states."""
        config = self.orchestrator.config
        state = 4 * (2 * config.history_tokens * config.mel_bins + self.width * self.height * 4)
        return int(self.denoiser.new_cache().memory_plan()["total"]) + state


@torch.inference_mode()
def encode_character(models: Models, rgba: np.ndarray) -> CharacterFeatures:
    """Encode a picture, uint8 (H, W, 4) straight alpha, of the models' size."""
    straight = torch.from_numpy(np.ascontiguousarray(rgba)).permute(2, 0, 1)[None].float() / 255.0
    picture = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1)
    return CharacterFeatures(picture, tuple(models.reference_encoder(picture.to(models.picture_dtype))))


class _Units:
    """The transcript units in sight. Places are absolute and never reused; what was spoken is forgotten."""

    def __init__(self) -> None:
        self.base = 0
        self.rows: list[tuple[int, int, int]] = [(END, 0, 0)]

    @property
    def stop(self) -> int:
        return self.base + len(self.rows)

    def forget_before(self, place: int) -> None:
        drop = max(0, place - self.base)
        del self.rows[:drop]
        self.base += drop

    def window(self, first: int, count: int) -> np.ndarray:
        """Rows (count, 3) from place ``first``; PAD outside."""
        out = np.zeros((count, 3), np.int64)
        out[:, 0] = PAD
        low, high = max(first, self.base), min(first + count, self.stop)
        if high > low:
            out[low - first: high - first] = self.rows[low - self.base: high - self.base]
        return out


class StreamState:
    """Everything that changes in one stream."""

    def __init__(self, models: Models, character: CharacterFeatures, seed: int):
        config, condition = models.orchestrator.config, models.condition.config
        self.models, self.character, self.seed = models, character, seed
        self.chunk_index = 0
        self.pointer = 0                               # place of the unit spoken at the end of the last chunk
        self.units = _Units()
        silence = (mel_codec.SILENCE - mel_codec.MEAN) / mel_codec.STD
        self.history = torch.full((2 * config.history_tokens, config.mel_bins), silence)
        self.elapsed = LONGEST
        # unit, stress, word start and elapsed of the half-frames before the chunk
        self.past = np.tile(np.array([END, 0, 0, LONGEST]), (condition.past, 1))
        self.previous_latent: torch.Tensor | None = None
        self.vocoder: VocoderState = models.vocoder.start()
        self.audio_rest = torch.zeros(0)
        self.cache = models.denoiser.new_cache()
        with torch.inference_mode():
            models.denoiser.write_reference(self.cache, character.features[-1])
            self._start_audio()

    def _start_audio(self) -> None:
        """The mel leads the picture: decode the silence of the first frames and drop what lies before zero."""
        layout = self.models.denoiser.layout
        lead = int(layout.audio_lead * 2)
        mel = torch.full((1, lead, mel_codec.N_MELS), mel_codec.SILENCE)
        samples, self.vocoder = self.models.vocoder.stream(mel, self.vocoder)
        self.audio_rest = samples[0, (mel_codec.N_FFT - mel_codec.HOP) // 2:]

    @property
    def pending(self) -> int:
        """Units appended and not yet reached."""
        return self.units.stop - 1 - self.pointer

    def append_units(self, units: Sequence[tuple[int, int, bool]]) -> range:
        """Append (unit, stress, word_start); returns their places."""
        first = self.units.stop
        self.units.rows.extend((int(u), int(s), int(w)) for u, s, w in units)
        return range(first, self.units.stop)

    def drop_after(self, place: int) -> None:
        """Forget the units after ``place``, which must not lie before the pointer."""
        if place < self.pointer:
            raise ValueError(f"place {place} was already spoken (the pointer is at {self.pointer})")
        del self.units.rows[place + 1 - self.units.base:]

    def reanchor(self) -> None:
        """The next chunk sees the reference and the sink alone, and nothing of a last chunk that has drifted.

        Picture and sound may jump there, so it is best done in silence. Speech, words and clock go on as they were.
        """
        self.cache.clear(MOTION)

    def export(self) -> dict[str, Any]:
        """Everything but models and character, as plain values, arrays and tensors; see ``from_export``."""
        return {
            "values": {name: getattr(self, name) for name in _VALUES},
            "units": {"base": self.units.base, "rows": np.array(self.units.rows, np.int64)},
            "vocoder": vars(self.vocoder),
            "cache": self.cache.state_dict()}

    @classmethod
    def from_export(cls, models: Models, character: CharacterFeatures, content: Mapping[str, Any]) -> "StreamState":
        """A stream that goes on from an export. KeyError, TypeError, ValueError where that is not a whole one."""
        self = object.__new__(cls)
        self.models, self.character = models, character
        values = content["values"]
        if set(values) != set(_VALUES):
            raise ValueError(f"a state of {sorted(values)}")
        vars(self).update(values)
        self.units = _Units()
        self.units.base = content["units"]["base"]
        self.units.rows = [tuple(map(int, row)) for row in content["units"]["rows"]]
        self.vocoder = VocoderState(**content["vocoder"])
        self.cache = models.denoiser.new_cache()
        self.cache.load_state_dict(content["cache"])
        return self

    def cut(self) -> int:
        """Drop what lies ahead and stand at an END: the unit being spoken is over. Returns the END's place."""
        self.drop_after(self.pointer)
        if self.units.rows[-1][0] != END:
            self.pointer = self.append_units([(END, 0, False)])[0]
            self.elapsed = LONGEST
        return self.pointer

    @torch.inference_mode()
    def audio_ahead(self) -> np.ndarray:
        """What would be heard next of the sound that is planned already: float32 samples, a few hundredths of a
        second. The mel leads the clock; the frames that the vocoder would look ahead to are held still."""
        last = self.history[-1:].expand(LOOKAHEAD, -1)[None]
        samples, _ = self.models.vocoder.stream(mel_codec.denormalize(last), self.vocoder)
        return torch.cat([self.audio_rest, samples[0]]).clamp(-1.0, 1.0).numpy().copy()

    def clone(self) -> "StreamState":
        """An independent stream that goes on from here; cached keys are shared until rewritten."""
        other = copy.copy(self)
        other.units = copy.deepcopy(self.units)
        other.past = self.past.copy()
        other.vocoder = self.vocoder.clone()
        other.cache = self.cache.fork()
        return other


@dataclass
class RawChunk:
    """A finished chunk before words, captions and formats."""
    audio: np.ndarray                  # float32 (chunk_samples,)
    video: np.ndarray                  # uint8 (chunk_frames, H, W, 4) straight alpha
    places: np.ndarray                 # int64 (32,): the unit of each half-frame of the mel
    elapsed: np.ndarray                # int64 (32,): half-frames since that unit began
    confidence: float                  # mean probability of the chosen alignment
    timings: dict[str, float] = field(default_factory=dict)      # ms


class _Run:
    """One stream's chunk under way."""

    def __init__(self, models: Models, state: StreamState, style: Style, should_stop: Callable[[], bool] | None):
        layout, config = models.denoiser.layout, models.denoiser.dit.config
        draw = lambda shape, stream: random.noise(
            shape, seed=state.seed, chunk=state.chunk_index, step=0, stream=stream)
        self.state, self.plan = state, Plan(state, style)
        self.style = StyleTensors(*(torch.tensor([index]) for index in (style.voice, style.emotion, style.mode)))
        self.video = draw((1, layout.video_tokens, config.video_features), random.VIDEO)
        self.audio = draw((1, layout.audio_tokens, config.audio_features), random.AUDIO)
        self.stopped = should_stop or (lambda: False)

    @property
    def mel(self) -> torch.Tensor:
        return self.audio.reshape(1, -1, mel_codec.N_MELS)


def generate_chunk(models: Models, state: StreamState, style: Style, *, steps: int | None = None,
                   should_stop: Callable[[], bool] | None = None) -> RawChunk | None:
    """``generate_chunks`` for one stream."""
    return generate_chunks(models, [state], [style], steps=steps, should_stop=[should_stop])[0]


@torch.inference_mode()
def generate_chunks(models: Models, states: Sequence[StreamState], styles: Sequence[Style], *, steps: int | None = None,
                    should_stop: Sequence[Callable[[], bool] | None] | None = None) -> list[RawChunk | None]:
    """Generate the next chunk of several streams together and advance their states.

    A stream's ``should_stop`` is asked before every denoising step and every decoder's turn; if it says so, that
    stream's result is None and its state is as it was. Deterministic: a result depends on its state, its style and
    the number of steps only, and not on the company (see ``batching``). Timings are of the whole company.
    """
    steps = steps or models.default_steps
    clock = _Clock()
    every = [_Run(models, *one) for one in zip(states, styles, should_stop or [None] * len(states), strict=True)]
    runs = every
    for run, states_read in zip(runs, models.batching.run("language", partial(read, models), [r.plan for r in runs])):
        run.plan.states = states_read
    clock.mark("orchestrator")
    for i in range(steps):                             # Euler's method from noise (t = 0) to data (t = 1)
        runs = [run for run in runs if not run.stopped()]
        if runs:
            _denoise(models, runs, i, steps, clock)
    runs = [run for run in runs if not run.stopped()]
    for run in runs:
        run.samples, run.vocoder, run.audio_rest = _decode_audio(models, run.state, run.mel)
    clock.mark("audio_decode")
    for run in runs:
        run.latents = models.denoiser.unpatchify(run.video)
        run.frames = _decode_video(models, run.state, run.latents, run.stopped)
    clock.mark("video_decode")
    runs = [run for run in runs if run.frames is not None and not run.stopped()]
    _remember(models, runs)
    clock.mark("context")
    timings = clock.result()
    return [_advance(models, run, timings) if run in runs else None for run in every]


def _denoise(models: Models, runs: Sequence[_Run], step: int, steps: int, clock: "_Clock") -> None:
    """One step of every run's flow."""
    t = step / steps
    align_all = lambda some: align(models, [run.plan.states for run in some], [run.mel for run in some], t)
    logits = models.batching.run("alignment", align_all, runs)
    conditions = [run.plan.follow(each) for run, each in zip(runs, logits)]
    clock.mark("orchestrator")
    velocity = lambda some: models.denoiser.velocities(*_columns((
        (run.state.cache, run.video, run.audio, run.style, *condition) for run, condition in some)), t)
    for run, (v, a) in zip(runs, models.batching.run("denoiser", velocity, list(zip(runs, conditions)))):
        run.video, run.audio = run.video + v / steps, run.audio + a / steps
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
    state.previous_latent = run.latents[:, -1:]
    state.pointer = plan.first + int(path[-1])
    state.units.forget_before(state.pointer - 2 * models.orchestrator.config.window_before)
    state.chunk_index += 1
    return RawChunk(run.samples, run.frames, plan.first + path, elapsed, plan.confidence, dict(timings))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows)]


def _decode_audio(models: Models, state: StreamState, mel: torch.Tensor) -> tuple[np.ndarray, VocoderState, torch.Tensor]:
    """The chunk's samples, and the vocoder's state and the samples left over after it."""
    samples, vocoder = models.vocoder.stream(mel_codec.denormalize(mel), state.vocoder)
    samples = torch.cat([state.audio_rest, samples[0]])
    rest = samples[models.chunk_samples:]
    return samples[: models.chunk_samples].clamp(-1.0, 1.0).numpy().copy(), vocoder, rest


def _decode_video(models: Models, state: StreamState, latents: torch.Tensor,
                  stopped: Callable[[], bool]) -> np.ndarray | None:
    """The chunk's pictures, latent by latent, so that it can be stopped as soon as a denoising step can."""
    before = latents[:, :1] if state.previous_latent is None else state.previous_latent
    both = torch.cat([before, latents], 1) * models.latent_std + models.latent_mean
    both = both.to(models.picture_dtype)
    pieces = []
    for i in range(1, both.shape[1]):
        if stopped():
            return None
        decoded = models.video_decoder(both[0, i: i + 1], both[0, i - 1: i], state.character.picture,
                                       state.character.features)
        pieces.append(decoded.frames[0])
    frames = torch.cat(pieces).float()                                            # (F, 4, H, W) premultiplied
    alpha = frames[:, 3:].clamp(0.0, 1.0)
    # Straight alpha; where next to nothing covers a pixel its colour is arbitrary but finite.
    colour = (frames[:, :3] / alpha.clamp(min=1 / 255)).clamp(0.0, 1.0)
    out = torch.empty(len(frames), models.height, models.width, 4, dtype=torch.uint8)
    out[..., :3] = (colour * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
    out[..., 3] = (alpha[:, 0] * 255 + 0.5).to(torch.uint8)
    return out.numpy()


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
