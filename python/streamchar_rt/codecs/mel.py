"""Log-mel analysis that the audio stream is made of."""
from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

SAMPLE_RATE = 16_000
HOP = 320            # 50 frames a second
N_FFT = 1024
N_MELS = 80
FLOOR = 1e-5
SILENCE = math.log(FLOOR)
# Statistics of the studio's speech: the denoiser sees (log_mel - MEAN) / STD.
MEAN, STD = -5.0, 2.5


def mel_filterbank(sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT, n_mels: int = N_MELS) -> torch.Tensor:
    """Triangular HTK mel filters from 0 Hz to Nyquist, float32 (n_mels, n_fft // 2 + 1)."""
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    points = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    left, centre, right = points[:-2, None], points[1:-1, None], points[2:, None]
    rise, fall = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.from_numpy(np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32))


_FILTERS = mel_filterbank()
_WINDOW = torch.hann_window(N_FFT)


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """Natural-log mel magnitudes.

    ``samples``: float32 (..., S) in [-1, 1]. Returns float32 (..., S // HOP, N_MELS); frame i is
    centred on sample ``(i + 0.5) * HOP``.
    """
    lead = samples.shape[:-1]
    x = samples.reshape(-1, samples.shape[-1]).float()
    x = F.pad(x, ((N_FFT - HOP) // 2, (N_FFT - HOP) // 2))
    spectrum = torch.stft(x, N_FFT, HOP, N_FFT, _WINDOW.to(x.device), center=False, return_complex=True).abs()
    mel = (_FILTERS.to(x.device) @ spectrum).clamp(min=FLOOR).log()
    return mel.transpose(1, 2).reshape(*lead, -1, N_MELS)


def normalize(mel: torch.Tensor) -> torch.Tensor:
    """Log-mel to the denoiser's scale."""
    return (mel - MEAN) / STD


def denormalize(latent: torch.Tensor) -> torch.Tensor:
    """The denoiser's scale back to log-mel."""
    return latent * STD + MEAN
