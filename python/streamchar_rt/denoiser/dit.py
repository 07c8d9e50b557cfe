"""Joint audio-video DiT (paper, section 3): two streams of tokens, one attention.

Video and audio tokens have their own projections and feed-forward; all tokens of the window attend to one
another and to the context [reference | sink | motion]. Context tokens attend only inside their own segment
and are always clean, so their keys and values are computed once (``context_pass``) and reused by every
denoising step of every chunk that sees them. The network predicts the flow-matching velocity of both.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Protocol, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..timestep import timestep_features
from .layout import Layout, rotary_table, rotate

LOST_SPAN = 9        # half-frames over which sound may not be quieter than the condition's mean
LOST = 0.5           # by more than this, in the normalised mel: true speech hardly ever is


@dataclass(frozen=True)
class DiTConfig:
    width: int = 256
    depth: int = 8
    heads: int = 4
    feed_forward: int = 384
    audio_feed_forward: int = 0      # 0: as wide as the video's
    latent_channels: int = 12
    patch: int = 2
    reference_channels: int = 64     # of the codec's coarse reference features
    mel_bins: int = 80
    mel_frames_per_token: int = 2
    voices: int = 4
    emotions: int = 5
    modes: int = 3
    audio_variance: float = 0.06     # of the mel about the mean that the condition gives
    layout: Layout = field(default_factory=Layout)

    @property
    def video_features(self) -> int:
        return self.latent_channels * self.patch ** 2

    @property
    def reference_features(self) -> int:
        return self.reference_channels * self.patch ** 2

    @property
    def audio_features(self) -> int:
        return self.mel_bins * self.mel_frames_per_token

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DiTConfig":
        return cls(**{**values, "layout": Layout(**values["layout"])})


def patchify(latents: torch.Tensor, patch: int = 2) -> torch.Tensor:
    """Video latents (B, N, C, H, W) to tokens (B, N * H/p * W/p, C * p * p)."""
    b, n, c, h, w = latents.shape
    x = latents.reshape(b, n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, n * (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: torch.Tensor, grid: int, patch: int = 2, columns: int = 0) -> torch.Tensor:
    """Inverse of ``patchify`` for a grid of tokens, square unless ``columns`` are given."""
    columns = columns or grid
    b, t, f = tokens.shape
    n, c = t // (grid * columns), f // patch ** 2
    x = tokens.reshape(b, n, grid, columns, c, patch, patch).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(b, n, c, grid * patch, columns * patch)


class Attention(Protocol):
    """What a block asks of the attention backend.

    Called once a layer with the raw projections of this pass's tokens, q, k, v (B, T, H, D), and the
    per-token RMSNorm weights' owners; returns (B, T, H, D).
    """
    def __call__(self, layer: int, block: "Block", q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...


class Stream(nn.Module):
    """One modality's half of a block."""

    def __init__(self, config: DiTConfig, feed_forward: int):
        super().__init__()
        d = config.width
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.expand = nn.Linear(d, feed_forward)
        self.contract = nn.Linear(feed_forward, d)
        head = d // config.heads
        self.q_norm = nn.Parameter(torch.ones(head))
        self.k_norm = nn.Parameter(torch.ones(head))
        self.table = nn.Parameter(torch.zeros(6, d))


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights, then the adaLN shift and scale: x (B, T, d), both (B or 1, 1, d)."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def gated_residual(x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    return x + gate * update


