"""The condition encoder as one native call, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native
from .language_model import check
from .packed_linear import PackedLinear


class ConditionEncoder:
    """``x += convolution(silu(x))`` over a stream's half-frames, from what each says; then several side by side become
    the denoiser's conditions.

    Equal to ``orchestrator.condition``'s encoder of ``alignment_features`` up to rounding. A stream's result depends
    neither on the others in the call nor on the number of threads. Immutable; any number of threads may call it at
    once.

    Attributes:
        width: channels of a half-frame.
        convolutions, to_audio, to_video: as they were given.
        audio, video: (first half-frame, results) of each.
    """

    def __init__(self, *, unit: Tensor, stress: Tensor, times: Tensor, voice: Tensor,
                 convolutions: Sequence[PackedLinear], to_audio: PackedLinear, to_video: PackedLinear,
                 longest: int, audio: tuple[int, int], video: tuple[int, int]) -> None:
        """``unit``, ``stress``, ``voice``: (ids, width), the last with the embedding's bias; ``times``: (4, width), for
        word start, half-frames since the unit began and until the next one as shares of ``longest``, at most 1, and how
        far it is through; ``convolutions``: an odd number of half-frames, one after another, to one.

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the encoder with torch")
        tables = [x.detach().to("cpu", torch.float32).contiguous() for x in (unit, stress, times, voice)]
        self.width = times.shape[-1]
        if any(x.ndim != 2 or x.shape[1] != self.width for x in tables) or len(times) != 4:
            raise ConfigError(f"tables are {[tuple(x.shape) for x in tables]}", hint="(ids, width), times (4, width)")
        self.convolutions, self.to_audio, self.to_video = list(convolutions), to_audio, to_video
        self.audio, self.video = audio, video
        try:
            self._native = native.ConditionEncoder(
                [(x.data_ptr(), x.numel()) for x in tables], [layer._packed for layer in convolutions],
                to_audio._packed, to_video._packed, longest, audio, video)
        except ValueError as error:
            raise ConfigError(str(error), hint="see ConditionEncoder") from None
        self._least = max(first + count * layer.in_features // self.width
                          for (first, count), layer in ((audio, to_audio), (video, to_video)))

    def __call__(self, rows: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions of picture and sound, float32 (B, results, output) each.

        Args:
            rows: int64 (B, T, 4), contiguous, on the CPU: unit, stress, word start, half-frames since the unit began.
            voices: int64 (B,).

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit.
            IndexError: for a number that is in no table.
        """
        if rows.ndim != 3 or rows.shape[1] < self._least:
            raise ConfigError(f"rows are {tuple(rows.shape)}", hint=f"(batch, {self._least} or more, 4)")
        batch, places = rows.shape[:2]
        check("rows", rows, (batch, places, 4), torch.int64)
        check("voices", voices, (batch,), torch.int64)
        video = torch.empty(batch, self.video[1], self.to_video.out_features)
        audio = torch.empty(batch, self.audio[1], self.to_audio.out_features)
        self._native.run(batch, places, rows.data_ptr(), voices.data_ptr(), video.data_ptr(), audio.data_ptr())
        return video, audio

    def __repr__(self) -> str:
        return f"ConditionEncoder({len(self.convolutions)} x {self.width})"
