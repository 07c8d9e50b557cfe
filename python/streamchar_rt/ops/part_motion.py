"""The small network that reads what the parts of a picture do from the code of a latent's movement, on a CPU."""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native


class PartMotion:
    """``reach * (second(silu(first(f))) + steady(f))`` of every frame's fields ``f``, in float32.

    The fields are linear in the code: the mean over 2 x 2 cells, by the parity of rows and columns, of a latent's first
    channels.

    Immutable; any number of threads may call it at once.

    Attributes:
        channels, frames, inputs, parts: the code's channels, frames of a latent, fields of a frame, parts.
    """

    def __init__(self, read: Tensor, first: torch.nn.Linear, second: torch.nn.Linear, steady: torch.nn.Linear,
                 reach: float) -> None:
        """Copies the weights, of any floating dtype, on the CPU.

        ``read``: (frames, inputs, 4 * channels), what the fields are of the code, whose number (channel * 2 + y % 2) * 2
        + x % 2 is the mean of those cells; ``first``, ``second``: with bias; ``steady``: without; outputs are (parts,
        2, 3).

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the layers with torch")
        frames, inputs, codes = read.shape if read.ndim == 3 else (0, 0, 0)
        hidden, outputs = first.weight.shape[0], second.weight.shape[0]
        if not frames or not codes or codes % 4 or not outputs or outputs % 6 or not hidden \
                or first.weight.shape != (hidden, inputs) or second.weight.shape != (outputs, hidden) \
                or steady.weight.shape != (outputs, inputs) or first.bias is None or second.bias is None \
                or steady.bias is not None:
            raise ConfigError(
                f"read is {tuple(read.shape)}, the layers {first}, {second}, {steady}",
                hint="(frames, inputs, 4 * channels), inputs -> hidden -> 6 * parts with bias, inputs -> 6 * parts without",
            )
        self.channels, self.frames, self.inputs, self.parts = codes // 4, frames, inputs, outputs // 6
        weights = [t.detach().to("cpu", torch.float32).contiguous() for t in (
            read, first.weight, first.bias, second.weight, second.bias, steady.weight)]
        self._native = native.PartMotion(
            self.channels, frames, inputs, hidden, self.parts, *(t.data_ptr() for t in weights), reach)

    def __call__(self, latent: Tensor) -> Tensor:
        """(frames, parts, 2, 3) of one latent, float32 (channels or more, h, w) contiguous, h and w even.

        Raises:
            ConfigError: on another shape or dtype.
        """
        if latent.ndim != 3 or latent.shape[0] < self.channels or latent.shape[1] % 2 or latent.shape[2] % 2 \
                or not latent.numel() or latent.dtype is not torch.float32 or not latent.is_cpu \
                or not latent.is_contiguous():
            raise ConfigError(
                f"latent is {tuple(latent.shape)} {latent.dtype}",
                hint=f"contiguous float32 ({self.channels} or more, rows, columns), both even, on the CPU",
            )
        motion = torch.empty(self.frames, self.parts, 2, 3)
        self._native.apply(latent.data_ptr(), *latent.shape[1:], motion.data_ptr())
        return motion
