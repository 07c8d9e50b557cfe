"""The sound's velocity from the denoiser's last layer, mended where it would lose sound, on a CPU."""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native, needs_gradient
from .language_model import check


def audible_velocity(residual: Tensor, noisy: Tensor, mean: Tensor, t: float, *, variance: float, frames: int,
                     lost: float, span: int) -> Tensor:
    """``JointDiT.audible_velocity`` for a given mean of the clean tokens, in float32. A stream's result depends on that
    stream alone.

    Args:
        residual, noisy, mean: float32 (B, T, channels), contiguous, on the CPU.
        t: flow time, from 0 to below 1, of all.
        variance: of the clean tokens about their mean.
        frames: of mel, in a token.
        lost, span: by how much sound may be quieter than its mean, over how many frames (odd).

    Raises:
        ConfigError: on shapes, dtypes or numbers that do not fit, or where a gradient is wanted.
        UnsupportedError: without the native module.
    """
    if native is None:
        raise UnsupportedError(f"no native module: {load_error}", hint="run it with torch")
    if noisy.ndim != 3 or frames < 1 or noisy.shape[2] % frames or not 0 <= t < 1 or span % 2 == 0 or not lost > 0:
        raise ConfigError(f"noisy is {tuple(noisy.shape)}, t is {t}", hint="(batch, tokens, frames * bins), 0 <= t < 1")
    for name, x in (("residual", residual), ("noisy", noisy), ("mean", mean)):
        check(name, x, tuple(noisy.shape))
    if needs_gradient(residual, noisy, mean):
        raise ConfigError("a native op gives no gradient", hint="use torch.inference_mode()")
    out = torch.empty(noisy.shape)
    batch, tokens, channels = noisy.shape
    native.audible_velocity(batch, tokens * frames, channels // frames, span, lost, t, variance, residual.data_ptr(),
                            noisy.data_ptr(), mean.data_ptr(), out.data_ptr())
    return out
