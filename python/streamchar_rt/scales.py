"""Models by size: the manifests' ``stream`` and ``model`` of ``full``, the paper's scale, and of a small relative.

``mini`` is a trained bundle; these are configurations of the same classes, for whoever trains them or measures a
machine with random weights (``allocation.random_models``). A bundle saved with such a manifest loads like ``mini``.

``full`` after the paper (Tian, Wang and Zhang 2026): a joint DiT of the WAN 2.2-5B class, each modality with its own
feed-forward; a language model of the Qwen2.5-3B class; 33 frames at 24 fps to a chunk in 9 latents, of which the
first shows its last frame alone; up to 15 s of audio history. Sound is 24 kHz, so that a half-frame, the pointer's
step, is a whole number of samples: 500.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from .codecs.video import VideoCodecConfig
from .codecs.vocoder import VocoderConfig
from .denoiser.dit import DiTConfig
from .denoiser.layout import Layout
from .errors import ConfigError
from .orchestrator.condition import ConditionConfig
from .orchestrator.model import OrchestratorConfig

FRAMES, FPS, SAMPLE_RATE = 33, 24, 24_000
SPATIAL = 32            # pixels a token's side: 16 a latent's cell, two cells a token
VOICES = 16
EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised")


def full(height: int = 512, width: int = 512) -> dict[str, Any]:
    """The paper's scale, for pictures of this size.

    Raises:
        ConfigError: for sides that are not multiples of 32 pixels.
    """
    bins, voices, latents = 100, VOICES, 9
    orchestrator = OrchestratorConfig(
        width=2048, layers=36, heads=16, kv_heads=2, feed_forward=11_008, head_feed_forward=8192, voices=voices,
        window=64, window_before=8, history_tokens=15 * FPS, slots=2 * FRAMES, mel_bins=bins)
    condition = ConditionConfig(
        width=1024, output=3072, voices=voices, past=12, slots=2 * FRAMES, audio_tokens=FRAMES, latents=latents)
    layout = Layout(
        frames=FRAMES, audio_tokens=FRAMES, head_dim=128, time_pairs=22, space_pairs=21, rope_base=10_000.0,
        motion_distance=float(FRAMES), sink_distance=2.0 * FRAMES, reference_distance=3.0 * FRAMES)
    dit = DiTConfig(
        width=3072, depth=30, heads=24, feed_forward=14_336, audio_feed_forward=2048, latent_channels=48,
        reference_channels=256, mel_bins=bins, voices=voices, layout=layout)
    vocoder = VocoderConfig(width=512, hidden=1536, sample_rate=SAMPLE_RATE, hop=SAMPLE_RATE // FPS // 2, n_fft=2048,
                            mel_bins=bins)
    codec = VideoCodecConfig(latent_channels=48, encoder=(192, 384, 768), decoder=(1024, 384, 128),
                             reference=(64, 128, 256), trunk=8, parts=16, motion_width=256)
    return _manifest("full", height, width, orchestrator, condition, dit, vocoder, codec)


def tiny(height: int = 64, width: int = 96) -> dict[str, Any]:
    """``full`` with everything small but the clock, the chunk and the heads' size: it runs in seconds anywhere."""
    bins, voices, latents = 20, 2, 9
    orchestrator = OrchestratorConfig(
        width=64, layers=2, heads=4, kv_heads=2, feed_forward=128, head_feed_forward=128, voices=voices, window=24,
        window_before=6, history_tokens=24, slots=2 * FRAMES, mel_bins=bins)
    condition = ConditionConfig(
        width=32, depth=2, output=256, voices=voices, past=12, slots=2 * FRAMES, audio_tokens=FRAMES, latents=latents)
    layout = replace(Layout(), **{name: full()["model"]["dit"]["layout"][name] for name in (
        "frames", "audio_tokens", "head_dim", "time_pairs", "space_pairs", "rope_base", "motion_distance",
        "sink_distance", "reference_distance")})
    dit = DiTConfig(width=256, depth=2, heads=2, feed_forward=256, audio_feed_forward=128, latent_channels=8,
                    reference_channels=12, mel_bins=bins, voices=voices, layout=layout)
    vocoder = VocoderConfig(width=16, hidden=32, depth=2, sample_rate=SAMPLE_RATE, hop=SAMPLE_RATE // FPS // 2,
                            n_fft=2048, mel_bins=bins)
    codec = VideoCodecConfig(latent_channels=8, encoder=(16, 16, 16), decoder=(24, 12, 8), reference=(8, 8, 12),
                             trunk=1, parts=4, motion_width=8)
    return _manifest("tiny", height, width, orchestrator, condition, dit, vocoder, codec)


def _manifest(name: str, height: int, width: int, orchestrator: OrchestratorConfig, condition: ConditionConfig,
              dit: DiTConfig, vocoder: VocoderConfig, codec: VideoCodecConfig) -> dict[str, Any]:
    for side in (height, width):
        if side < SPATIAL or side % SPATIAL:
            hint = f"sides in multiples of {SPATIAL}"
            raise ConfigError(f"pictures of {height}x{width} pixels do not fit", hint=hint)
    layout = replace(dit.layout, grid=height // SPATIAL, grid_columns=width // SPATIAL)
    return {
        "name": f"{name}-{height}x{width}",
        "stream": {"sample_rate": vocoder.sample_rate, "fps": [FPS, 1], "width": width, "height": height,
                   "chunk_frames": layout.frames, "chunk_samples": 2 * layout.frames * vocoder.hop,
                   "alpha_mode": "straight",
                   "capabilities": ["words", "visemes", "emotions", "listening", "idle", "rgba"]},
        "model": {"orchestrator": orchestrator.to_dict(), "condition": condition.to_dict(),
                  "dit": replace(dit, layout=layout).to_dict(), "vocoder": vocoder.to_dict(),
                  "video_codec": replace(codec, size=height, width=width).to_dict(), "steps": 4},
        "steps": 4, "voices": [f"voice {i}" for i in range(dit.voices)], "emotions": list(EMOTIONS), "characters": [],
    }
