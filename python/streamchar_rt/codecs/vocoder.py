"""Mel frames to samples: a causal ConvNeXt that predicts magnitude and phase for an inverse STFT.

After Vocos (Siuzdak 2023), made streamable: every convolution looks back only, except the first, which
looks ``LOOKAHEAD`` frames ahead; the overlap-add tail is carried between calls. So decoding a stream in
pieces gives the same samples as decoding it whole.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from .. import ops
from .mel import HOP, N_FFT, N_MELS, SAMPLE_RATE

LOOKAHEAD = 2        # frames ahead seen by the first convolution
KERNEL = 7


@dataclass(frozen=True)
class VocoderConfig:
    width: int = 192
    hidden: int = 512
    depth: int = 8
    sample_rate: int = SAMPLE_RATE
    hop: int = HOP               # samples from one mel frame to the next: half a video frame
    n_fft: int = N_FFT
    mel_bins: int = N_MELS

    @property
    def rest(self) -> int:
        """Samples of a window beyond its hop."""
        return self.n_fft - self.hop

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class VocoderState:
    """What decoding carries from call to call: never written again, so that streams may share it. All tensors have a
    leading batch dimension."""
    inputs: torch.Tensor | None = None                       # (B, mel_bins, KERNEL - 1)
    blocks: list[torch.Tensor] = field(default_factory=list)  # each (B, width, KERNEL - 1)
    tail: torch.Tensor | None = None                         # (B, n_fft - hop) samples not yet complete
    weight: torch.Tensor | None = None                       # (n_fft - hop,) their window sum


class _Block(nn.Module):
    """ConvNeXt block, channels first: causal depthwise convolution, norm, two pointwise layers."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = torch.cat([past, x], 2)                           # (B, C, KERNEL - 1 + T)
        y = self.norm(self.depthwise(seen).transpose(1, 2))      # (B, T, C)
        y = self.contract(F.gelu(self.expand(y))) * self.scale
        return x + y.transpose(1, 2), seen[..., -(KERNEL - 1):].clone()        # without all that was seen


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig = VocoderConfig()):
        super().__init__()
        self.config = config
        self.embed = nn.Conv1d(config.mel_bins, config.width, KERNEL)
        self.embed_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(_Block(config.width, config.hidden) for _ in range(config.depth))
        self.final_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def start(self, batch: int = 1, device: torch.device | str = "cpu") -> VocoderState:
        """State before the first frame of a stream that was silent until now."""
        width, rest, floor = self.config.width, self.config.rest, -2.0
        return VocoderState(
            torch.full((batch, self.config.mel_bins, KERNEL - 1 - LOOKAHEAD), floor, device=device),
            [torch.zeros(batch, width, KERNEL - 1, device=device) for _ in self.blocks],
            torch.zeros(batch, rest, device=device), torch.zeros(rest, device=device))

    def spectrum(self, mel: torch.Tensor, state: VocoderState) -> tuple[torch.Tensor, VocoderState]:
        """``mel``: log-mel (B, T, mel_bins). Returns complex frames (B, n_fft // 2 + 1, T') and the new state."""
        seen = torch.cat([state.inputs, (mel / 2.5 + 2.0).transpose(1, 2)], 2)
        if seen.shape[2] < KERNEL:
            return torch.zeros(len(mel), self.config.n_fft // 2 + 1, 0, dtype=torch.complex64, device=mel.device), \
                VocoderState(seen, state.blocks, state.tail, state.weight)
        x = self.embed_norm(self.embed(seen).transpose(1, 2)).transpose(1, 2)
        past = []
        for block, memory in zip(self.blocks, state.blocks):
            x, memory = block(x, memory)
            past.append(memory)
        x = self.head(self.final_norm(x.transpose(1, 2))).transpose(1, 2).float()
        magnitude, phase = x.chunk(2, 1)
        frames = torch.polar(magnitude.clamp(max=6.0).exp(), phase)
        return frames, VocoderState(seen[..., -(KERNEL - 1):], past, state.tail, state.weight)

    def overlap_add(self, frames: torch.Tensor, state: VocoderState) -> tuple[torch.Tensor, VocoderState]:
        """Windowed inverse FFTs added up; returns the samples that are complete, (B, hop * T)."""
        count = frames.shape[2]
        if count == 0:
            return frames.new_zeros(len(frames), 0, dtype=torch.float32), state
        if frames.is_cpu:
            samples, tail, weight = ops.istft_overlap_add(frames, self.window, self.config.hop, state.tail, state.weight)
            return samples, VocoderState(state.inputs, state.blocks, tail, weight)
        window, hop, n_fft, rest = self.window, self.config.hop, self.config.n_fft, self.config.rest
        pieces = torch.fft.irfft(frames, n_fft, dim=1) * window[None, :, None]
        size = (1, (count - 1) * hop + n_fft)
        total = F.fold(pieces, size, (1, n_fft), stride=(1, hop))[:, 0, 0]
        squares = (window ** 2)[None, :, None].expand(1, n_fft, count)
        weight = F.fold(squares, size, (1, n_fft), stride=(1, hop))[0, 0, 0]
        total = torch.cat([total[:, :rest] + state.tail, total[:, rest:]], 1)
        weight = torch.cat([weight[:rest] + state.weight, weight[rest:]])
        done = count * hop
        samples = total[:, :done] / weight[:done].clamp(min=1e-3)
        return samples, VocoderState(state.inputs, state.blocks, total[:, done:], weight[done:])

    def stream(self, mel: torch.Tensor, state: VocoderState) -> tuple[torch.Tensor, VocoderState]:
        """Decode the next frames of a stream.

        ``mel``: log-mel (B, T, mel_bins). Returns float32 samples (B, hop * T') and the new state. The samples
        of frame i's hop begin ``rest // 2`` samples late: see ``DELAY``.
        """
        frames, state = self.spectrum(mel, state)
        return self.overlap_add(frames, state)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Whole decoding, (B, T, mel_bins) to (B, T * hop) samples, aligned with the mel frames."""
        padded = F.pad(mel.transpose(1, 2), (0, LOOKAHEAD + 2), mode="replicate").transpose(1, 2)
        samples, _ = self.stream(padded, self.start(len(mel), mel.device))
        lead = self.config.rest // 2
        return samples[:, lead: lead + mel.shape[1] * self.config.hop]


#: Samples by which ``stream``'s output lags its input frames in the default configuration: the first output sample
#: belongs to time ``-rest // 2`` and ``LOOKAHEAD`` frames are still inside the network.
DELAY = LOOKAHEAD * HOP + (N_FFT - HOP) // 2