class Block(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        self.heads = config.heads
        self.video = Stream(config, config.feed_forward)
        self.audio = Stream(config, config.audio_feed_forward or config.feed_forward)

    def project(self, tokens: tuple[torch.Tensor, torch.Tensor],
                modulation: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of all tokens, (B, Tv + Ta, 3, H, D)."""
        parts = []
        for stream, x in zip((self.video, self.audio), tokens):
            shift, scale = (modulation + stream.table).to(x.dtype).unbind(-2)[:2]
            parts.append(stream.qkv(modulate(x, shift, scale)))
        return torch.cat(parts, 1).unflatten(-1, (3, self.heads, -1))

    def finish(self, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
               mixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output projection and feed-forward, both gated; ``mixed`` (B, Tv + Ta, d) is the attention's result."""
        result = []
        parts = mixed.split([x.shape[1] for x in tokens], 1)
        for stream, x, part in zip((self.video, self.audio), tokens, parts):
            _, _, gate, shift, scale, gate_ff = (modulation + stream.table).to(x.dtype).unbind(-2)
            x = gated_residual(x, gate, stream.out(part))
            y = stream.contract(F.gelu(stream.expand(modulate(x, shift, scale)), approximate="tanh"))
            result.append(gated_residual(x, gate_ff, y))
        return result[0], result[1]

    def forward(self, layer: int, tokens: tuple[torch.Tensor, torch.Tensor],
                modulation: torch.Tensor, attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        """``tokens``: video (B, Tv, d) and audio (B, Ta, d); ``modulation``: (B or 1, 1, 6, d)."""
        q, k, v = self.project(tokens, modulation).unbind(2)                             # (B, T, H, D)
        return self.finish(tokens, modulation, attend(layer, self, q, k, v).flatten(2))


@dataclass
class Style:
    """What is fixed for a whole chunk: int64 (B,) each."""
    voice: torch.Tensor
    emotion: torch.Tensor
    mode: torch.Tensor


class JointDiT(nn.Module):
    def __init__(self, config: DiTConfig = DiTConfig()):
        super().__init__()
        self.config = config
        d = config.width
        self.video_in = nn.Linear(config.video_features, d)
        self.audio_in = nn.Linear(config.audio_features, d)
        self.reference_in = nn.Linear(config.reference_features, d)
        self.time = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.voice = nn.Embedding(config.voices + 1, d)          # the last entry of each: not given
        self.emotion = nn.Embedding(config.emotions + 1, d)
        self.mode = nn.Embedding(config.modes + 1, d)
        self.modulation = nn.Linear(d, 6 * d)                    # shared; each stream and layer adds its table
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_modulation = nn.Linear(d, 2 * d)
        self.video_out = nn.Linear(d, config.video_features)
        self.audio_out = nn.Linear(d, config.audio_features)
        self.audio_mean = nn.Linear(d, config.audio_features)     # of the clean tokens, read from the condition
        for layer in (self.modulation, self.final_modulation, self.video_out, self.audio_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for table in (self.voice, self.emotion, self.mode):
            nn.init.normal_(table.weight, std=0.02)

    def vector(self, t: torch.Tensor, style: Style | None) -> torch.Tensor:
        """Global condition (B, d) from the flow time and the style."""
        c = self.time(timestep_features(t, self.config.width).to(self.video_in.weight.dtype))
        if style is not None:
            c = c + self.voice(style.voice) + self.emotion(style.emotion) + self.mode(style.mode)
        return F.silu(c)

    def modulations(self, vector: torch.Tensor) -> torch.Tensor:
        """Shared adaLN shifts, scales and gates, (B, 1, 6, d)."""
        return self.modulation(vector).reshape(len(vector), 1, 6, self.config.width)

    def embed(self, video: torch.Tensor, audio: torch.Tensor, condition_video: torch.Tensor | None = None,
              condition_audio: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens from latents: video (B, Tv, 48), audio (B, Ta, 160); conditions are added where given:
        c_v (B, latents, d) is shared by a latent's tokens, c_a (B, Ta, d)."""
        v, a = self.video_in(video), self.audio_in(audio)
        if condition_video is not None and v.shape[1]:
            v = v + condition_video.repeat_interleave(self.config.layout.places, 1)
        if condition_audio is not None:
            a = a + condition_audio
        return v, a

    def embed_reference(self, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens from the patches of the codec's coarse reference features (B, 64, 256), of whatever size they are;
        a reference has no audio tokens."""
        v = self.reference_in(F.layer_norm(reference, reference.shape[-1:]))
        return v, v[:, :0]

    def positions(self, tokens: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Local positions (T, 3) of a segment with these tokens."""
        return _positions(self.config.layout, tokens[0].shape[1], tokens[1].shape[1])

    def rotation(self, tokens: tuple[torch.Tensor, torch.Tensor], distance: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (T, head_dim / 2) of a segment with these tokens, seen from ``distance`` frames later."""
        device = tokens[1].device
        if device.type == "cpu":
            return rotary_table(self.config.layout, self.positions(tokens) - torch.tensor([distance, 0.0, 0.0]))
        return _rotation_there(self.config.layout, tokens[0].shape[1], tokens[1].shape[1], distance, device)

    def context_pass(self, video: torch.Tensor, audio: torch.Tensor, distance: float) -> "SegmentAttention":
        """Keys and values of a clean segment, every layer, seen from ``distance`` frames later."""
        attend = SegmentAttention(self.rotation((video, audio), distance), video.shape[1])
        clean = self.vector(torch.ones(1, device=video.device), None)
        self.run((video, audio), self.modulations(clean), attend)
        return attend

    def run(self, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
            attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        return run_blocks(self.blocks, tokens, modulation, attend)

    def final(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and scale behind the last block, (B, 1, d) each."""
        shift, scale = self.final_modulation(vector)[:, None].chunk(2, -1)
        return shift, scale

    def project(self, tokens: tuple[torch.Tensor, torch.Tensor],
                final: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The video's velocity (B, Tv, 48), and what ``audio_velocity`` makes the audio's from (B, Ta, 160)."""
        return self.video_out(modulate(tokens[0], *final)), self.audio_out(modulate(tokens[1], *final))

    def audio_velocity(self, residual: torch.Tensor, noisy: torch.Tensor, condition: torch.Tensor,
                       t: torch.Tensor) -> torch.Tensor:
        """Velocity float32 (B, Ta, 160) of noisy audio tokens at flow time ``t`` (B,).

        What the condition says about the clean tokens, x1 ~ N(mean, audio_variance), gives the best velocity in
        closed form; the network adds the rest, in units of what stays uncertain (preconditioning after Karras et
        al. 2022). So neither the noise nor the mean needs to pass through the network's 256 channels.
        """
        return self._velocity_about(self.audio_mean(condition).float(), residual, noisy, t)

    def _velocity_about(self, mean: torch.Tensor, residual: torch.Tensor, noisy: torch.Tensor,
                        t: torch.Tensor) -> torch.Tensor:
        variance, t = self.config.audio_variance, t[:, None, None].float()
        rest = 1 - t
        total = rest ** 2 + t ** 2 * variance                                # of the noisy token about t * mean
        known = (rest * mean + (t * variance - rest) * noisy.float()) / total
        return known + (variance / total).sqrt() * residual.float()

    def audible_velocity(self, residual: torch.Tensor, noisy: torch.Tensor, condition: torch.Tensor,
                         t: torch.Tensor) -> torch.Tensor:
        """``audio_velocity`` at ``t`` < 1, mended where it would lose sound that the condition asks for.

        A lone word among pauses can be drawn as the silence around it. Where the expected clean sound is quieter than
        its mean for longer than true speech is (``LOST``, over ``LOST_SPAN`` half-frames), it is brought back towards
        the mean, by as much as it is too quiet. Training does without.
        """
        mean, rest = self.audio_mean(condition).float(), 1 - t[:, None, None].float()
        velocity = self._velocity_about(mean, residual, noisy, t)
        beyond = noisy.float() + rest * velocity - mean                                 # (B, Ta, 160): clean less mean
        halves = beyond.unflatten(-1, (self.config.mel_frames_per_token, -1))           # (B, Ta, 2, 80)
        level = F.pad(halves.mean(-1).flatten(1)[:, None], [LOST_SPAN // 2] * 2, mode="replicate")
        keep = LOST / (-F.avg_pool1d(level, LOST_SPAN, 1)).clamp(min=LOST)              # 1 where nothing is lost
        return velocity - (halves * (1 - keep.reshape(*halves.shape[:3], 1))).flatten(2) / rest


def _positions(layout: Layout, video: int, audio: int) -> torch.Tensor:
    return torch.cat([layout.video_positions(video // layout.places), layout.audio_positions()[:audio]])


@lru_cache(maxsize=64)
def _rotation_there(layout: Layout, video: int, audio: int, distance: float,
                    device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``JointDiT.rotation`` on a GPU, copied there once: a copy from ordinary memory waits for all that is under way."""
    with torch.inference_mode(False):                 # what is kept may be asked for a gradient later
        table = rotary_table(layout, _positions(layout, video, audio) - torch.tensor([distance, 0.0, 0.0]))
        return tuple(x.to(device) for x in table)


def run_blocks(blocks: Iterable[Callable], tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
               attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """``Block``s one after the other, or what stands for them."""
    for layer, block in enumerate(blocks):
        tokens = block(layer, tokens, modulation, attend)
    return tokens


def normalize_and_rotate(x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """QK-RMSNorm over the head, then rotary positions: x (B, T, H, D), weight (T, D), tables (T, D / 2)."""
    y = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6) * weight[:, None].float()
    return rotate(y, cos, sin).to(x.dtype)


class SegmentAttention:
    """Plain torch attention for training and as the reference of the cached run time.

    Keys are rotated at their position less the segment's distance, which gives the same logits as rotating
    the query once more for each segment. Every segment attends to itself and to ``context``; what it wrote
    stays in ``keys`` and ``values``, one entry a layer, for those that see it later.
    """

    prepare = staticmethod(normalize_and_rotate)      # training replaces it by a compiled one

    def __init__(self, rotation: tuple[torch.Tensor, torch.Tensor], video_tokens: int,
                 context: Sequence["SegmentAttention"] = ()):
        """``rotation``: as ``JointDiT.rotation`` gives it."""
        self.cos, self.sin = rotation
        self.video_tokens = video_tokens
        self.context = context
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def __call__(self, layer: int, block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        rest = q.shape[1] - self.video_tokens
        weight = lambda name: torch.cat([getattr(block.video, name).expand(self.video_tokens, -1),
                                         getattr(block.audio, name).expand(rest, -1)])
        q = self.prepare(q, weight("q_norm"), self.cos, self.sin).transpose(1, 2)
        k = self.prepare(k, weight("k_norm"), self.cos, self.sin).transpose(1, 2)
        v = v.transpose(1, 2)
        self.keys.append(k)
        self.values.append(v)
        if self.context:
            share = lambda x: x if len(x) == len(k) else x.repeat_interleave(len(k) // len(x), 0)
            k = torch.cat([k] + [share(s.keys[layer]) for s in self.context], 2)
            v = torch.cat([v] + [share(s.values[layer]) for s in self.context], 2)
        return _attention(q, k, v).transpose(1, 2)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention, (B, H, T, D). On a CPU two matrix products beat the fused kernel's backward by 4x."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


@dataclass
class Window:
    """A training window: the current chunk and its context, as tokens, batch first.

    Video parts may have no tokens (audio-only training). ``None`` for a context that is absent. The current
    chunk's batch may be a multiple of the context's: several noises drawn for each context.
    """
    video: torch.Tensor                       # (B, 256, 48) noisy
    audio: torch.Tensor                       # (B, 16, 160) noisy
    reference: torch.Tensor | None = None     # (B, 64, 256)
    sink: tuple[torch.Tensor, torch.Tensor] | None = None
    motion: tuple[torch.Tensor, torch.Tensor] | None = None


def windowed_velocity(dit: JointDiT, window: Window, t: torch.Tensor, style: Style, condition_video: torch.Tensor,
                      condition_audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole window, differentiable: the definition that the cached run time must equal.

    ``t``: (B,) flow time, 0 noise to 1 data; conditions as in ``JointDiT.embed``. Returns the velocities of
    the current chunk, (B, 256, 48) and (B, 16, 160).
    """
    layout = dit.config.layout
    context = []
    if window.reference is not None:
        context.append(dit.context_pass(*dit.embed_reference(window.reference), layout.reference_distance))
    for pair, distance in ((window.sink, layout.sink_distance), (window.motion, layout.motion_distance)):
        if pair is not None:
            context.append(dit.context_pass(*dit.embed(*pair), distance))
    tokens = dit.embed(window.video, window.audio, condition_video, condition_audio)
    vector = dit.vector(t, style)
    attend = SegmentAttention(dit.rotation(tokens), tokens[0].shape[1], context)
    video, residual = dit.project(dit.run(tokens, dit.modulations(vector), attend), dit.final(vector))
    return video, dit.audio_velocity(residual, window.audio, condition_audio, t)
