"""The baseline without an orchestrator: the transcript goes straight into the DiT, which must find its own place.

The turn's units, from its first one on, are a segment of the context that every token attends to. Beside its unit a
text token has its place in the turn, and how far that is, at the pace of an average phone, from the chunk that is being
generated; nothing else says what has been spoken, but for the motion frames' sound. An encoder of about the size of
the orchestrator and the condition encoder stands in for both.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

from streamchar_rt.denoiser.dit import DiTConfig, JointDiT, SegmentAttention, Style, Window
from streamchar_rt.denoiser.layout import rotary_table
from streamchar_rt.orchestrator.units import END, NUM_UNITS, PAD

from .batches import StreamSampler
from .denoiser import flow_errors, flow_times
from .streams import CHUNK, Streams

TEXT = 96            # units of a turn that are seen
PACE = 4             # half-frames of an average phone
_WAVES = 32


def turn_of(streams: Streams, at: int, place: int, last: int) -> tuple[int, int]:
    """The first unit of the turn that a chunk at half-frame ``at`` belongs to, and the chunk's number in it.

    ``place``: the unit spoken just before the chunk; ``last``: the last one that has been pushed. A turn's text is
    pushed at the chunk in which its first sound falls.
    """
    ends = np.flatnonzero(streams.unit[max(0, place - 600): place + 1] == END)
    first = max(0, place - 600) + int(ends[-1]) + 1 if len(ends) else place
    if first > last:
        return first, 0
    begin = int(np.searchsorted(streams.place, first))
    return first, max(0, -(-(at - begin) // CHUNK))


def text_of(streams: Streams, first: int, last: int, number: int) -> np.ndarray:
    """Units ``first`` to ``last`` as int64 (TEXT, 4) for the turn's chunk ``number``; PAD behind them."""
    out = np.zeros((TEXT, 4), np.int64)
    out[:, 0], out[:, 3] = PAD, number
    stop = min(first + TEXT, last + 1)
    if stop > first:
        columns = (streams.unit[first:stop], streams.stress[first:stop], streams.word_start[first:stop])
        out[: stop - first, :3] = np.stack(columns, 1)
    return out


class TextSampler(StreamSampler):
    """``features`` are the turn's text: int64 (B, TEXT, 4) of unit, stress, word start and the chunk's number."""

    def features(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.text(*map(int, row[[0, 3]])) for row in rows]))

    def text(self, at: int, last: int) -> np.ndarray:
        first, number = turn_of(self.streams, at, int(self.streams.place[at - 1]), last)
        return text_of(self.streams, first, last, number)


def waves(x: torch.Tensor) -> torch.Tensor:
    """Sines and cosines (..., 64) of places (...), with periods of 6 to 1200."""
    rates = torch.exp(torch.linspace(0, -5.3, _WAVES, device=x.device))
    angles = x[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class TextEncoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int = 4):
        super().__init__()
        self.unit, self.stress = nn.Embedding(NUM_UNITS, width), nn.Embedding(3, width)
        self.word_start = nn.Embedding(2, width)
        self.place = nn.Linear(4 * _WAVES, width)
        layer = nn.TransformerEncoderLayer(width, heads, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """``TextSampler.features`` to tokens (B, TEXT, width)."""
        unit, stress, word_start, number = text.unbind(-1)
        place = torch.arange(text.shape[1], device=text.device).expand_as(unit)
        distance = (PACE * place - CHUNK * number) / PACE
        x = self.unit(unit) + self.stress(stress) + self.word_start(word_start)
        return self.layers(x + self.place(torch.cat([waves(place), waves(distance)], -1)))


class Monolith(nn.Module):
    """Nothing says the mean of the sound, so the velocity is preconditioned for sound of variance 1."""

    def __init__(self, config: DiTConfig = DiTConfig(audio_variance=1.0), text_layers: int = 6):
        super().__init__()
        self.dit = JointDiT(config)
        self.text = TextEncoder(config.width, text_layers, config.heads)

    def velocity(self, window: Window, text: torch.Tensor, t: torch.Tensor,
                 style: Style) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``windowed_velocity``, with the text as one more segment; its batch is the context's."""
        dit, layout, device = self.dit, self.dit.config.layout, window.audio.device
        tokens = self.text(text)
        still = rotary_table(layout, torch.zeros(tokens.shape[1], 3))
        segment = SegmentAttention(tuple(x.to(device) for x in still), 0)
        clean = dit.modulations(dit.vector(torch.ones(1, device=device), None))
        dit.run((tokens[:, :0], tokens), clean, segment)
        context = [segment]
        if window.reference is not None:
            context.append(dit.context_pass(*dit.embed_reference(window.reference), layout.reference_distance))
        for pair, distance in ((window.sink, layout.sink_distance), (window.motion, layout.motion_distance)):
            if pair is not None:
                context.append(dit.context_pass(*dit.embed(*pair), distance))
        tokens = dit.embed(window.video, window.audio)
        vector = dit.vector(t, style)
        attend = SegmentAttention(dit.rotation(tokens), tokens[0].shape[1], context)
        video, residual = dit.project(dit.run(tokens, dit.modulations(vector), attend), dit.final(vector))
        nothing = window.audio.new_zeros(*window.audio.shape[:2], dit.config.width)
        return video, dit.audio_velocity(residual, window.audio, nothing.to(residual.dtype), t)

    def losses(self, batch, draws: int, autocast, movement: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """As ``denoiser.losses``, of a batch whose features are text."""
        video, audio, (reference, sink, motion), text, style = batch
        share = lambda x: x.repeat_interleave(draws, 0)
        video, audio = share(video), share(audio)
        style = Style(share(style.voice), share(style.emotion), share(style.mode))
        t = flow_times(len(audio), audio.device)
        mix = t[:, None, None]
        noise_v, noise_a = torch.randn_like(video), torch.randn_like(audio)
        with autocast:
            noisy = (1 - mix) * noise_v + mix * video, (1 - mix) * noise_a + mix * audio
            window = Window(*noisy, reference, sink, motion)
            found = self.velocity(window, text, t, style)
        loss_v, loss_a = flow_errors(self.dit.config, found, (video - noise_v, audio - noise_a), t,
                                     torch.ones_like(mix), movement)
        if not video.shape[1]:
            return {"loss": loss_a, "audio_only": loss_a}
        return {"loss": loss_a + loss_v, "video": loss_v, "audio": loss_a}
