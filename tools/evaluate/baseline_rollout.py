"""The baselines as streams: each kind says a sentence chunk by chunk from its own past, in plain torch.

All kinds go the same slow way, without the run time's cache, kernels or batching, so that their times compare with
each other (and not with the product's own). They are told the sentence's phones as the true voice says them, and none
of their times.
"""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from streamchar_rt.codecs.mel import MEAN, N_MELS, SILENCE, STD, denormalize
from streamchar_rt.denoiser.dit import Style, Window, patchify
from streamchar_rt.models import CharacterFeatures, Models
from streamchar_rt.orchestrator.units import END
from tools.studio.speech import VOICE_NAMES, Speech, to_tokens
from tools.train.cascade import Cascade
from tools.train.few_step import Pair, euler
from tools.train.monolithic import Monolith, text_of
from tools.train.rollout import Planner, Start, Transcript, roll_out
from tools.train.streams import CHUNK, HEAD, Streams, build

NEUTRAL, SPEAKING = 0, 2


@dataclass
class Turn:
    """One sentence as a stream of its own."""

    streams: Streams
    chunks: int  # that it takes at the true voice's pace, and one more
    voice: int

    @classmethod
    def of(cls, speech: Speech, seed: int = 0) -> "Turn":
        tokens, spans = to_tokens(speech)
        column = lambda name: np.array([getattr(token, name) for token in tokens])
        voice = VOICE_NAMES.index(speech.voice)
        utterance = SimpleNamespace(samples=speech.samples, unit=column("unit"), stress=column("stress"),
                                    word_start=column("word_start"), begin=np.array([s[0] for s in spans]), voice=voice)
        streams = build([utterance], seed=seed, progress=False)
        spoken = np.flatnonzero(streams.unit[streams.place] != END)
        return cls(streams, -(-(int(spoken[-1]) + 1 - HEAD) // CHUNK) + 1, voice)

    @property
    def last(self) -> np.ndarray:
        """The last unit that has been pushed before each chunk, int64 (1, chunks)."""
        rows = self.streams.chunks
        return np.array([[int(rows[min(k, len(rows) - 1), 3]) for k in range(self.chunks)]])


class Speaker:
    """One network as a stream's generator; ``__call__`` gives the chunks' clean tokens."""

    def __init__(self, net: nn.Module, planner: Planner | None, steps: int) -> None:
        """``planner``: of all kinds but the monolith."""
        self.net, self.planner, self.steps = net, planner, steps

    @torch.inference_mode()
    def __call__(self, turn: Turn, reference: torch.Tensor, seed: int) -> list[Pair]:
        """``reference``: the codec's coarse features (1, C, h, w)."""
        tokens = patchify(reference[:, None].float())
        whole = lambda value: torch.tensor([value])
        style = Style(whole(turn.voice), whole(NEUTRAL), whole(SPEAKING))
        generator = torch.Generator().manual_seed(seed)
        config = (self.net.picture if isinstance(self.net, Cascade) else self.net.dit).config
        shapes = ((1, config.layout.video_tokens, config.video_features),
                  (1, config.layout.audio_tokens, config.audio_features))
        noises = [tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(turn.chunks)]
        if isinstance(self.net, Monolith):
            return self._read(turn, tokens, noises, style)
        if isinstance(self.net, Cascade):
            nothing = [(video[:, :0], audio) for video, audio in noises]
            spoken = self._follow(self.net.speech, turn, None, nothing, style)
            return self._draw([audio for _, audio in spoken], tokens, [video for video, _ in noises], style)
        return self._follow(self.net, turn, tokens, noises, style)

    def _follow(self, net: nn.Module, turn: Turn, reference: torch.Tensor | None, noises: list[Pair],
                style: Style) -> list[Pair]:
        """With the orchestrator, as stage II rolls out."""
        first, config = turn.streams.chunks[0], self.planner.net.config
        history = turn.streams.mel[None, int(first[0]) - 2 * config.history_tokens: int(first[0])].astype(np.float32)
        start = Start([Transcript(self.planner.models, turn.streams, first, net.condition.config.past)], turn.last,
                      torch.from_numpy(history), [style] * len(noises), reference, None, None, noises[0][0].shape[1])
        return roll_out(net, self.planner, start, noises, self.steps, [None] * len(noises), nullcontext())[1]

    def _read(self, turn: Turn, reference: torch.Tensor, noises: list[Pair], style: Style) -> list[Pair]:
        """The monolith: the turn's text, and the number of the chunk."""
        motion = sink = None
        chunks = []
        for k, x in enumerate(noises):
            text = torch.from_numpy(text_of(turn.streams, 1, int(turn.last[0, k]), k))[None]
            for i in range(self.steps):
                t = torch.full((1,), i / self.steps)
                x = euler(x, self.net.velocity(Window(*x, reference, sink, motion), text, t, style), self.steps)
            motion, sink = x, sink or x
            chunks.append(x)
        return chunks

    def _draw(self, sounds: list[torch.Tensor], reference: torch.Tensor, noises: list[torch.Tensor],
              style: Style) -> list[Pair]:
        """The cascade's picture of finished sound."""
        motion = sink = None
        chunks = []
        for audio, x in zip(sounds, noises):
            for i in range(self.steps):
                t = torch.full((1,), i / self.steps)
                x = x + self.net.picture_velocity(x, audio, reference, sink, motion, t, style).float() / self.steps
            motion, sink = (x, audio), sink or (x, audio)
            chunks.append(motion)
        return chunks


@torch.inference_mode()
def sound_of(models: Models, chunks: list[Pair]) -> np.ndarray:
    """float32 samples that begin with the picture: the sound's tokens lead it."""
    lead = int(2 * models.denoiser.layout.audio_lead)
    silence = torch.full((1, lead, N_MELS), (SILENCE - MEAN) / STD)
    mel = torch.cat([silence, *(audio.reshape(1, -1, N_MELS).float() for _, audio in chunks)], 1)
    return models.vocoder(denormalize(mel))[0].clamp(-1, 1).numpy()


@torch.inference_mode()
def pictures_of(models: Models, character: CharacterFeatures, chunks: list[Pair]) -> np.ndarray:
    """uint8 (T, H, W, 4) with straight alpha."""
    previous, frames = None, []
    for video, _ in chunks:
        for latent in models.drawn_latents(models.denoiser.unpatchify(video.float()), previous):
            frames.append(models.draw(latent, latent if previous is None else previous, character))
            previous = latent
    return torch.cat(frames).numpy()
