"""The orchestrator's reading as one native call: transcript and history through the language model, on a CPU."""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ._native import native
from .language_model import LanguageModel, check
from .packed_linear import PackedLinear


class TranscriptReader:
    """States of a language model over [voice | window | history], and the pointer's keys of the window's units.

    A unit's embedding is the sum of its unit, stress, word start and place in the window; a token of history is a
    linear layer of its sound. Keys are ``key(state + embedding)``. A stream's result depends neither on the others in the
    call nor on the number of threads. Immutable; any number of threads may call it at once.

    Attributes:
        window, history_tokens, sound: units in sight, tokens of history, and numbers of each.
        model: the language model.
    """

    def __init__(self, model: LanguageModel, rope: Tensor, *, unit: Tensor, stress: Tensor, word_start: Tensor,
                 voice: Tensor, place: Tensor, history: PackedLinear, key: PackedLinear, absent: int) -> None:
        """``rope``: of all tokens, see ``LanguageModel``; ``place``: (window, width); ``unit``, ``stress``,
        ``word_start``, ``voice``: (ids, width); ``absent``: the unit that is none.

        Raises:
            ConfigError: on shapes that do not fit together.
        """
        given = unit, stress, word_start, voice, place, rope
        tables = [x.detach().to("cpu", torch.float32).contiguous() for x in given]
        turns = model.head_dim // 2, 2
        if any(x.ndim != 2 or x.shape[1] != model.width for x in tables[:5]) or rope.shape[1:] != turns:
            raise ConfigError(f"tables and rope are {[tuple(x.shape) for x in tables]}",
                              hint=f"(ids, {model.width}) and (tokens, *{turns})")
        self.model, self.history, self.key = model, history, key
        self.window, self.sound = place.shape[0], history.in_features
        self.history_tokens = rope.shape[0] - 1 - self.window
        try:
            self._native = native.TranscriptReader(model._native, [(x.data_ptr(), x.numel()) for x in tables],
                                                   history._packed, key._packed, absent)
        except ValueError as error:
            raise ConfigError(str(error), hint="see TranscriptReader") from None

    def __call__(self, units: Tensor, history: Tensor, voices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, 1 + window + history_tokens, width) and keys (B, window, width), float32, both zero where there is
        no unit, and where that is, bool (B, window).

        Args:
            units: int64 (B, window, 3): unit, stress and word start.
            history: float32 (B, history_tokens, sound).
            voices: int64 (B,).
            All are contiguous and on the CPU.

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit.
            IndexError: for a number that is in no table.
        """
        batch = units.shape[0]
        check("units", units, (batch, self.window, 3), torch.int64)
        check("history", history, (batch, self.history_tokens, self.sound))
        check("voices", voices, (batch,), torch.int64)
        memory = torch.empty(batch, 1 + self.window + self.history_tokens, self.model.width)
        keys = torch.empty(batch, self.window, self.model.width)
        padding = torch.empty(batch, self.window, dtype=torch.bool)
        self._native.run(batch, units.data_ptr(), history.data_ptr(), voices.data_ptr(), memory.data_ptr(),
                         keys.data_ptr(), padding.data_ptr())
        return memory, keys, padding

    def __repr__(self) -> str:
        return f"TranscriptReader({self.window} units, {self.history_tokens} tokens of history, {self.model})"
